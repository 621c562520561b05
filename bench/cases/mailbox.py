"""Benchmark cases of attention over APAN's mails and of their delivery: inputs, and the least work on them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies
from mspipe_triton.nodes.mailbox import Receivers

HEADS = 2


def _mailboxes(batch: RandomBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mails of the batch's distinct nodes, one from each of a node's last S events: events [U, S], −1 in empty slots,
    and counts [U]."""
    slots = torch.arange(batch.shape.fanout)
    counts = batch.degree[batch.distinct].clamp(max=batch.shape.fanout)
    last = batch.csr["indptr"][1:][batch.distinct, None] - 1 - slots
    return torch.where(slots < counts[:, None], batch.csr["event_ids"][last.clamp(min=0)].long(), -1), counts


def _attention(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Inputs of the attention; a mail is two memory rows."""
    shape, dim = batch.shape, 2 * batch.shape.dim
    events, counts = _mailboxes(batch)
    nodes, slots = events.shape
    width = dim + shape.features + shape.times
    return {
        "mails": numbers.table(shape.nodes, slots * dim).view(shape.nodes, slots, dim), "rows": batch.distinct,
        "features": numbers.table(shape.events, shape.features), "feature_rows": events,
        "deltas": numbers.seconds(nodes * slots).view(nodes, slots).to(numbers.dtype), "counts": counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        "query": numbers.normal(nodes, HEADS, width, scale=width**-0.5), "bias": numbers.normal(nodes, HEADS),
    }  # fmt: skip


def _attention_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: a filled slot's x = [mail ‖ e ‖ φ] with each head's query, and added to each head's context. Reads: the
    mail once, e once per event. Training's backward pass reads the same and the context's gradient, and writes the
    gradients of query and bias: d weight and d query over x. Cosines and the softmax are not counted."""
    shape, dim = batch.shape, 2 * batch.shape.dim
    events, counts = _mailboxes(batch)
    width, filled = dim + shape.features + shape.times, int(counts.sum())
    rows = filled * dim + events[events >= 0].unique().numel() * shape.features
    read = rows * table + events.numel() * (8 + compute) + counts.numel() * 2 * 8
    queries = counts.numel() * HEADS * (width + 1) * compute  # query and bias; context and total are as large
    return Work(read + 2 * queries, 4 * filled * HEADS * width, read + 2 * queries, 4 * filled * HEADS * width)


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


def _receivers(batch: RandomBatch) -> Receivers:
    """Receivers of the batch's mails: its ends and their neighbours, padded."""
    ends, roots = 2 * batch.shape.batch, batch.roots.numel()
    return Receivers.of(batch.roots[:ends], batch.nodes[roots:].view(-1, batch.shape.fanout)[:ends], padded=True)


def _deliver(batch: RandomBatch, numbers: Numbers, mode: str) -> dict[str, Any]:
    shape, size, rows, receivers = batch.shape, batch.shape.batch, batch.root_rows, _receivers(batch)
    slots, dim, mean = shape.fanout, 2 * shape.dim, mode == "mean"
    features = batch_features = None
    if mean and shape.features:
        features = numbers.table(shape.nodes, slots * shape.features).view(shape.nodes, slots, shape.features)
        batch_features = numbers.table(size, shape.features)
    return {
        "memory": numbers.table(shape.nodes, shape.dim), "memory_time": numbers.seconds(shape.nodes),
        "received": batch.degree.clone(),
        "mails": numbers.table(shape.nodes, slots * dim).view(shape.nodes, slots, dim),
        "event_id": numbers.seconds(shape.nodes * slots).view(shape.nodes, slots),
        "mail_time": numbers.seconds(shape.nodes * slots).view(shape.nodes, slots), "mail_features": features,
        "src": batch.src, "dst": batch.dst, "batch_event_ids": torch.arange(shape.events - size, shape.events),
        "times": batch.root_times[:size], "features": batch_features,
        "hidden": numbers.normal(batch.distinct.numel(), shape.dim),
        "hidden_time": numbers.seconds(batch.distinct.numel()),
        "src_rows": rows[:size], "dst_rows": rows[size : 2 * size], "heard": receivers.nodes, "last": receivers.last,
        "owners": receivers.owners if mean else None,
        "deliveries": receivers.mails if mean else None, "mode": mode,
    }  # fmt: skip


def _deliver_work(batch: RandomBatch, table: int, compute: int, mode: str) -> Work:
    """Reads: six numbers per event, two per receiver, h once per end. Writes: memory and time per end; a mail of two
    rows, its event and its time per receiver, whose count is read and written. The mean also reads every delivery and
    the events' feature rows, adds two rows and a feature row per delivery, and writes a feature row per receiver."""
    shape, ends, padded = batch.shape, torch.cat([batch.src, batch.dst]).unique().numel(), _receivers(batch)
    receivers, deliveries = int((padded.nodes >= 0).sum()), int((padded.mails >= 0).sum())
    state = ends * (shape.dim * (compute + table) + 2 * 8)
    traffic = 6 * 8 * shape.batch + state + receivers * (2 * shape.dim * table + 6 * 8)
    if mode == "last":
        return Work(traffic)
    extra = deliveries * 2 * 8 + (shape.batch + receivers) * shape.features * table
    return Work(traffic + extra, deliveries * (2 * shape.dim + shape.features))


def delivery(mode: str) -> Operation:
    """Case of `deliver_mails` in one of its modes."""
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
