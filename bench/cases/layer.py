"""The attention layer for its benchmark: its inputs, and the least work that it must do on them."""

from __future__ import annotations

from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.attention.layer_weights import PARAMETERS
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies


def _heads(dim: int) -> int:
    """Two, where they divide the width."""
    return 2 if dim % 2 == 0 else 1


def _layer(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Parameters as large as trained ones: rows of weights that leave a product's scale alone."""
    shape, dim = at.shape, at.shape.dim
    width = dim + shape.features + shape.times
    across = {"query": dim + shape.times, "key": width, "value": width, "output": 2 * dim}
    parameters: dict[str, torch.Tensor] = {}
    for name, columns in across.items():
        parameters[f"{name}_weight"] = numbers.normal(dim, columns, scale=columns**-0.5)
        parameters[f"{name}_bias"] = numbers.normal(dim, scale=0.1)
    return {
        "table": numbers.table(at.distinct.numel(), dim), "root_rows": at.root_rows, "distinct": _queries(at),
        "rows": at.inverse[at.roots.numel() :].view(-1, shape.fanout),
        "features": numbers.table(shape.events, shape.features), "feature_rows": at.events,
        "deltas": at.deltas.to(numbers.dtype), "counts": at.counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        **parameters, "norm_weight": 1 + numbers.normal(dim, scale=0.1), "norm_bias": numbers.normal(dim, scale=0.1),
        "heads": _heads(dim),
    }  # fmt: skip


def _queries(at: RandomBatch) -> int:
    """Distinct roots, which are the head of the distinct nodes."""
    return int(at.root_rows.max()) + 1


def _layer_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A filled slot's x = [h ‖ e ‖ φ] meets each head's query and is added to each head's context. A distinct root's h
    meets W_q and W_o, its query W_k; a root's context meets W_v, what comes of that W_o. h is read once a node, e once
    an event. Training's backward pass reads the same and z's gradient, does every product's two, and writes the
    gradients of table and parameters (cosines, softmax and norm are not counted)."""
    shape, roots, slots, queries, dim = at.shape, at.roots.numel(), at.deltas.numel(), _queries(at), at.shape.dim
    width = dim + shape.features + shape.times
    events = at.events[at.events >= 0].unique().numel()
    nodes = at.distinct.numel() * dim * table
    parameters = (dim * (dim + shape.times + 2 * width + 2 * dim + 6) + 2 * shape.times) * compute
    read = nodes + events * shape.features * table + slots * (8 + 8 + compute) + roots * 2 * 8 + parameters
    embedded = roots * dim * compute
    products = 2 * dim * (queries * (2 * dim + width) + roots * (width + dim))
    attention = 4 * at.filled * _heads(dim)
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
