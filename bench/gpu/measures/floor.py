"""The least work of a whole resident iteration, from that of the operations it is made of."""

from __future__ import annotations

from dataclasses import replace

from bench.cases.operation import Work
from bench.cases.random_batch import RandomBatch, Shape, random_batch
from bench.cases.registry import OPERATIONS

_UPDATED = 7  # numbers of a parameter that Adam moves: itself and two moments read and written, its gradient read

# By model: the operations on the neighbourhood of the batch, and those on its roots, whose neighbours it does not read.
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
    """Bytes that a training iteration moves and floating-point operations that it does at least: (bytes, flops).

    It counts the operations of `PARTS`, each as `bench/cases/registry.py` has it, forward and training's backward pass,
    on the last batch of the shape's stream, and Adam's tables. What passes from one operation to the next counts as
    written and as read. Of APAN also the sampling of who hears of the events, and the products of its updater, backward
    twice.
    Not counted: cosines, softmax, norms, JODIE's projection, and what is copied at the end.

    Args:
        parameters: of the model. table, compute: bytes of a number of the tables, and of the computation.
    """
    at = random_batch(shape)
    around, alone = PARTS[kind]
    works = [OPERATIONS[name].work(at, table, compute) for name in around]
    works += [OPERATIONS[name].work(_roots(at), table, compute) for name in alone]
    if kind == "apan":
        works += [_hearing(at, table, compute), _updater(_roots(at))]
    moved = sum(work.bytes + work.backward_bytes for work in works) + _UPDATED * parameters * compute
    return float(moved), float(sum(work.flops + work.backward_flops for work in works))


def _roots(at: RandomBatch) -> RandomBatch:
    """The same batch without neighbours; the distinct roots are the head of the distinct nodes."""
    distinct = at.distinct[: int(at.root_rows.max()) + 1]
    return replace(at, nodes=at.roots, distinct=distinct, inverse=at.root_rows)


def _hearing(at: RandomBatch, table: int, compute: int) -> Work:
    """Of APAN: the ends' neighbours sampled."""
    ends = 2 * at.shape.batch
    sampled = replace(
        at, roots=at.roots[:ends], events=at.events[:ends], deltas=at.deltas[:ends], counts=at.counts[:ends]
    )
    return OPERATIONS["sample_recent"].work(sampled, table, compute)


def _updater(at: RandomBatch) -> Work:
    """Of APAN, a node: memory meets W_q, its query W_k, its context W_v, and what comes of that two weights more."""
    dim = at.shape.dim
    width = 2 * dim + at.shape.features + at.shape.times
    products = 2 * at.distinct.numel() * dim * (3 * dim + 2 * width)
    return Work(0, products, 0, 2 * products)
