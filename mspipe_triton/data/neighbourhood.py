"""The neighbourhood of a batch: sampled temporal neighbours, the nodes to fetch, and where each stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels import sample_recent, sample_uniform, unique_nodes
from mspipe_triton.placement import Placement

DEDUPLICATED = ("all", "roots")


@dataclass(frozen=True)
class Roots:
    """R nodes at a time each, what is asked about; `keys` [R] tell equal (node, time) pairs by equal numbers.

    A root that is padding has node −1 and key −1. The key of an event's source is 2·event, of its destination
    2·event + 1; other roots have keys of their own.
    """

    nodes: torch.Tensor
    times: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True)
class Hop:
    """The sampled neighbours of P points (nodes at a time), F slots each, for one layer of the embedding.

    The layer reads a table: the first one the neighbourhood's nodes, those above it the points of the layer below.
    root_rows [P]: each point's row in the table, whose first `distinct` rows are the points'; rows [P, F]: each slot's
    row (0 in empty slots); event_ids [P, F], −1 in empty slots; deltas [P, F], point's time − neighbour's time;
    counts [P], filled slots, which come first.
    """

    root_rows: torch.Tensor
    distinct: int
    rows: torch.Tensor
    event_ids: torch.Tensor
    deltas: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True)
class EdgeRows:
    """The edge rows of a hop's slots: rows [P, F] of a table [·, E], −1 in empty slots, or without rows [P·F, E]."""

    table: torch.Tensor
    rows: torch.Tensor | None = None

    def gathered(self) -> torch.Tensor:
        """[P·F, E]; empty slots have any row."""
        return self.table if self.rows is None else self.table.index_select(0, self.rows.clamp(min=0).view(-1))


@dataclass(frozen=True)
class Neighbourhood:
    """Nodes [U] of roots and neighbours; rows [R] of the roots; a hop for every layer, the roots the last one's points.

    The roots' nodes come first, each once, in order of first occurrence. Those of the neighbours come once too, or once
    a slot (see `NeighbourSampler`). Where shapes are static, `count` [1] says how many nodes there are, −1 fills the
    rest, and padding among the roots has row 0.
    """

    nodes: torch.Tensor
    root_rows: torch.Tensor
    hops: list[Hop]
    count: torch.Tensor | None = None

    def on(self, placement: Placement) -> Neighbourhood:
        """The same on the device of a placement."""
        load = placement.load
        hops = [
            Hop(load(hop.root_rows), hop.distinct, load(hop.rows), hop.event_ids, load(hop.deltas), load(hop.counts))
            for hop in self.hops
        ]
        return Neighbourhood(load(self.nodes), load(self.root_rows), hops)


