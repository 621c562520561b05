"""Attention over APAN's mails, and their delivery, for the benchmarks: inputs, and the least work on them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies
from mspipe_triton.nodes.mailbox import Receivers

HEADS = 2


def _mailboxes(at: RandomBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every node that the batch touches, a mail from each of its last events, up to the slots: events [U, S], −1 in
    empty slots, and counts [U]."""
    slots = torch.arange(at.shape.fanout)
    counts = at.degree[at.distinct].clamp(max=at.shape.fanout)
    last = at.csr["indptr"][1:][at.distinct, None] - 1 - slots
    return torch.where(slots < counts[:, None], at.csr["event_ids"][last.clamp(min=0)].long(), -1), counts


def _attention(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """A mail is two memory rows."""
    shape, dim = at.shape, 2 * at.shape.dim
    events, counts = _mailboxes(at)
    nodes, slots = events.shape
    width = dim + shape.features + shape.times
    return {
        "mails": numbers.table(shape.nodes, slots * dim).view(shape.nodes, slots, dim), "rows": at.distinct,
        "features": numbers.table(shape.events, shape.features), "feature_rows": events,
        "deltas": numbers.seconds(nodes * slots).view(nodes, slots).to(numbers.dtype), "counts": counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        "query": numbers.normal(nodes, HEADS, width, scale=width**-0.5), "bias": numbers.normal(nodes, HEADS),
    }  # fmt: skip


def _attention_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A filled slot's x = [mail ‖ e ‖ φ] meets each head's query and is added to each head's context; its mail is read
    once, e once an event. Training's backward pass reads the same and the context's gradient, and writes those of query
    and bias: d weight and d query over x (cosines and the softmax are not counted)."""
    shape, dim = at.shape, 2 * at.shape.dim
    events, counts = _mailboxes(at)
    width, filled = dim + shape.features + shape.times, int(counts.sum())
    rows = filled * dim + events[events >= 0].unique().numel() * shape.features
    read = rows * table + events.numel() * (8 + compute) + counts.numel() * 2 * 8
    asked = counts.numel() * HEADS * (width + 1) * compute  # query and bias; context and total are as large
    return Work(read + 2 * asked, 4 * filled * HEADS * width, read + 2 * asked, 4 * filled * HEADS * width)


MAILBOX_ATTENTION = Operation(
    "mailbox_attention",
    _attention,
    _attention_work,
    ("context", "total"),
    leaves=("frequency", "phase", "query", "bias"),
    trained=("query", "bias"),
    indices=("rows", "feature_rows", "counts"),
    tables=("mails", "features"),
)


def _receivers(at: RandomBatch) -> Receivers:
    """The batch's ends and their neighbours, padded."""
    ends, roots = 2 * at.shape.batch, at.roots.numel()
    return Receivers.of(at.roots[:ends], at.nodes[roots:].view(-1, at.shape.fanout)[:ends], padded=True)


def _deliver(at: RandomBatch, numbers: Numbers, mode: str) -> dict[str, Any]:
    shape, batch, rows, heard = at.shape, at.shape.batch, at.root_rows, _receivers(at)
    slots, dim, mean = shape.fanout, 2 * shape.dim, mode == "mean"
    features = own_features = None
    if mean and shape.features:
        features = numbers.table(shape.nodes, slots * shape.features).view(shape.nodes, slots, shape.features)
        own_features = numbers.table(batch, shape.features)
    return {
        "memory": numbers.table(shape.nodes, shape.dim), "memory_time": numbers.seconds(shape.nodes),
        "received": at.degree.clone(), "mails": numbers.table(shape.nodes, slots * dim).view(shape.nodes, slots, dim),
        "event_id": numbers.seconds(shape.nodes * slots).view(shape.nodes, slots),
        "mail_time": numbers.seconds(shape.nodes * slots).view(shape.nodes, slots), "mail_features": features,
        "src": at.src, "dst": at.dst, "batch_event_ids": torch.arange(shape.events - batch, shape.events),
        "times": at.root_times[:batch], "features": own_features,
        "hidden": numbers.normal(at.distinct.numel(), shape.dim), "hidden_time": numbers.seconds(at.distinct.numel()),
        "src_rows": rows[:batch], "dst_rows": rows[batch : 2 * batch], "heard": heard.nodes, "last": heard.last,
        "owners": heard.owners if mean else None, "deliveries": heard.mails if mean else None, "mode": mode,
    }  # fmt: skip


def _deliver_work(at: RandomBatch, table: int, compute: int, mode: str) -> Work:
    """Six numbers an event and two a receiver are read; an end's h is read once, and its memory and time are written;
    of a receiver a mail of two rows, its event and time are written, and its count is read and written. The mean reads
    every delivery and the events' feature rows, adds two rows and a feature row a delivery, and writes that of a
    receiver."""
    shape, ends, receivers = at.shape, torch.cat([at.src, at.dst]).unique().numel(), _receivers(at)
    heard, told = int((receivers.nodes >= 0).sum()), int((receivers.mails >= 0).sum())
    own = ends * (shape.dim * (compute + table) + 2 * 8)
    moved = 6 * 8 * shape.batch + own + heard * (2 * shape.dim * table + 6 * 8)
    if mode == "last":
        return Work(moved)
    more = told * 2 * 8 + (shape.batch + heard) * shape.features * table
    return Work(moved + more, told * (2 * shape.dim + shape.features))


def delivering(mode: str) -> Operation:
    """`deliver_mails` in one of its modes."""
    return Operation(
        "deliver_mails",
        functools.partial(_deliver, mode=mode),
        functools.partial(_deliver_work, mode=mode),
        mutated=(
            "memory", "memory_time", "received", "mails", "event_id", "mail_time",
            *(("mail_features",) if mode == "mean" else ()),
        ),
        indices=("src", "dst", "src_rows", "dst_rows", "heard", "last"),
        fuses=False,
    )  # fmt: skip
