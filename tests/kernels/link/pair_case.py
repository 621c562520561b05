"""Streams and queries for the tests of features of pairs, with what the plain oracle expects of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st

from mspipe_triton.data.pair_index import PairIndex
from tests.kernels.link.plain_pair_features import Event, Number, plain_pair_features

UNIX, LARGE = 1_600_000_000, 2**53 - 200


@dataclass
class Case:
    """Events in order of time, and queries (source, destinations, time, number of events to read, at most)."""

    events: list[Event]
    queries: list[tuple[int, list[int], Number, int]]
    candidates: int
    kind: torch.dtype = torch.int64
    parts: tuple[int, ...] = ()

    def columns(self, events: list[Event] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sources, destinations and times of events."""
        events = self.events if events is None else events
        src, dst = (torch.tensor([event[k] for event in events], dtype=torch.int64) for k in (0, 1))
        return src, dst, torch.tensor([event[2] for event in events], dtype=self.kind)

    def index(self) -> PairIndex:
        """Index of the events, which come in parts that begin at the numbers in `parts`."""
        borders = [0, *self.parts, len(self.events)]
        first, *others = (self.columns(self.events[a:b]) for a, b in pairwise(borders))
        index = PairIndex.build(*first)
        for part in others:
            index = index.extended(*part)
        return index

    def before(self) -> list[int]:
        """Numbers of events strictly before each query, cut to what it reads."""
        return [min(sum(t < time for _, _, t in self.events), most) for _, _, time, most in self.queries]

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sources, destinations, times and numbers of events of the queries."""
        src = torch.tensor([query[0] for query in self.queries], dtype=torch.int64)
        dst = torch.tensor([query[1] for query in self.queries], dtype=torch.int64).view(len(src), self.candidates)
        times = torch.tensor([query[2] for query in self.queries], dtype=self.kind)
        return src, dst, times, torch.tensor(self.before(), dtype=torch.int64)

    def arguments(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Arguments of the operation, by name."""
        index = self.index()
        names = ("source_keys", "destination_keys", "pairs", "pair_keys", "times", "earlier", "partners", "popularity")
        queries = zip(("src", "dst", "query_times", "before"), self.pairs(), strict=True)
        newer = {name: getattr(index, name) for name in ("newer_events", "newer_pairs")}
        return {**{name: getattr(index, name) for name in names}, **dict(queries), **newer, "dtype": dtype}

    def expected(self) -> torch.Tensor:
        """The oracle's features [B, C, 36] in float64."""
        rows = [
            [plain_pair_features(self.events, src, each, time, before) for each in dst]
            for (src, dst, time, _), before in zip(self.queries, self.before(), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64).view(len(self.queries), self.candidates, 36)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few nodes, so that pairs repeat and reply; ties, self-loops, unseen nodes, padding, times near 2⁵³, parts."""
    kind = draw(st.sampled_from([torch.int64, torch.float64]))
    time: Number = draw(st.sampled_from([0, -7, UNIX, LARGE]))
    step: Number = 1
    if kind == torch.float64:
        step = 1 if time == LARGE else 0.25
        time = float(time)
    node, first, events = st.integers(0, 3), time, []
    for src, dst, gap in draw(st.lists(st.tuples(node, node, st.sampled_from([0, 0, 1, 3])), max_size=40)):
        time += gap * step
        events.append((src, dst, time))
    moments = st.sampled_from([first - step, first, time, time + step, *[t for _, _, t in events]])
    candidates, ends = draw(st.integers(1, 3)), st.integers(-2, 5)
    query = st.tuples(ends, st.lists(ends, min_size=candidates, max_size=candidates), moments, st.integers(0, 60))
    parts = draw(st.lists(st.integers(0, len(events)), max_size=4))
    return Case(events, draw(st.lists(query, max_size=8)), candidates, kind, tuple(sorted(parts)))


def random_case(events: int, queries: int, candidates: int, newer: int = 0) -> Case:
    """Random events among 12 nodes, the last `newer` added later, and queries of them, a ninth of them padding."""
    random = torch.Generator().manual_seed(events + 7 * queries + candidates)

    def integers(low: int, high: int, *size: int) -> list[Any]:
        return torch.randint(low, high, size, generator=random).tolist()

    ends, gaps = integers(0, 12, events, 2), integers(0, 3, events)
    stream, time = [], UNIX
    for (src, dst), gap in zip(ends, gaps, strict=True):
        time += gap * 1000
        stream.append((src, dst, time))
    sources, moments = integers(-2, 14, queries), integers(0, time - UNIX + 2, queries)
    rows = zip(sources, integers(-2, 14, queries, candidates), moments, strict=True)
    asks = [(src, dst, UNIX + moment, events) for src, dst, moment in rows]
    return Case(stream, asks, candidates, parts=(events - newer,) if newer else ())
