"""Benchmark cases of the operations that start a batch on the device: drawing events, looking up mail, dropout."""

from __future__ import annotations

import math
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch

PADDING = 0.3  # unused rows of static shapes, as a share of the distinct nodes


def _words(numbers: Numbers) -> torch.Tensor:
    return torch.randint(0, 2**31, (4,), generator=numbers.random, device=numbers.device)


def _draw(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Arguments that draw the stream's last batch. An event's two ends own its two entries, in either order."""
    events, size, order = batch.shape.events, batch.shape.batch, batch.csr["event_ids"].argsort(stable=True)
    ends = batch.csr["neighbours"][order].long().view(-1, 2)
    return {
        "src": ends[:, 0].contiguous(), "dst": ends[:, 1].contiguous(), "times": batch.csr["times"][order[::2]],
        "destinations": ends[:, 1].unique(), "span": torch.tensor([events - size, events]), "draws": _words(numbers),
        "size": size,
    }  # fmt: skip


def _draw_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads per event: two ends, a time, two destinations. Writes: three roots, their times and the event's number."""
    return Work(2 * 8 + 4 * 8 + batch.shape.batch * (5 * 8 + 3 * 2 * 8 + 8) + 8)


def _padding(batch: RandomBatch) -> int:
    return math.ceil(PADDING * batch.distinct.numel())


def _mail(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Mail of each node's last event, if it has one, with padding after the distinct nodes."""
    last = batch.csr["event_ids"][(batch.csr["indptr"][1:] - 1).clamp(min=0)].long()
    return {
        "nodes": torch.cat([batch.distinct, batch.distinct.new_full((_padding(batch),), -1)]),
        "memory_time": numbers.seconds(batch.shape.nodes), "event_id": torch.where(batch.degree > 0, last, -1),
        "mail_time": numbers.seconds(batch.shape.nodes), "dtype": numbers.dtype,
    }  # fmt: skip


def _mail_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads per real node: event, memory time, and the mail's time if it has mail. Writes: four results per row."""
    nodes, mails = batch.distinct.numel(), int((batch.degree[batch.distinct] > 0).sum())
    return Work(nodes * 2 * 8 + mails * 8 + (nodes + _padding(batch)) * (8 + 8 + compute + 1 + 8))


def _dropout(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Dropout of the roots' embeddings."""
    shape = (batch.roots.numel(), batch.shape.dim)
    return {"draws": _words(numbers), "shape": shape, "probability": 0.1, "dtype": numbers.dtype}


def _dropout_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Writes: the multipliers. Drawing them needs only integer operations."""
    return Work(4 * 8 + batch.roots.numel() * batch.shape.dim * compute)


BATCH = {
    "draw_batch": Operation(
        "draw_batch", _draw, _draw_work, ("roots", "root_times", "events", "count"),
        indices=("src", "dst", "destinations"), fuses=False,
    ),
    "fetch_mail": Operation(
        "fetch_mail", _mail, _mail_work, ("events", "deltas", "has_mail", "digested_time"), indices=("nodes",),
        fuses=False,
    ),
    "dropout_scale": Operation("dropout_scale", _dropout, _dropout_work, ("scale",), fuses=False),
}  # fmt: skip
