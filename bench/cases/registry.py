"""Inputs of every operation for its benchmark, and the least work that it must do on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch

from bench.cases.batch import BATCH
from bench.cases.layer import ATTENTION_LAYER
from bench.cases.link import LINK_LOSS
from bench.cases.mailbox import MAILBOX_ATTENTION, delivering
from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch, Shape, random_batch
from bench.cases.updaters import UPDATERS
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies
from mspipe_triton.tuning.kernels.calls import each

HEADS = 2


def _recent(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    return {
        **at.csr, "roots": at.roots, "root_times": at.root_times, "fanout": at.shape.fanout, "dtype": numbers.dtype,
    }  # fmt: skip


def _sampling_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A root is read, its two ends and the probes of its search; a filled slot is read, every slot is written."""
    probes = sum(math.ceil(math.log2(count + 1)) for count in at.degree[at.roots].tolist())
    read = at.roots.numel() * (8 + 8 + 16) + probes * 8 + at.filled * (4 + 4 + 8)
    return Work(read + at.deltas.numel() * (8 + 8 + compute) + at.roots.numel() * 8)


def _uniform(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    words = torch.randint(0, 2**31, (4,), generator=numbers.random, device=numbers.device)
    return {**_recent(at, numbers), "draws": words}


def _unique(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    return {"nodes": at.nodes, "capacity": at.nodes.numel()}


def _unique_work(at: RandomBatch, table: int, compute: int) -> Work:
    """The list is read, ids and inverse are written; a distinct node's stamp is written and read."""
    return Work(3 * at.nodes.numel() * 8 + 2 * at.distinct.numel() * 8)


def _aggregate(at: RandomBatch, numbers: Numbers, mode: str) -> dict[str, Any]:
    shape, batch, rows = at.shape, at.shape.batch, at.root_rows
    mean = mode == "mean"
    return {
        "memory": numbers.table(shape.nodes, shape.dim), "memory_time": numbers.seconds(shape.nodes),
        "partner": numbers.table(shape.nodes, shape.dim), "event_id": numbers.seconds(shape.nodes),
        "mail_time": numbers.seconds(shape.nodes),
        "mail_features": numbers.table(shape.nodes, shape.features) if mean else None,
        "src": at.src, "dst": at.dst, "batch_event_ids": torch.arange(shape.events - batch, shape.events),
        "times": at.root_times[:batch], "features": numbers.table(batch, shape.features) if mean else None,
        "hidden": numbers.normal(at.distinct.numel(), shape.dim), "hidden_time": numbers.seconds(at.distinct.numel()),
        "src_rows": rows[:batch], "dst_rows": rows[batch : 2 * batch], "mode": mode,
    }  # fmt: skip


def _aggregate_work(at: RandomBatch, table: int, compute: int, mode: str) -> Work:
    """Six numbers an event are read; an endpoint's h (also its partners') is read once, its record is written once.
    The mean adds one row an endpoint, and reads and adds the events' feature rows."""
    shape, batch = at.shape, at.shape.batch
    written = torch.cat([at.src, at.dst]).unique().numel()
    moved = 6 * 8 * batch + written * (shape.dim * compute + 8) + written * (2 * shape.dim * table + 3 * 8)
    if mode == "last":
        return Work(moved)
    return Work(moved + (batch + written) * shape.features * table, 2 * batch * (shape.dim + shape.features))


def _attention(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    shape = at.shape
    width, queries = shape.dim + shape.features + shape.times, int(at.root_rows.max()) + 1
    return {
        "table": numbers.table(at.distinct.numel(), shape.dim),
        "rows": at.inverse[at.roots.numel() :].view(-1, shape.fanout),
        "features": numbers.table(shape.events, shape.features), "feature_rows": at.events,
        "deltas": at.deltas.to(numbers.dtype), "counts": at.counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        "query": numbers.normal(queries, HEADS, width, scale=width**-0.5), "query_rows": at.root_rows,
        "bias": numbers.normal(queries, HEADS),
    }  # fmt: skip


def _attention_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A filled slot's x = [h ‖ e ‖ φ] meets each head's query and is added to each head's context; h is read once a
    node, e once an event, a query once a distinct root. Training's backward pass reads the same and the context's
    gradient, and writes those of query, bias and table: d weight and d query over x, d h from both (cosines and the
    softmax are not counted)."""
    shape, roots, slots = at.shape, at.roots.numel(), at.deltas.numel()
    width, queries = shape.dim + shape.features + shape.times, int(at.root_rows.max()) + 1
    events = at.events[at.events >= 0].unique().numel()
    nodes = at.distinct.numel() * shape.dim
    read = nodes * table + events * shape.features * table + slots * (8 + 8 + compute) + roots * 2 * 8
    asked, context = queries * HEADS * (width + 1) * compute, roots * HEADS * (width + 1) * compute
    return Work(
        read + asked + context,
        4 * at.filled * HEADS * width,
        read + asked + context + asked + nodes * table,
        4 * at.filled * HEADS * (width + shape.dim),
    )


def _gather(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Edge rows of the slots, of which no other table has as many; an empty slot takes row 0."""
    return {
        "table": numbers.table(at.shape.events, at.shape.features), "rows": at.events.clamp(min=0).view(-1),
    }  # fmt: skip


def _gather_work(at: RandomBatch, table: int, compute: int) -> Work:
    """A row's number is read and the row written; of a row that is asked for several times the table's is read once."""
    rows = at.events.clamp(min=0)
    return Work(rows.numel() * 8 + (rows.numel() + rows.unique().numel()) * at.shape.features * table)


RECORD = ("memory", "partner", "memory_time", "event_id", "mail_time")


def _patch(at: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    def record(rows: int) -> list[torch.Tensor]:
        tables = [numbers.table(rows, at.shape.dim) for _ in range(2)]
        return [*tables, *(numbers.seconds(rows) for _ in range(3))]

    return {
        "stale": record(at.distinct.numel()), "nodes": at.distinct,
        "fresh": record(at.earlier.numel()), "fresh_nodes": at.earlier,
    }  # fmt: skip


def _patch_work(at: RandomBatch, table: int, compute: int) -> Work:
    """Both lists of nodes are read; a record in both is read once and written once."""
    shared = int(torch.isin(at.distinct, at.earlier).sum())
    lists = (at.distinct.numel() + at.earlier.numel()) * 8
    return Work(lists + 2 * shared * (2 * at.shape.dim * table + 3 * 8))


CSR = ("indptr", "neighbours", "event_ids", "times")
SAMPLED = ("neighbours", "events", "deltas", "counts")
STATE = ("memory", "memory_time", "partner", "event_id", "mail_time")


def _aggregating(mode: str) -> dict[str, Any]:
    return {
        "arguments": functools.partial(_aggregate, mode=mode),
        "work": functools.partial(_aggregate_work, mode=mode),
        "indices": ("src", "dst", "src_rows", "dst_rows"),
        "fuses": False,
    }


# By what is measured: an operation, or one mode of it.
OPERATIONS = {
    "sample_recent": Operation("sample_recent", _recent, _sampling_work, SAMPLED, indices=("roots",), tables=CSR),
    "sample_uniform": Operation("sample_uniform", _uniform, _sampling_work, SAMPLED, indices=("roots",), tables=CSR),
    "unique_nodes": Operation(
        "unique_nodes", _unique, _unique_work, ("ids", "inverse", "count"), indices=("nodes",), fuses=False
    ),
    **BATCH,
    **UPDATERS,
    "aggregate_messages": Operation("aggregate_messages", mutated=STATE, **_aggregating("last")),
    "aggregate_messages-mean": Operation(
        "aggregate_messages", mutated=(*STATE, "mail_features"), **_aggregating("mean")
    ),
    "temporal_attention": Operation(
        "temporal_attention",
        _attention,
        _attention_work,
        ("context", "total"),
        leaves=("table", "frequency", "phase", "query", "bias"),
        trained=("table", "query", "bias"),
        indices=("rows", "feature_rows", "counts", "query_rows"),
        tables=("features",),
    ),
    "attention_layer": ATTENTION_LAYER,
    "mailbox_attention": MAILBOX_ATTENTION,
    "deliver_mails": delivering("last"),
    "deliver_mails-mean": delivering("mean"),
    "link_loss": LINK_LOSS,
    "gather_rows": Operation(
        "gather_rows", _gather, _gather_work, ("gathered",), indices=("rows",), tables=("table",), fuses=False
    ),
    "patch_rows": Operation(
        "patch_rows", _patch, _patch_work, mutated=("stale",), indices=("nodes", "fresh_nodes"), fuses=False
    ),
}


def build(
    name: str,
    shape: Shape,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    table_dtype: torch.dtype | None = None,
    padding: int = 0,
    indices: torch.dtype = torch.int64,
) -> dict[str, Any]:
    """Keyword arguments of OPERATIONS[name] at a shape.

    Args:
        seed: of the stream and of the numbers.
        dtype: of the computation; table_dtype: of memory and features, `dtype` where None.
        padding: unused columns between the rows of tables.
        indices: dtype of rows and nodes, where the operation takes both.
    """
    operation, device = OPERATIONS[name], torch.device(device)
    random = torch.Generator(device).manual_seed(seed + 1)
    numbers = Numbers(random, device, dtype, table_dtype or dtype, padding)
    made = operation.arguments(random_batch(shape, seed), numbers)
    for key in operation.indices:
        made[key] = made[key].to(indices)
    return moved(made, device)


def moved(arguments: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Arguments whose tensors are on a device. What is there already is not copied."""
    return {key: each(value, lambda tensor: tensor.to(device)) for key, value in arguments.items()}


def work(name: str, shape: Shape, dtype: torch.dtype = torch.float32, table_dtype: torch.dtype | None = None) -> Work:
    """The least work of OPERATIONS[name] at a shape, on what `build` makes of seed 0."""
    return OPERATIONS[name].work(random_batch(shape), (table_dtype or dtype).itemsize, dtype.itemsize)


def short(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose time differences are below 64: in float32 the angle of a week at 1 radian a second is off by
    0.04, and beside that no other error would show."""
    return {key: value % 64 if key == "deltas" else value for key, value in arguments.items()}


def measured(shape: Shape, seed: int = 0) -> dict[str, int]:
    """What was drawn: slots, distinct nodes among them, distinct roots, filled neighbour slots."""
    at = random_batch(shape, seed)
    return {
        "slots": at.nodes.numel(), "distinct": at.distinct.numel(), "distinct_roots": int(at.root_rows.max()) + 1,
        "filled": at.filled,
    }  # fmt: skip
