"""Benchmark case of the link loss: its inputs, and the least work of scores and loss on them."""

from __future__ import annotations

from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch

LEAVES = ("embedded", "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out")


def _link(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Inputs of a full batch; its count is on the device, as in resident training."""
    dim, scale = batch.shape.dim, batch.shape.dim**-0.5
    return {
        "embedded": numbers.normal(batch.roots.numel(), dim), "count": torch.tensor([batch.shape.batch]),
        "weight_src": numbers.normal(dim, dim, scale=scale), "bias_src": numbers.normal(dim, scale=0.1),
        "weight_dst": numbers.normal(dim, dim, scale=scale), "bias_dst": numbers.normal(dim, scale=0.1),
        "weight_out": numbers.normal(1, dim, scale=scale), "bias_out": numbers.normal(1, scale=0.1),
    }  # fmt: skip


def _link_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: each of an event's three rows with a weight. Reads: rows and weights once. Writes: two scores per
    event. Training's backward pass computes the gradients of rows and weights from both, read again, and from the two
    stored hidden rows, and writes all of them."""
    dim, rows = batch.shape.dim, batch.roots.numel()
    weights, scores = 2 * dim * dim + 3 * dim + 1, 2 * batch.shape.batch
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
