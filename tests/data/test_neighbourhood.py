"""The neighbourhood of a batch against a search event by event, with two hops, one, and none."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.neighbourhood import Hop, Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.errors import ConfigError

EVENTS, NODES, FANOUT = 60, 7, 3
Point = tuple[int, int, int]  # key, node, time


def scene(uniform: bool = False, deduplicate: str = "all") -> tuple[NeighbourSampler, Roots]:
    """Stream of few nodes with ties and self-loops, and the roots src ‖ dst ‖ negative of events 40 to 50."""
    generator = torch.Generator().manual_seed(0)
    src, dst = torch.randint(NODES, (2, EVENTS), generator=generator)
    dst[::9] = src[::9]
    t = torch.arange(EVENTS) // 3
    stream = EventStream(src, dst, t)
    sampler = NeighbourSampler(stream, TemporalCSR.build(stream), FANOUT, uniform, torch.float64, deduplicate)
    batch = torch.arange(40, 50)
    negatives, keys = torch.randint(NODES, (10,), generator=generator), torch.arange(2 * EVENTS, 2 * EVENTS + 10)
    nodes = torch.cat([src[batch], dst[batch], negatives])
    return sampler, Roots(nodes, t[batch].repeat(3), torch.cat([2 * batch, 2 * batch + 1, keys]))


def words(hops: int) -> list[torch.Tensor]:
    return [torch.tensor([0, 4 + 16 * hop, 1, 2]) for hop in range(hops)]


def earlier(stream: EventStream, node: int, time: int) -> list[tuple[int, int]]:
    """Events of a node strictly before a time, with the other ends, the latest first; a self-loop is there twice."""
    events = []
    for event in range(EVENTS):
        src, dst, t = (column[event].item() for column in (stream.src, stream.dst, stream.t))
        if t < time:
            events += [(event, dst)] * (src == node) + [(event, src)] * (dst == node)
    return events[::-1]


def points_of(roots: Roots) -> list[Point]:
    return list(zip(roots.keys.tolist(), roots.nodes.tolist(), roots.times.tolist(), strict=True))


def check_slots(sampler: NeighbourSampler, hop: Hop, points: list[Point]) -> list[list[tuple[int, int]]]:
    """Check events and time differences of a hop's slots; returns each point's (event, neighbour) pairs."""
    slots = []
    for place, (_, node, time) in enumerate(points):
        before = earlier(sampler.stream, node, time)
        count, events = int(hop.counts[place]), hop.event_ids[place].tolist()
        assert count == min(FANOUT, len(before))
        assert events[count:] == [-1] * (FANOUT - count)
        assert not hop.rows[place, count:].any()
        others: dict[int, int] = dict(before)
        assert set(events[:count]) <= others.keys()
        if not sampler.uniform:
            assert events[:count] == [event for event, _ in before[:FANOUT]]
        times = [sampler.stream.t[event].item() for event in events[:count]]
        assert hop.deltas[place, :count].tolist() == [time - then for then in times]
        slots.append([(event, others[event]) for event in events[:count]])
    return slots


def check_nodes(
    around: Neighbourhood, roots: Roots, points: list[Point], slots: list[list[tuple[int, int]]], deduplicate: str
) -> None:
    """Check the nodes, and the rows of the first hop's points and of their neighbours."""
    hop, nodes = around.hops[0], around.nodes.tolist()
    if deduplicate == "all":
        assert len(set(nodes)) == len(nodes)
    else:
        rows = [row for place, pairs in enumerate(slots) for row in hop.rows[place, : len(pairs)].tolist()]
        assert rows == list(range(hop.distinct, len(nodes))), "every filled slot has a row, the others have none"
        assert len(rows) > len(set(nodes)), "neighbours repeat"
    firsts = list(dict.fromkeys(roots.nodes.tolist()))
    assert nodes[: len(firsts)] == firsts, "the roots' nodes come first, in the order of first occurrence"
    assert [nodes[row] for row in around.root_rows] == roots.nodes.tolist()
    assert set(around.root_rows.tolist()) == set(range(len(set(roots.nodes.tolist())))), "the roots' nodes are first"
    assert [nodes[row] for row in hop.root_rows] == [node for _, node, _ in points]
    assert hop.distinct == len({node for _, node, _ in points})
    assert int(hop.root_rows.max()) == hop.distinct - 1
    for place, pairs in enumerate(slots):
        assert [nodes[row] for row in hop.rows[place, : len(pairs)]] == [other for _, other in pairs]


DEDUPLICATE = pytest.mark.parametrize("deduplicate", ["all", "roots"])


@pytest.mark.parametrize("uniform", [False, True], ids=["recent", "uniform"])
@DEDUPLICATE
def test_two_hops(uniform: bool, deduplicate: str) -> None:
    sampler, roots = scene(uniform, deduplicate)
    around = sampler.around(roots, words(2))
    below, above = around.hops
    slots = check_slots(sampler, above, points_of(roots))
    table: dict[int, Point] = {}
    for row, point in zip(above.root_rows.tolist(), points_of(roots), strict=True):
        assert table.setdefault(row, point) == point
    assert table.keys() == set(range(above.distinct)), "the roots' points are first"
    for place, pairs in enumerate(slots):
        for row, (event, other) in zip(above.rows[place].tolist(), pairs, strict=False):
            key = 2 * event + int(sampler.stream.dst[event] == other)
            point = (key, other, sampler.stream.t[event].item())
            assert table.setdefault(row, point) == point
    points = [table[row] for row in range(len(table))]
    assert len(set(points)) == len(points), "every end of an event is one point"
    assert below.root_rows.numel() == len(points) < 30 + 30 * FANOUT
    check_nodes(around, roots, points, check_slots(sampler, below, points), deduplicate)


def test_hops_have_independent_draws() -> None:
    sampler, roots = scene(uniform=True)
    two, other = (sampler.around(roots, [words(2)[first], words(2)[1]]).hops for first in (0, 1))
    assert torch.equal(two[1].event_ids, other[1].event_ids)
    assert not torch.equal(two[0].event_ids, other[0].event_ids)


@DEDUPLICATE
def test_one_hop_and_none(deduplicate: str) -> None:
    sampler, roots = scene(deduplicate=deduplicate)
    around = sampler.around(roots, words(1))
    check_nodes(around, roots, points_of(roots), check_slots(sampler, around.hops[0], points_of(roots)), deduplicate)
    alone = sampler.around(roots, [])
    assert alone.hops == []
    assert alone.nodes[alone.root_rows].tolist() == roots.nodes.tolist()
    assert alone.nodes.numel() == len(set(roots.nodes.tolist()))


@DEDUPLICATE
def test_roots_without_earlier_events(deduplicate: str) -> None:
    sampler, _ = scene(deduplicate=deduplicate)
    nodes = torch.tensor([2, 0, 2])
    around = sampler.around(Roots(nodes, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 2])), words(2))
    assert around.nodes.tolist() == [2, 0]
    assert [hop.counts.tolist() for hop in around.hops] == [[0, 0, 0], [0, 0, 0]]
    assert around.hops[1].root_rows.tolist() == [0, 1, 2]
    assert around.root_rows.tolist() == [0, 1, 0]


def test_an_unknown_deduplicate_is_refused() -> None:
    with pytest.raises(ConfigError, match="deduplicate 'some' is not one of all, roots"):
        scene(deduplicate="some")