@dataclass(frozen=True)
class NeighbourSampler:
    """Samples a fanout of neighbours strictly before a time: the most recent, or uniform ones.

    Args:
        adjacency: of `stream`.
        dtype: of the time differences.
        deduplicate: "all": a neighbourhood has every node once; "roots": it has the nodes of the first hop's points
            once and behind them a row for every filled slot, which spares looking for the distinct ones and costs as
            many rows more as neighbours repeat.

    Raises:
        ConfigError: another `deduplicate`.
    """

    stream: EventStream
    adjacency: TemporalCSR
    fanout: int
    uniform: bool
    dtype: torch.dtype
    deduplicate: str = "all"

    def __post_init__(self) -> None:
        if self.deduplicate not in DEDUPLICATED:
            raise ConfigError(f"deduplicate {self.deduplicate!r}: give {' or '.join(DEDUPLICATED)}")

    def around(self, roots: Roots, draws: list[torch.Tensor]) -> Neighbourhood:
        """The neighbourhood of roots, with as many hops as there are `draws`, the Philox words [4] of each.

        Every hop but the last is around the distinct (node, time) pairs that the hop above it touches.
        """
        hops: list[Hop] = []
        for words in draws[1:]:
            roots, hop = self._pairs(roots, words)
            hops.append(hop)
        if not draws:
            nodes, rows = _distinct(roots.nodes)
            return Neighbourhood(nodes, rows, [])
        neighbours, events, deltas, counts = self.neighbours(roots.nodes, roots.times, draws[0])
        join = _joined if self.deduplicate == "all" else _appended
        nodes, root_rows, rows, distinct = join(roots.nodes, neighbours, counts)
        hops.append(Hop(root_rows, distinct, rows, events, deltas, counts))
        hops.reverse()
        top = hops[-1].root_rows
        return Neighbourhood(nodes, top if len(hops) == 1 else root_rows.index_select(0, top), hops)

    def neighbours(self, nodes: torch.Tensor, times: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Neighbours [P, F], their events, time differences and counts of P nodes before a time each."""
        graph = (self.adjacency.indptr, self.adjacency.neighbours, self.adjacency.event_ids, self.adjacency.times)
        if self.uniform:
            return sample_uniform(*graph, nodes, times, self.fanout, words, self.dtype)
        return sample_recent(*graph, nodes, times, self.fanout, self.dtype)

    def _pairs(self, roots: Roots, words: torch.Tensor) -> tuple[Roots, Hop]:
        """A hop over (node, time) pairs, and the distinct pairs, the roots' first."""
        neighbours, events, deltas, counts = self.neighbours(roots.nodes, roots.times, words)
        filled = events >= 0
        ends = (self.stream.dst.index_select(0, events.clamp(min=0).view(-1)).view_as(events) == neighbours).long()
        keys, inverse = _distinct(torch.cat([roots.keys, torch.where(filled, 2 * events + ends, -1).view(-1)]))
        root_rows, rows = inverse.split([roots.nodes.numel(), neighbours.numel()])
        real, own = (part.view(-1).nonzero().squeeze(1) for part in (filled, roots.nodes >= 0))
        places = torch.cat([rows.index_select(0, real), root_rows.index_select(0, own)])
        beside = torch.cat([neighbours.view(-1).index_select(0, real), roots.nodes.index_select(0, own)])
        nodes = beside.new_empty(keys.numel()).index_copy_(0, places, beside)
        entries = self.stream.t.index_select(0, events.view(-1).index_select(0, real))
        beside = torch.cat([entries, roots.times.index_select(0, own)])
        times = beside.new_empty(keys.numel()).index_copy_(0, places, beside)
        hop = Hop(root_rows, _head(root_rows), rows.view_as(neighbours), events, deltas, counts)
        return Roots(nodes, times, keys), hop


Joined = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


def _joined(roots: torch.Tensor, neighbours: torch.Tensor, counts: torch.Tensor) -> Joined:
    """Distinct nodes of roots [P] and neighbours [P, F], the rows of both among them, and how many are the roots'."""
    nodes, inverse = _distinct(torch.cat([roots, neighbours.view(-1)]))
    root_rows, rows = inverse.split([roots.numel(), neighbours.numel()])
    return nodes, root_rows, rows.view_as(neighbours), _head(root_rows)


def _appended(roots: torch.Tensor, neighbours: torch.Tensor, counts: torch.Tensor) -> Joined:
    """The same with distinct nodes of the roots alone, and behind them the node of every filled slot, slot by slot."""
    nodes, root_rows = _distinct(roots)
    before = (counts.cumsum(0) - counts + nodes.numel()).unsqueeze(1)  # the filled slots come first
    place = torch.arange(neighbours.shape[1])
    rows = torch.where(place < counts.unsqueeze(1), before + place, 0)
    filled = neighbours.masked_select(neighbours >= 0)
    return torch.cat([nodes, filled]), root_rows, rows, nodes.numel()


def _distinct(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct non-negative ids in the order of first occurrence, and the place [M] of each of `ids` among them."""
    found, inverse, count = unique_nodes(ids, ids.numel())
    return found[: int(count)], inverse


def _head(rows: torch.Tensor) -> int:
    return int(rows.max()) + 1
