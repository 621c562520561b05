"""Benchmark cases of every operation: inputs, and the least work on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch

from bench.cases.batch import BATCH
from bench.cases.layer import ATTENTION_LAYER
from bench.cases.link import LINK_LOSS
from bench.cases.mailbox import MAILBOX_ATTENTION, delivery
from bench.cases.operation import Operation, Work
from bench.cases.pairs import PAIR_FEATURES
from bench.cases.random_batch import Numbers, RandomBatch, Shape, random_batch
from bench.cases.updaters import UPDATERS
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies
from mspipe_triton.tuning.kernels.calls import each

HEADS = 2


def _recent(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    return {
        **batch.csr, "roots": batch.roots, "root_times": batch.root_times, "fanout": batch.shape.fanout,
        "dtype": numbers.dtype,
    }  # fmt: skip


def _sampling_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads: roots, the two bounds and the probes of each search, filled slots. Writes: all slots."""
    probes = sum(math.ceil(math.log2(count + 1)) for count in batch.degree[batch.roots].tolist())
    read = batch.roots.numel() * (8 + 8 + 16) + probes * 8 + batch.filled * (4 + 4 + 8)
    return Work(read + batch.deltas.numel() * (8 + 8 + compute) + batch.roots.numel() * 8)


def _uniform(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    words = torch.randint(0, 2**31, (4,), generator=numbers.random, device=numbers.device)
    return {**_recent(batch, numbers), "draws": words}


def _unique(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    return {"nodes": batch.nodes, "capacity": batch.nodes.numel()}


def _unique_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads: the list. Writes: ids and inverse. A distinct node's stamp is written and read."""
    return Work(3 * batch.nodes.numel() * 8 + 2 * batch.distinct.numel() * 8)


def _aggregate(batch: RandomBatch, numbers: Numbers, mode: str) -> dict[str, Any]:
    shape, size, rows = batch.shape, batch.shape.batch, batch.root_rows
    mean = mode == "mean"
    return {
        "memory": numbers.table(shape.nodes, shape.dim), "memory_time": numbers.seconds(shape.nodes),
        "partner": numbers.table(shape.nodes, shape.dim), "event_id": numbers.seconds(shape.nodes),
        "mail_time": numbers.seconds(shape.nodes),
        "mail_features": numbers.table(shape.nodes, shape.features) if mean else None,
        "src": batch.src, "dst": batch.dst, "batch_event_ids": torch.arange(shape.events - size, shape.events),
        "times": batch.root_times[:size], "features": numbers.table(size, shape.features) if mean else None,
        "hidden": numbers.normal(batch.distinct.numel(), shape.dim),
        "hidden_time": numbers.seconds(batch.distinct.numel()),
        "src_rows": rows[:size], "dst_rows": rows[size : 2 * size], "mode": mode,
    }  # fmt: skip


def _aggregate_work(batch: RandomBatch, table: int, compute: int, mode: str) -> Work:
    """Reads: six numbers per event, h once per endpoint (it serves the partners too). Writes: one record per endpoint.
    The mean adds one row per endpoint, and reads and adds the events' feature rows."""
    shape, size = batch.shape, batch.shape.batch
    endpoints = torch.cat([batch.src, batch.dst]).unique().numel()
    traffic = 6 * 8 * size + endpoints * (shape.dim * compute + 8) + endpoints * (2 * shape.dim * table + 3 * 8)
    if mode == "last":
        return Work(traffic)
    return Work(traffic + (size + endpoints) * shape.features * table, 2 * size * (shape.dim + shape.features))


def _attention(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    shape = batch.shape
    width, queries = shape.dim + shape.features + shape.times, int(batch.root_rows.max()) + 1
    return {
        "table": numbers.table(batch.distinct.numel(), shape.dim),
        "rows": batch.inverse[batch.roots.numel() :].view(-1, shape.fanout),
        "features": numbers.table(shape.events, shape.features), "feature_rows": batch.events,
        "deltas": batch.deltas.to(numbers.dtype), "counts": batch.counts,
        "frequency": time_frequencies(shape.times, numbers.dtype), "phase": numbers.normal(shape.times),
        "query": numbers.normal(queries, HEADS, width, scale=width**-0.5), "query_rows": batch.root_rows,
        "bias": numbers.normal(queries, HEADS),
    }  # fmt: skip


def _attention_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Products: a filled slot's x = [h ‖ e ‖ φ] with each head's query, and added to each head's context. Reads: h once
    per node, e once per event, a query once per distinct root. Training's backward pass reads the same and the
    context's gradient, and writes the gradients of query, bias and table: d weight and d query over x, d h from both.
    Cosines and the softmax are not counted."""
    shape, roots, slots = batch.shape, batch.roots.numel(), batch.deltas.numel()
    width, queries = shape.dim + shape.features + shape.times, int(batch.root_rows.max()) + 1
    events = batch.events[batch.events >= 0].unique().numel()
    nodes = batch.distinct.numel() * shape.dim
    read = nodes * table + events * shape.features * table + slots * (8 + 8 + compute) + roots * 2 * 8
    query, context = queries * HEADS * (width + 1) * compute, roots * HEADS * (width + 1) * compute
    return Work(
        read + query + context,
        4 * batch.filled * HEADS * width,
        read + query + context + query + nodes * table,
        4 * batch.filled * HEADS * (width + shape.dim),
    )


def _gather(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    """Edge rows of the slots, more than any other table has to gather; an empty slot reads row 0."""
    return {
        "table": numbers.table(batch.shape.events, batch.shape.features), "rows": batch.events.clamp(min=0).view(-1),
    }  # fmt: skip


def _gather_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads: every row number, and each distinct row of the table once. Writes: every row."""
    rows = batch.events.clamp(min=0)
    return Work(rows.numel() * 8 + (rows.numel() + rows.unique().numel()) * batch.shape.features * table)


def _patch(batch: RandomBatch, numbers: Numbers) -> dict[str, Any]:
    def record(rows: int) -> list[torch.Tensor]:
        tables = [numbers.table(rows, batch.shape.dim) for _ in range(2)]
        return [*tables, *(numbers.seconds(rows) for _ in range(3))]

    return {
        "stale": record(batch.distinct.numel()), "nodes": batch.distinct,
        "fresh": record(batch.earlier.numel()), "fresh_nodes": batch.earlier,
    }  # fmt: skip


def _patch_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads: both lists of nodes. A record in both is read once and written once."""
    shared = int(torch.isin(batch.distinct, batch.earlier).sum())
    lists = (batch.distinct.numel() + batch.earlier.numel()) * 8
    return Work(lists + 2 * shared * (2 * batch.shape.dim * table + 3 * 8))


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


# By benchmark: an operation, or one mode of it.
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
    "deliver_mails": delivery("last"),
    "deliver_mails-mean": delivery("mean"),
    **LINK_LOSS,
    **PAIR_FEATURES,
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
        seed: seed of the stream and of the numbers.
        dtype: dtype of the computation; table_dtype: dtype of memory and features, None for `dtype`.
        padding: unused columns between the rows of tables.
        indices: dtype of rows and nodes, if the operation accepts int32 and int64.
    """
    operation, device = OPERATIONS[name], torch.device(device)
    random = torch.Generator(device).manual_seed(seed + 1)
    numbers = Numbers(random, device, dtype, table_dtype or dtype, padding)
    arguments = operation.arguments(random_batch(shape, seed), numbers)
    for key in operation.indices:
        arguments[key] = arguments[key].to(indices)
    return to_device(arguments, device)


def to_device(arguments: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of arguments to a device; tensors that are there already are not copied."""
    return {key: each(value, lambda tensor: tensor.to(device)) for key, value in arguments.items()}


def work(name: str, shape: Shape, dtype: torch.dtype = torch.float32, table_dtype: torch.dtype | None = None) -> Work:
    """Least work of OPERATIONS[name] at a shape, on the arguments that `build` makes from seed 0."""
    return OPERATIONS[name].work(random_batch(shape), (table_dtype or dtype).itemsize, dtype.itemsize)


def short(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with time differences below 64: in float32 the angle of a week at 1 radian per second is off by 0.04,
    which would hide any other error."""
    return {key: value % 64 if key == "deltas" else value for key, value in arguments.items()}


def measured(shape: Shape, seed: int = 0) -> dict[str, int]:
    """Sizes of a random batch: slots, distinct nodes among them, distinct roots, filled neighbour slots."""
    batch = random_batch(shape, seed)
    return {
        "slots": batch.nodes.numel(), "distinct": batch.distinct.numel(),
        "distinct_roots": int(batch.root_rows.max()) + 1, "filled": batch.filled,
    }  # fmt: skip
