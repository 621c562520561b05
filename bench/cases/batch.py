"""Benchmark cases of the operations that start a batch on the device: drawing events and negatives, looking up mail,
dropout."""

from __future__ import annotations

import math
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch

PADDING = 0.3  # unused rows of static shapes, as a share of the distinct nodes
NEGATIVES, HISTORICAL = 20, 10  # per event, and those of them that the source met before


def _words(numbers: Numbers) -> torch.Tensor:
    return torch.randint(0, 2**31, (4,), generator=numbers.random, device=numbers.device)


def _events(batch: RandomBatch) -> dict[str, torch.Tensor]:
    """Both ends and times of all events. An event's two ends own its two entries, in either order."""
    order = batch.csr["event_ids"].argsort(stable=True)
    ends, times = batch.csr["neighbours"][order].long().view(-1, 2), batch.csr["times"][order[::2]]
    return {"src": ends[:, 0].contiguous(), "dst": ends[:, 1].contiguous(), "times": times}


def _draw(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Arguments that draw the stream's last batch."""
    events, size, stream = batch.shape.events, batch.shape.batch, _events(batch)
    return {
        **stream, "destinations": stream["dst"].unique(), "span": torch.tensor([events - size, events]),
        "draws": _words(numbers), "size": size,
    }  # fmt: skip


def _draw_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads per event: two ends, a time, two destinations. Writes: three roots, their times and the event's number."""
    return Work(2 * 8 + 4 * 8 + batch.shape.batch * (5 * 8 + 3 * 2 * 8 + 8) + 8)


def _historical(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Arguments for the stream's last batch; a negative may be the event's destination, which costs the same."""
    src, dst, times = _events(batch).values()
    event, last = torch.arange(src.numel()), slice(-batch.shape.batch, None)
    pairs, owners = ((src << 32) + dst).unique(return_inverse=True)
    first = torch.full_like(pairs, src.numel()).scatter_reduce_(0, owners, event, "amin")
    nodes = dst.unique()
    shape = (batch.shape.batch, NEGATIVES)
    choice = torch.randint(0, nodes.numel(), shape, generator=numbers.random, device=numbers.device)
    return {
        "meeting_keys": (src[first] << 32).add_(first).sort().values, "pairs": pairs,
        "pair_keys": (owners << 32).add_(event).sort().values, "event_dst": dst, "times": times, "src": src[last],
        "dst": dst[last], "query_times": times[last], "before": torch.searchsorted(times, times[last]),
        "negatives": nodes.to(numbers.device)[choice], "draws": _words(numbers), "historical": HISTORICAL,
        "destinations": nodes.numel(), "dtype": numbers.dtype,
    }  # fmt: skip


def _historical_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads per query: four numbers, and the probes of two searches among all meetings and one among all events. Reads
    per negative: one number, and the probes of a search among the source's pairs. Writes: a node and a weight per
    negative."""
    src, dst, _ = _events(batch).values()
    pairs, size = ((src << 32) + dst).unique(), batch.shape.batch
    start, stop = (torch.searchsorted(pairs, (src[-size:] + part) << 32) for part in (0, 1))
    probes = size * (2 * pairs.numel().bit_length() + src.numel().bit_length())
    probes += NEGATIVES * sum(count.bit_length() for count in (stop - start).tolist())
    return Work(size * 4 * 8 + probes * 8 + size * NEGATIVES * (2 * 8 + compute))


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
    "historical_negatives": Operation(
        "historical_negatives", _historical, _historical_work, ("negatives", "log_weights"),
        indices=("event_dst", "src", "dst", "negatives"), fuses=False,
    ),
    "fetch_mail": Operation(
        "fetch_mail", _mail, _mail_work, ("events", "deltas", "has_mail", "digested_time"), indices=("nodes",),
        fuses=False,
    ),
    "dropout_scale": Operation("dropout_scale", _dropout, _dropout_work, ("scale",), fuses=False),
}  # fmt: skip
