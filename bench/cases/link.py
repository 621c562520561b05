"""Benchmark cases of the link loss: their inputs, and the least work of scores and loss on them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.link.pair_columns import COLUMNS

LEAVES = ("embedded", "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out")
FEATURES, NEGATIVES = COLUMNS, 20  # of the cases that have features of pairs, or several negatives


def _link(batch: RandomBatch, numbers: Numbers, features: int, negatives: int, softmax: bool) -> dict[str, Any]:
    """Inputs of a full batch; its count is on the device, as in resident training."""
    dim, events, scale = batch.shape.dim, batch.shape.batch, batch.shape.dim**-0.5
    return {
        "embedded": numbers.normal((2 + negatives) * events, dim),
        "pairs": numbers.normal(events, 1 + negatives, features) if features else None,
        "count": torch.tensor([events]),
        "weight_src": numbers.normal(dim, dim, scale=scale), "bias_src": numbers.normal(dim, scale=0.1),
        "weight_dst": numbers.normal(dim, dim, scale=scale), "bias_dst": numbers.normal(dim, scale=0.1),
        "weight_out": numbers.normal(1, dim, scale=scale), "bias_out": numbers.normal(1, scale=0.1),
        "weight_pair": numbers.normal(dim, features, scale=scale) if features else None,
        "negatives": negatives, "log_weights": numbers.normal(events, negatives) if softmax else None,
    }  # fmt: skip


def _link_work(batch: RandomBatch, table: int, compute: int, features: int, negatives: int) -> Work:
    """Products: each of an event's rows with a weight, and each pair's features with theirs. Reads: rows, features and
    weights once. Writes: a score per candidate. Training's backward pass computes the gradients of rows and weights
    from rows, features and weights, read again, and from the stored hidden row of each candidate, and writes all of
    them."""
    dim, events = batch.shape.dim, batch.shape.batch
    rows, scores = (2 + negatives) * events, (1 + negatives) * events
    weights, pairs = dim * (2 * dim + features + 3) + 1, scores * features
    products, pair_products = 2 * rows * dim * dim, 2 * pairs * dim
    return Work(
        (rows * dim + pairs + weights + scores + 1) * compute,
        products + pair_products,
        (2 * rows * dim + pairs + 2 * weights + scores * (dim + 1) + 1) * compute,
        2 * products + pair_products,
    )


def _case(features: int, negatives: int, softmax: bool = False) -> Operation:
    leaves = (*LEAVES, *(("weight_pair",) if features else ()))
    return Operation(
        "link_loss",
        functools.partial(_link, features=features, negatives=negatives, softmax=softmax),
        functools.partial(_link_work, features=features, negatives=negatives),
        ("loss", "scores"),
        leaves=leaves,
        trained=leaves,
        indices=("count",),
        fuses=False,
    )


LINK_LOSS = {
    "link_loss": _case(0, 1),
    "link_loss-pairs": _case(FEATURES, 1),
    "link_loss-softmax": _case(FEATURES, NEGATIVES, softmax=True),
}
