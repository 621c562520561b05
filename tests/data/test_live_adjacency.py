"""The live adjacency against one that is built at once: neighbours bit for bit, order of entries, and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mspipe_triton.data import live_adjacency
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.live_adjacency import LiveAdjacency
from mspipe_triton.data.neighbourhood import NeighbourSampler, Roots
from tests.data.live_stream import live_stream, parts

WORDS = [torch.tensor([0, 4 + 16 * hop, 1, 2]) for hop in range(2)]


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are soon full, so that all segments move often."""
    monkeypatch.setattr(live_adjacency, "_SPARE", 1)


def before(stream: EventStream, events: int) -> EventStream:
    """The first events of a stream, with all of its nodes."""
    return replace(stream, src=stream.src[:events], dst=stream.dst[:events], t=stream.t[:events])


def entries(graph: TemporalCSR) -> list[list[tuple[int, int, float]]]:
    """Neighbours, events and times of every node, in the order of its segment."""
    columns = [part.tolist() for part in (graph.neighbours, graph.event_ids, graph.times)]
    starts, ends = graph.indptr[: -1 : graph.stride].tolist(), graph.indptr[1 :: graph.stride].tolist()
    return [list(zip(*(each[a:b] for each in columns), strict=True)) for a, b in zip(starts, ends, strict=True)]


def check(live: LiveAdjacency, stream: EventStream, fanout: int, seed: int) -> None:
    """Compare samples around random nodes, padding among them, with those of the adjacency of the stream."""
    random = torch.Generator().manual_seed(seed)
    nodes = torch.randint(-1, stream.num_nodes, (25,), generator=random)
    moments = torch.cat([stream.t, stream.t[-1:] + 1])
    times = moments[torch.randint(0, len(moments), (25,), generator=random)]
    horizon = moments[len(moments) // 2]
    whole = TemporalCSR.build(stream)
    for uniform in (False, True):
        ours, theirs = (NeighbourSampler(stream, graph, fanout, uniform, torch.float64) for graph in (live.csr, whole))
        for limit in (None, horizon):
            results = [each.neighbours(nodes, times, WORDS[0], limit) for each in (ours, theirs)]
            assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
        roots = Roots(nodes.clamp(min=0), times, torch.arange(25) + 2 * len(stream))
        one, other = (each.around(roots, WORDS) for each in (ours, theirs))
        assert torch.equal(one.nodes, other.nodes)
        assert torch.equal(one.root_rows, other.root_rows)
        for hop, expected in zip(one.hops, other.hops, strict=True):
            for name in ("root_rows", "rows", "event_ids", "deltas", "counts"):
                assert torch.equal(getattr(hop, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
@pytest.mark.parametrize("first", [0, 1, 60])
def test_neighbours_equal_those_of_an_adjacency_built_at_once(kind: torch.dtype, first: int) -> None:
    for seed in range(3):
        stream = live_stream(seed, 250, kind)
        live = LiveAdjacency(TemporalCSR.build(replace(before(stream, first), num_nodes=0)))
        for number, (start, columns) in enumerate(parts(stream, first, seed)):
            live.append(*columns)
            stop = start + columns[0].numel()
            if number % 4 == 0 and stop:
                live.reserve(stream.num_nodes)
                check(live, before(stream, stop), 1 + number % 5, seed)
        live.reserve(stream.num_nodes)
        assert entries(live.csr) == entries(TemporalCSR.build(stream))


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("uniform", [False, True])
def test_kernels_read_segments_in_any_order(uniform: bool) -> None:
    stream = live_stream(7, 60, torch.int64)
    live = LiveAdjacency(TemporalCSR.build(before(stream, 30)))
    for _, columns in parts(stream, 30, 7):
        live.append(*columns)
    graphs = live.csr, TemporalCSR.build(stream)
    assert bool((graphs[0].indptr[3::3] < graphs[0].indptr[:-3:3]).any()), "segments are not in the order of nodes"
    nodes = torch.arange(-1, stream.num_nodes)
    times = stream.t[-1].expand(len(nodes)).contiguous()
    samplers = (NeighbourSampler(stream, graph, 3, uniform, torch.float64) for graph in graphs)
    results = [each.neighbours(nodes, times, WORDS[0]) for each in samplers]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_self_loop_has_two_entries_at_its_node_and_numbers_go_on() -> None:
    live = LiveAdjacency(TemporalCSR.build(EventStream(*torch.tensor([[0], [1], [5]]), num_nodes=2)))
    live.append(*torch.tensor([[2, 0], [2, 2], [5, 6]]))
    assert entries(live.csr) == [[(1, 0, 5), (2, 2, 6)], [(0, 0, 5)], [(2, 1, 5), (2, 1, 5), (0, 2, 6)]]


def test_new_nodes_have_no_entries_until_they_have_events() -> None:
    live = LiveAdjacency(TemporalCSR.build(EventStream(*torch.tensor([[0], [1], [5]]), num_nodes=2)))
    live.reserve(4)
    live.reserve(3)
    assert entries(live.csr)[2:] == [[], []]
    live.append(*torch.tensor([[6], [0], [7]]))
    assert [len(each) for each in entries(live.csr)] == [2, 1, 0, 0, 0, 0, 1]


def test_the_adjacency_of_the_first_events_does_not_change() -> None:
    stream = live_stream(0, 100, torch.int64)
    graph = TemporalCSR.build(before(stream, 50))
    copies = [part.clone() for part in (graph.indptr, graph.neighbours, graph.event_ids, graph.times)]
    live = LiveAdjacency(graph)
    for _, columns in parts(stream, 50, 0):
        live.append(*columns)
    assert all(map(torch.equal, copies, (graph.indptr, graph.neighbours, graph.event_ids, graph.times)))


def test_a_live_adjacency_of_a_live_one() -> None:
    stream = live_stream(4, 120, torch.float64)
    live = LiveAdjacency(TemporalCSR.build(before(stream, 20)))
    for start, columns in parts(stream, 20, 1):
        live = LiveAdjacency(live.csr) if start % 3 == 0 else live
        live.append(*columns)
    assert entries(live.csr) == entries(TemporalCSR.build(stream))
    assert live.csr.on(torch.device("meta")).stride == live.csr.stride


@pytest.mark.parametrize("hub", [False, True])
def test_memory_is_less_than_twice_the_entries_and_segments_move_seldom(hub: bool) -> None:
    live = LiveAdjacency(TemporalCSR.build(EventStream(*torch.tensor([[0], [1], [0]]), num_nodes=2)))
    nodes, buffers = torch.randint(0, 50, (2, 3000), generator=torch.Generator().manual_seed(1)), set()
    if hub:
        nodes[0] = 0
    for number, (u, v) in enumerate(nodes.t().tolist()):
        live.append(*torch.tensor([[u], [v], [number]]))
        size = live.csr.times.numel()
        assert size <= 1.75 * 2 * (number + 2) + 1
        buffers.add(size)
    assert size < 2 * 6002
    assert len(buffers) < 50
