"""The T-CSR adjacency against lists built event by event, and its cost."""

from __future__ import annotations

import resource
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data import adjacency
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream

EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=60)
@given(EVENTS, st.sampled_from([1, 2, 7, 1 << 20]))
def test_adjacency_equals_lists_built_event_by_event(events: list[tuple[int, int, int]], chunk: int) -> None:
    default, adjacency._CHUNK = adjacency._CHUNK, chunk
    try:
        src, dst, gaps = (torch.tensor(column) for column in zip(*events, strict=True))
        stream = EventStream(src, dst, gaps.cumsum(0), num_nodes=7)
        graph = TemporalCSR.build(stream)
    finally:
        adjacency._CHUNK = default
    lists: list[list[tuple[int, int, int]]] = [[] for _ in range(7)]
    for event, (u, v, t) in enumerate(zip(src.tolist(), dst.tolist(), stream.t.tolist(), strict=True)):
        lists[u].append((v, event, t))
        lists[v].append((u, event, t))
    for node, expected in enumerate(lists):
        entries = slice(int(graph.indptr[node]), int(graph.indptr[node + 1]))
        columns = (graph.neighbours[entries], graph.event_ids[entries], graph.times[entries])
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


@pytest.mark.slow
def test_fifty_million_events_fit_in_six_gibibytes_and_a_minute() -> None:
    events, nodes = 50_000_000, 1_000_000
    generator = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(0, nodes, (events,), generator=generator) for _ in range(2))
    stream = EventStream(src, dst, torch.arange(events))
    start = time.process_time()
    graph = TemporalCSR.build(stream)
    assert time.process_time() - start < 60
    assert graph.indptr[-1] == 2 * events
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 < 6
