"""Neighbourhood of a batch: sampled temporal neighbours, the distinct nodes, and the rows of each among them."""

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
    """R nodes to embed, at one time each; equal `keys` [R] mean equal (node, time) pairs.

    A padding root has node −1 and key −1. The key of an event's source is 2·event, of its destination 2·event + 1;
    other roots have keys of their own. `places` [R] are those of the roots in a whole batch, if they are a share of it:
    uniform neighbours of a root then depend on its place; None if the roots are whole.
    """

    nodes: torch.Tensor
    times: torch.Tensor
    keys: torch.Tensor
    places: torch.Tensor | None = None


@dataclass(frozen=True)
class Hop:
    """Sampled neighbours of P points, which are (node, time) pairs, in F slots each, for one layer of the embedding.

    The layer reads a table: for the first layer the neighbourhood's nodes, for the others the points of the layer
    below. root_rows [P]: each point's row in the table, whose first `distinct` rows are the points'; rows [P, F]: each
    slot's row (0 in empty slots); event_ids [P, F], −1 in empty slots; deltas [P, F], point's time − neighbour's time;
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
    """Edge rows of a hop's slots: rows [P, F] of a table [·, E], −1 in empty slots; or one table [P·F, E] alone."""

    table: torch.Tensor
    rows: torch.Tensor | None = None

    def gather(self) -> torch.Tensor:
        """Edge rows [P·F, E]; those of empty slots are arbitrary."""
        return self.table if self.rows is None else self.table.index_select(0, self.rows.clamp(min=0).view(-1))


@dataclass(frozen=True)
class Neighbourhood:
    """Nodes [U] of roots and neighbours, the roots' rows [R] among them, and one hop per layer, the roots' hop last.

    The roots' nodes come first, each once, in order of first occurrence. The neighbours' nodes follow, once each or
    once per slot (see `NeighbourSampler`). With static shapes, `count` [1] is the number of nodes, −1 fills the rest,
    and padding roots have row 0.
    """

    nodes: torch.Tensor
    root_rows: torch.Tensor
    hops: list[Hop]
    count: torch.Tensor | None = None

    def on(self, placement: Placement) -> Neighbourhood:
        """Copy the neighbourhood to the device of a placement."""
        load = placement.load
        hops = [
            Hop(load(hop.root_rows), hop.distinct, load(hop.rows), hop.event_ids, load(hop.deltas), load(hop.counts))
            for hop in self.hops
        ]
        return Neighbourhood(load(self.nodes), load(self.root_rows), hops)


