"""What a batch on the device begins with, for its benchmarks: events and negatives drawn, mail looked up, dropout."""

from __future__ import annotations

import math
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch

PADDING = 0.3  # of the distinct nodes: room beyond them, as static shapes have it


def _words(numbers: Numbers) -> torch.Tensor:
    return torch.randint(0, 2**31, (4,), generator=numbers.random, device=numbers.device)


def _draw(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """The stream's last batch. The two ends of an event are the owners of its entries, in either order."""
    order = at.csr["event_ids"].argsort(stable=True)
    ends = at.csr["neighbours"][order].long().view(-1, 2)
    return {
        "src": ends[:, 0].contiguous(), "dst": ends[:, 1].contiguous(), "times": at.csr["times"][order[::2]],
        "destinations": ends[:, 1].unique(), "span": torch.tensor([at.shape.events - at.shape.batch, at.shape.events]),
        "draws": _words(numbers), "size": at.shape.batch,
    }  # fmt: skip


def _draw_work(at: RandomBatch, table: int, compute: int) -> Work:
    """Of an event two ends, a time and a destination are read; three roots, their times and its number are written."""
    return Work(2 * 8 + 4 * 8 + at.shape.batch * (4 * 8 + 3 * 2 * 8 + 8) + 8)


def _padding(at: RandomBatch) -> int:
    return math.ceil(PADDING * at.distinct.numel())


def _mail(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Mail from a node's last event, none where it has none; padding behind the distinct nodes."""
    last = at.csr["event_ids"][(at.csr["indptr"][1:] - 1).clamp(min=0)].long()
    return {
        "nodes": torch.cat([at.distinct, at.distinct.new_full((_padding(at),), -1)]),
        "memory_time": numbers.seconds(at.shape.nodes), "event_id": torch.where(at.degree > 0, last, -1),
        "mail_time": numbers.seconds(at.shape.nodes), "dtype": numbers.dtype,
    }  # fmt: skip


def _mail_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A real node's event and memory time are read, its mail's time where it has mail; all nodes have four results."""
    nodes, mails = at.distinct.numel(), int((at.degree[at.distinct] > 0).sum())
    return Work(nodes * 2 * 8 + mails * 8 + (nodes + _padding(at)) * (8 + 8 + compute + 1 + 8))


def _dropout(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Of the roots' embeddings."""
    shape = (at.roots.numel(), at.shape.dim)
    return {"draws": _words(numbers), "shape": shape, "probability": 0.1, "dtype": numbers.dtype}


def _dropout_work(at: RandomBatch, table: int, compute: int) -> Work:
    """The multipliers are written; their draws are integers."""
    return Work(4 * 8 + at.roots.numel() * at.shape.dim * compute)


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
