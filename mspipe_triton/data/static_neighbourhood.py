"""Neighbourhoods of static shape: padded to a capacity, true counts in tensors, nothing that waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mspipe_triton.data.neighbourhood import Hop, Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.kernels import unique_nodes

_MARGIN, _ROUND = 1.3, 64


class StaticSampler:
    """Samples what `NeighbourSampler.around` does ("all" deduplicated), at shapes that are known beforehand.

    Deduplication has a level for every hop, the last one that of the nodes; a model without hops has that one. Every
    level has a capacity. Where more is found than fits, the rows of what did not fit are wrong, and `overflowed` tells.

    Args:
        sampler: of streams and an adjacency on the device.
        layers: hops of a neighbourhood.
    """

    def __init__(self, sampler: NeighbourSampler, layers: int) -> None:
        self.sampler, self.layers = sampler, layers
        self.capacities: list[int] | None = None
        self.rooms = [0] * max(layers, 1)
        self.most = torch.zeros(max(layers, 1), dtype=torch.int64, device=sampler.adjacency.indptr.device)

    def around(self, roots: Roots, ends: int, words: Sequence[torch.Tensor]) -> Neighbourhood:
        """The neighbourhood of roots, −1 among them being padding.

        Args:
            roots: R nodes at a time each; the keys are read where there are two hops or more.
            ends: how many of them are ends of events; the others' keys count on from 2E in their order.
            words: Philox words [4] of every hop.
        """
        hops: list[Hop] = []
        new, points = Roots(*(part[ends:] for part in (roots.nodes, roots.times, roots.keys))), roots
        for level, hop_words in enumerate(words[1:]):
            points, hop = self._pairs(points, new, hop_words, level)
            hops.append(hop)
        if not words:
            nodes, rows, count = self._distinct(roots.nodes, 0, roots.nodes.numel())
            return Neighbourhood(nodes, rows, [], count)
        neighbours, events, deltas, counts = self.sampler.neighbours(points.nodes, points.times, words[0])
        size = points.nodes.numel()
        nodes, inverse, count = self._distinct(torch.cat([points.nodes, neighbours.view(-1)]), self.layers - 1, size)
        root_rows, rows = inverse[:size], inverse[size:].view_as(neighbours)
        hops.append(Hop(root_rows, size, rows, events, deltas, counts))
        hops.reverse()
        top = hops[-1].root_rows
        return Neighbourhood(nodes, top if len(hops) == 1 else root_rows.index_select(0, top), hops, count)

    def fit(self) -> None:
        """Take what was found at most so far, and some more, as the capacities."""
        self.capacities = [-(-int(_MARGIN * most) // _ROUND) * _ROUND for most in self.most.tolist()]
        self.most.zero_()

    def overflowed(self) -> bool:
        """Whether more was found than fitted since the capacities were set; this waits for the device."""
        return any(most > room for most, room in zip(self.most.tolist(), self.rooms, strict=True))

    def _distinct(self, ids: torch.Tensor, level: int, least: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The distinct ids, the place of each of `ids` among them, and their number [1], which is remembered."""
        room = ids.numel() if self.capacities is None else min(ids.numel(), max(self.capacities[level], least))
        self.rooms[level] = room
        found, inverse, count = unique_nodes(ids, room)
        if self.capacities is None or room < ids.numel():
            most = self.most[level : level + 1]
            torch.maximum(most, count, out=most)
        return found, inverse, count

    def _pairs(self, roots: Roots, new: Roots, words: torch.Tensor, level: int) -> tuple[Roots, Hop]:
        """A hop over (node, time) pairs, and the distinct pairs, the roots' first; `new` roots have own keys."""
        neighbours, events, deltas, counts = self.sampler.neighbours(roots.nodes, roots.times, words)
        stream, size = self.sampler.stream, roots.nodes.numel()
        ends = (stream.dst.index_select(0, events.clamp(min=0).view(-1)).view_as(events) == neighbours).long()
        slots = torch.where(events >= 0, 2 * events + ends, -1)
        keys, inverse, _ = self._distinct(torch.cat([roots.keys, slots.view(-1)]), level, size)
        root_rows, rows = inverse[:size], inverse[size:].view_as(neighbours)
        last, own = 2 * len(stream) - 1, keys >= 2 * len(stream)
        event = keys.clamp(min=0, max=last) >> 1
        nodes = torch.where(keys & 1 == 1, stream.dst.index_select(0, event), stream.src.index_select(0, event))
        times = stream.t.index_select(0, event)
        if new.nodes.numel():
            place = (keys - (last + 1)).clamp(min=0, max=new.nodes.numel() - 1)
            nodes = torch.where(own, new.nodes.index_select(0, place), nodes)
            times = torch.where(own, new.times.index_select(0, place), times)
        nodes = torch.where(keys < 0, -1, nodes)
        return Roots(nodes, times, keys), Hop(root_rows, size, rows, events, deltas, counts)
