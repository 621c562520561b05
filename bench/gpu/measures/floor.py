"""Least work of a resident iteration, summed over its operations."""

from __future__ import annotations

from dataclasses import replace

from bench.cases.operation import Work
from bench.cases.random_batch import RandomBatch, Shape, random_batch
from bench.cases.registry import OPERATIONS

_ADAM_NUMBERS = 7  # moved per parameter: itself and two moments read and written, its gradient read

# Per model: the operations on the batch's neighbourhood, and those on its roots alone.
PARTS = {
    "tgn": (
        ("draw_batch", "sample_recent", "unique_nodes", "fetch_mail", "memory_gru", "attention_layer", "link_loss",
         "aggregate_messages"),
        (),
    ),
    "jodie": ((), ("draw_batch", "unique_nodes", "fetch_mail", "memory_rnn", "link_loss", "aggregate_messages")),
    "apan": (("deliver_mails",), ("draw_batch", "unique_nodes", "mailbox_attention", "link_loss")),
}  # fmt: skip


def iteration_work(kind: str, shape: Shape, parameters: int, table: int = 4, compute: int = 4) -> tuple[float, float]:
    """Return the least (bytes, flops) of a training iteration.

    They count the operations of `PARTS`, as defined in `bench/cases/registry.py`, forward and training's backward pass,
    on the last batch of the shape's stream, and Adam's tables. Tensors between two operations count as written and as
    read. APAN also counts the sampling of receivers and the matrix products of its updater, twice in the backward pass.
    Not counted: cosines, softmax, norms, JODIE's projection, and the copies at the end.

    Args:
        parameters: of the model. table, compute: bytes per number of the tables and of the computation.
    """
    batch = random_batch(shape)
    neighbourhood, roots = PARTS[kind]
    works = [OPERATIONS[name].work(batch, table, compute) for name in neighbourhood]
    works += [OPERATIONS[name].work(_roots(batch), table, compute) for name in roots]
    if kind == "apan":
        works += [_receivers(batch, table, compute), _updater(_roots(batch))]
    size = sum(work.bytes + work.backward_bytes for work in works) + _ADAM_NUMBERS * parameters * compute
    return float(size), float(sum(work.flops + work.backward_flops for work in works))


def _roots(batch: RandomBatch) -> RandomBatch:
    """Return the batch without neighbours; the distinct roots come first among the distinct nodes."""
    distinct = batch.distinct[: int(batch.root_rows.max()) + 1]
    return replace(batch, nodes=batch.roots, distinct=distinct, inverse=batch.root_rows)


def _receivers(batch: RandomBatch, table: int, compute: int) -> Work:
    """Return the work of APAN's sampling of the endpoints' neighbours."""
    count = 2 * batch.shape.batch
    endpoints = replace(
        batch, roots=batch.roots[:count], events=batch.events[:count], deltas=batch.deltas[:count],
        counts=batch.counts[:count],
    )  # fmt: skip
    return OPERATIONS["sample_recent"].work(endpoints, table, compute)


def _updater(batch: RandomBatch) -> Work:
    """Return the work of APAN's updater: per node, products of W_q, W_k and W_v, and of their result with two more."""
    dim = batch.shape.dim
    width = 2 * dim + batch.shape.features + batch.shape.times
    products = 2 * batch.distinct.numel() * dim * (3 * dim + 2 * width)
    return Work(0, products, 0, 2 * products)
