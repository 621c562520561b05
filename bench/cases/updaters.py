"""Benchmark cases of the memory updaters: their inputs, and the least work on them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _updater(batch: RandomBatch, numbers: Numbers, gates: int) -> dict[str, Any]:
    shape, rows = batch.shape, batch.distinct
    width = 2 * shape.dim + shape.features + shape.times
    # A node's mail comes from its last event.
    last = batch.csr["event_ids"][(batch.csr["indptr"][1:] - 1).clamp(min=0)].long()
    has_mail = batch.degree[rows] > 0
    # Weights as small as trained ones, so that the gates do not saturate.
    weights = {
        "weight_ih": numbers.normal(gates * shape.dim, width, scale=width**-0.5),
        "weight_hh": numbers.normal(gates * shape.dim, shape.dim, scale=shape.dim**-0.5),
        "bias_ih": numbers.normal(gates * shape.dim, scale=0.1),
        "bias_hh": numbers.normal(gates * shape.dim, scale=0.1),
    }
    return {
        "memory": numbers.table(shape.nodes, shape.dim), "memory_rows": rows,
        "partner": numbers.table(shape.nodes, shape.dim), "partner_rows": rows,
        "features": numbers.table(shape.events, shape.features), "feature_rows": torch.where(has_mail, last[rows], -1),
        "deltas": numbers.seconds(rows.numel()).to(numbers.dtype), "has_mail": has_mail,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times), **weights,
    }  # fmt: skip


def _gru_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: a node's x = [m ‖ p ‖ e ‖ φ] with W_i (r, z, n), which includes W_h of r and z; m with W_hn. Reads: the
    rows of x. Training's backward pass: the two weight gradients, from x, read again, and the four stored gates."""
    width, rows, weights, hidden = _traffic(batch, table, compute, 3)
    products = 2 * batch.distinct.numel() * batch.shape.dim * (3 * width + batch.shape.dim)
    return Work(rows + weights + hidden, products, rows + hidden + 2 * 4 * hidden + weights, products)


def _rnn_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: a node's x = [m ‖ p ‖ e ‖ φ] with W_i, which includes W_h. Reads: the rows of x. Training's backward
    pass: one product for both weight gradients, from x, read again, h and its gradient."""
    width, rows, weights, hidden = _traffic(batch, table, compute, 1)
    products = 2 * batch.distinct.numel() * batch.shape.dim * width
    return Work(rows + weights + hidden, products, rows + 2 * hidden + weights, products)


def _traffic(batch: RandomBatch, table: int, compute: int, gates: int) -> tuple[int, int, int, int]:
    """Numbers per message, and bytes of the rows that make up all messages, of the weights, and of h."""
    shape, nodes = batch.shape, batch.distinct.numel()
    width = 2 * shape.dim + shape.features + shape.times
    rows = nodes * ((2 * shape.dim + shape.features) * table + 3 * 8 + compute + 1)
    weights = (gates * shape.dim * (width + shape.dim + 2) + 2 * shape.times) * compute
    return width, rows, weights, nodes * shape.dim * compute


UPDATERS = {
    name: Operation(
        name,
        functools.partial(_updater, gates=gates),
        work,
        ("h",),
        leaves=("memory", "partner", "features", "frequency", "phase", *WEIGHTS),
        trained=WEIGHTS,
        indices=("memory_rows", "partner_rows", "feature_rows"),
        tables=("memory", "partner", "features"),
    )
    for name, gates, work in (("memory_gru", 3, _gru_work), ("memory_rnn", 1, _rnn_work))
}
