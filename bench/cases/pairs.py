"""Benchmark cases of features of pairs: the last batch's destinations and negatives, and the least work on them."""

from __future__ import annotations

import functools
import math
from dataclasses import fields
from typing import Any

from bench.cases.operation import Operation, Work
from bench.cases.random_batch import Numbers, RandomBatch
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.kernels.link.pair_columns import COLUMNS

NEWER = 0.1  # share of the events that are sorted apart in the second case


def _index(batch: RandomBatch, newer: float) -> PairIndex:
    """Index of the batch's stream, whose last events are sorted apart. An event's two ends own its two entries."""
    order = batch.csr["event_ids"].argsort(stable=True)
    src, dst = batch.csr["neighbours"][order].long().view(-1, 2).t().contiguous()
    times = batch.csr["times"][order[::2]]
    older = round(times.numel() * (1 - newer))
    index = PairIndex.build(src[:older], dst[:older], times[:older])
    return index.extended(src[older:], dst[older:], times[older:]) if newer else index


def _pairs(batch: RandomBatch, numbers: Numbers, newer: float) -> dict[str, Any]:
    index, size = _index(batch, newer), batch.shape.batch
    times = batch.root_times[:size]
    tables = {each.name: getattr(index, each.name) for each in fields(index)}
    return {
        **tables, "src": batch.src, "dst": batch.roots[size:].view(2, size).t().contiguous(), "query_times": times,
        "before": index.before(times), "dtype": numbers.dtype,
    }  # fmt: skip


def _pairs_work(batch: RandomBatch, table: int, compute: int) -> Work:
    """Reads: the queries; per pair, the probes of four searches for nodes, two for pairs and two for their events, and
    of its four last events the times, counts and sums. Writes: all columns."""
    pairs, events = 2 * batch.shape.batch, batch.shape.events
    probes = 8 * math.ceil(math.log2(events + 1)) * 8
    return Work(batch.shape.batch * 3 * 8 + pairs * (8 + probes + 4 * 8 + 8 * 4 + 3 * 8 + COLUMNS * compute))


def _case(newer: float) -> Operation:
    return Operation(
        "pair_features", functools.partial(_pairs, newer=newer), _pairs_work, ("features",), indices=("src", "dst"),
        fuses=False,
    )  # fmt: skip


PAIR_FEATURES = {"pair_features": _case(0.0), "pair_features-newer": _case(NEWER)}
