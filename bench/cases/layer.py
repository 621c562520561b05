"""Benchmark case of the attention layer: its inputs, and its least work on them."""

from __future__ import annotations

from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.attention.layer_weights import PARAMETERS
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies


def _heads(dim: int) -> int:
    """Two heads if they divide the width, else one."""
    return 2 if dim % 2 == 0 else 1


def _layer(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Inputs of the layer. Weights are as large as trained ones, so that a product keeps the scale of its input."""
    shape, dim = batch.shape, batch.shape.dim
    width = dim + shape.features + shape.times
    columns = {"query": dim + shape.times, "key": width, "value": width, "output": 2 * dim}
    parameters: dict[str, torch.Tensor] = {}
    for name, number in columns.items():
        parameters[f"{name}_weight"] = numbers.normal(dim, number, scale=number**-0.5)
        parameters[f"{name}_bias"] = numbers.normal(dim, scale=0.1)
    return {
        "table": numbers.table(batch.distinct.numel(), dim), "root_rows": batch.root_rows, "distinct": _queries(batch),
        "rows": batch.inverse[batch.roots.numel() :].view(-1, shape.fanout),
        "features": numbers.table(shape.events, shape.features), "feature_rows": batch.events,
        "deltas": batch.deltas.to(numbers.dtype), "counts": batch.counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        **parameters, "norm_weight": 1 + numbers.normal(dim, scale=0.1), "norm_bias": numbers.normal(dim, scale=0.1),
        "heads": _heads(dim),
    }  # fmt: skip


def _queries(batch: RandomBatch) -> int:
    """Number of distinct roots, which come first among the distinct nodes."""
    return int(batch.root_rows.max()) + 1


def _layer_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: a filled slot's x = [h ‖ e ‖ φ] with each head's query, and added to each head's context; a distinct
    root's h with W_q and W_o, its query with W_k; a root's context with W_v, and the result with W_o. Reads: h once per
    node, e once per event. Training's backward pass reads the same and z's gradient, does two products for each one,
    and writes the gradients of table and parameters. Cosines, softmax and norm are not counted."""
    shape, dim, queries = batch.shape, batch.shape.dim, _queries(batch)
    roots, slots = batch.roots.numel(), batch.deltas.numel()
    width = dim + shape.features + shape.times
    events = batch.events[batch.events >= 0].unique().numel()
    nodes = batch.distinct.numel() * dim * table
    parameters = (dim * (dim + shape.times + 2 * width + 2 * dim + 6) + 2 * shape.times) * compute
    read = nodes + events * shape.features * table + slots * (8 + 8 + compute) + roots * 2 * 8 + parameters
    embedded = roots * dim * compute
    products = 2 * dim * (queries * (2 * dim + width) + roots * (width + dim))
    attention = 4 * batch.filled * _heads(dim)
    return Work(
        read + embedded,
        products + attention * width,
        read + embedded + nodes + parameters,
        2 * products + attention * (width + dim),
    )


ATTENTION_LAYER = Operation(
    "attention_layer",
    _layer,
    _layer_work,
    ("z",),
    leaves=("table", "frequency", "phase", *PARAMETERS),
    trained=("table", *PARAMETERS),
    indices=("root_rows", "rows", "feature_rows", "counts"),
    tables=("features",),
)