@dataclass(frozen=True)
class NeighbourSampler:
    """Sampler of up to `fanout` neighbours strictly before a time, the most recent or uniform ones.

    Args:
        adjacency: of `stream`.
        dtype: of the time differences.
        deduplicate: "all": a neighbourhood has every node once; "roots": it has the nodes of the first hop's points
            once, followed by one row per filled slot. "roots" saves the search for distinct neighbours, and costs one
            more row for each repeated neighbour.

    Raises:
        ConfigError: `deduplicate` is unknown.
    """

    stream: EventStream
    adjacency: TemporalCSR
    fanout: int
    uniform: bool
    dtype: torch.dtype
    deduplicate: str = "all"

    def __post_init__(self) -> None:
        if self.deduplicate not in DEDUPLICATED:
            raise ConfigError(f"deduplicate {self.deduplicate!r} is not one of {', '.join(DEDUPLICATED)}")

    def around(self, roots: Roots, draws: list[torch.Tensor], horizon: torch.Tensor | None = None) -> Neighbourhood:
        """Sample the neighbourhood of roots, with one hop for each of `draws`, its Philox words [4].

        Every hop but the last is around the distinct (node, time) pairs of the hop above it. Neighbours are from before
        the `horizon` [], too, if there is one.
        """
        hops: list[Hop] = []
        for words in draws[1:]:
            roots, hop = self._pairs(roots, words, horizon)
            hops.append(hop)
        if not draws:
            nodes, rows = _unique(roots.nodes)
            return Neighbourhood(nodes, rows, [])
        neighbours, events, deltas, counts = self.neighbours(roots.nodes, roots.times, draws[0], horizon, roots.places)
        join = _join if self.deduplicate == "all" else _append
        nodes, root_rows, rows, distinct = join(roots.nodes, neighbours, counts)
        hops.append(Hop(root_rows, distinct, rows, events, deltas, counts))
        hops.reverse()
        top = hops[-1].root_rows
        return Neighbourhood(nodes, top if len(hops) == 1 else root_rows.index_select(0, top), hops)

    def neighbours(
        self, nodes: torch.Tensor, times: torch.Tensor, words: torch.Tensor, horizon: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Sample neighbours [P, F] of P nodes before one time each, with their events, time differences and counts.

        They are from before the `horizon` [], too, if there is one. For `places` [P] see `Roots`.
        """
        graph = (self.adjacency.indptr, self.adjacency.neighbours, self.adjacency.event_ids, self.adjacency.times)
        bounds = times if horizon is None else torch.minimum(times, horizon)
        if self.adjacency.stride > 1:
            nodes = nodes * self.adjacency.stride  # those of padding stay negative
        if self.uniform:
            sampled = sample_uniform(*graph, nodes, bounds, self.fanout, words, self.dtype, places)
        else:
            sampled = sample_recent(*graph, nodes, bounds, self.fanout, self.dtype)
        if horizon is None:
            return sampled
        neighbours, events, deltas, counts = sampled
        later = (times - bounds).to(self.dtype).unsqueeze(1)
        return neighbours, events, torch.where(events < 0, deltas, deltas + later), counts

    def _pairs(self, roots: Roots, words: torch.Tensor, horizon: torch.Tensor | None) -> tuple[Roots, Hop]:
        """Sample a hop over (node, time) pairs; returns the distinct pairs, the roots' first, and the hop."""
        neighbours, events, deltas, counts = self.neighbours(roots.nodes, roots.times, words, horizon, roots.places)
        mask = events >= 0
        ends = (self.stream.dst.index_select(0, events.clamp(min=0).view(-1)).view_as(events) == neighbours).long()
        keys, inverse = _unique(torch.cat([roots.keys, torch.where(mask, 2 * events + ends, -1).view(-1)]))
        root_rows, rows = inverse.split([roots.nodes.numel(), neighbours.numel()])
        slots, points = (part.view(-1).nonzero().squeeze(1) for part in (mask, roots.nodes >= 0))
        places = torch.cat([rows.index_select(0, slots), root_rows.index_select(0, points)])
        values = torch.cat([neighbours.view(-1).index_select(0, slots), roots.nodes.index_select(0, points)])
        nodes = values.new_empty(keys.numel()).index_copy_(0, places, values)
        event_times = self.stream.t.index_select(0, events.view(-1).index_select(0, slots))
        values = torch.cat([event_times, roots.times.index_select(0, points)])
        times = values.new_empty(keys.numel()).index_copy_(0, places, values)
        hop = Hop(root_rows, _head(root_rows), rows.view_as(neighbours), events, deltas, counts)
        return Roots(nodes, times, keys), hop


NodesAndRows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


def _join(roots: torch.Tensor, neighbours: torch.Tensor, counts: torch.Tensor) -> NodesAndRows:
    """Distinct nodes of roots [P] and neighbours [P, F], the rows of both among them, and the number of the roots'."""
    points, places = torch.cat([roots.unsqueeze(1), neighbours], 1), None
    new = torch.cat([torch.ones_like(roots[:1], dtype=torch.bool), (points[1:] != points[:-1]).any(1)])
    if 2 * int(new.sum()) < roots.numel():  # sorted roots, most of which have the neighbours of the one before
        points, places = points[new], new.cumsum(0) - 1
    nodes, inverse = _unique(torch.cat([points[:, 0], points[:, 1:].reshape(-1)]))
    root_rows, rows = inverse[: points.shape[0]], inverse[points.shape[0] :].view(points.shape[0], -1)
    head = _head(root_rows)
    if places is not None:
        root_rows, rows = root_rows.index_select(0, places), rows.index_select(0, places)
    return nodes, root_rows, rows, head


def _append(roots: torch.Tensor, neighbours: torch.Tensor, counts: torch.Tensor) -> NodesAndRows:
    """Like `_join`, but only the roots' nodes are distinct; the node of every filled slot follows, slot by slot."""
    nodes, root_rows = _unique(roots)
    offset = (counts.cumsum(0) - counts + nodes.numel()).unsqueeze(1)  # the filled slots come first
    place = torch.arange(neighbours.shape[1])
    rows = torch.where(place < counts.unsqueeze(1), offset + place, 0)
    others = neighbours.masked_select(neighbours >= 0)
    return torch.cat([nodes, others]), root_rows, rows, nodes.numel()


def _unique(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct non-negative ids in order of first occurrence, and the position [M] of each of `ids` among them."""
    nodes, inverse, count = unique_nodes(ids, ids.numel())
    return nodes[: int(count)], inverse


def _head(rows: torch.Tensor) -> int:
    return int(rows.max()) + 1
