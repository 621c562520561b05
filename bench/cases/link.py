"""The link predictor's inputs for its benchmark, and the least work that its scores and loss must do on them."""

from __future__ import annotations

from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch

LEAVES = ("embedded", "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out")


def _link(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """A full batch, whose count is on the device as in resident training."""
    dim, scale = at.shape.dim, at.shape.dim**-0.5
    return {
        "embedded": numbers.normal(at.roots.numel(), dim), "count": torch.tensor([at.shape.batch]),
        "weight_src": numbers.normal(dim, dim, scale=scale), "bias_src": numbers.normal(dim, scale=0.1),
        "weight_dst": numbers.normal(dim, dim, scale=scale), "bias_dst": numbers.normal(dim, scale=0.1),
        "weight_out": numbers.normal(1, dim, scale=scale), "bias_out": numbers.normal(1, scale=0.1),
    }  # fmt: skip


def _link_work(at: RandomBatch, table: int, compute: int) -> Work:
    """Each of an event's three rows meets a weight; it is read once, as are the weights, and two scores are written.
    Training's backward pass: a row's gradient and its share of a weight's, from the rows and weights read again and the
    two hidden rows kept; the gradients of all of them are written."""
    dim, rows = at.shape.dim, at.roots.numel()
    weights, scores = 2 * dim * dim + 3 * dim + 1, 2 * at.shape.batch
    products = 2 * rows * dim * dim
    return Work(
        (rows * dim + weights + scores + 1) * compute,
        products,
        (2 * rows * dim + 2 * weights + scores * (dim + 1) + 1) * compute,
        2 * products,
    )


LINK_LOSS = Operation(
    "link_loss",
    _link,
    _link_work,
    ("loss", "scores"),
    leaves=LEAVES,
    trained=LEAVES,
    indices=("count",),
    fuses=False,
)
