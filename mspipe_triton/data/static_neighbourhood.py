"""Neighbourhoods of static shape: padded to a capacity, with counts in tensors, so the host never waits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mspipe_triton.data.neighbourhood import Hop, Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.kernels import unique_nodes

_MARGIN, _ROUND = 1.3, 64


class StaticSampler:
    """Sampler with the results of `NeighbourSampler.around` ("all" deduplicated), at shapes that are known in advance.

    Deduplication has one level per hop, and the last level is that of the nodes; a model without hops has only this
    level. Every level has a capacity. If there are more ids than fit, the rows of the rest are wrong, and `overflowed`
    returns True.

    Args:
        sampler: with stream and adjacency on the device.
        layers: number of hops of a neighbourhood.
    """

    def __init__(self, sampler: NeighbourSampler, layers: int) -> None:
        self.sampler, self.layers = sampler, layers
        self.capacities: list[int] | None = None
        self.sizes = [0] * max(layers, 1)
        self.peaks = torch.zeros(max(layers, 1), dtype=torch.int64, device=sampler.adjacency.indptr.device)

    def around(
        self, roots: Roots, ends: int, words: Sequence[torch.Tensor], horizon: torch.Tensor | None = None
    ) -> Neighbourhood:
        """Sample the neighbourhood of roots; roots of node −1 are padding.

        Args:
            roots: R nodes at one time each; the keys are read if there are two hops or more.
            ends: the number of roots that are ends of events; the keys of the others count up from 2E in their order.
            words: Philox words [4] of every hop.
            horizon: [], a time that neighbours must be before, too; None for no such time.
        """
        hops: list[Hop] = []
        new, points = Roots(*(part[ends:] for part in (roots.nodes, roots.times, roots.keys))), roots
        for level, hop_words in enumerate(words[1:]):
            points, hop = self._pairs(points, new, hop_words, level, horizon)
            hops.append(hop)
        if not words:
            nodes, rows, count = self._unique(roots.nodes, 0, roots.nodes.numel())
            return Neighbourhood(nodes, rows, [], count)
        neighbours, events, deltas, counts = self.sampler.neighbours(
            points.nodes, points.times, words[0], horizon, points.places
        )
        size = points.nodes.numel()
        nodes, inverse, count = self._unique(torch.cat([points.nodes, neighbours.view(-1)]), self.layers - 1, size)
        root_rows, rows = inverse[:size], inverse[size:].view_as(neighbours)
        hops.append(Hop(root_rows, size, rows, events, deltas, counts))
        hops.reverse()
        top = hops[-1].root_rows
        return Neighbourhood(nodes, top if len(hops) == 1 else root_rows.index_select(0, top), hops, count)

    def fit(self) -> None:
        """Set the capacities to the largest counts so far plus a margin."""
        self.capacities = [-(-int(_MARGIN * peak) // _ROUND) * _ROUND for peak in self.peaks.tolist()]
        self.peaks.zero_()

    def overflowed(self) -> bool:
        """Return True if a count was above its capacity since the capacities were set; waits for the device."""
        return any(peak > size for peak, size in zip(self.peaks.tolist(), self.sizes, strict=True))

    def _unique(self, ids: torch.Tensor, level: int, minimum: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Distinct ids, the position of each of `ids` among them, and their number [1], whose peak is stored."""
        size = ids.numel() if self.capacities is None else min(ids.numel(), max(self.capacities[level], minimum))
        self.sizes[level] = size
        nodes, inverse, count = unique_nodes(ids, size)
        if self.capacities is None or size < ids.numel():
            peak = self.peaks[level : level + 1]
            torch.maximum(peak, count, out=peak)
        return nodes, inverse, count

    def _pairs(
        self, roots: Roots, new: Roots, words: torch.Tensor, level: int, horizon: torch.Tensor | None
    ) -> tuple[Roots, Hop]:
        """Sample a hop over (node, time) pairs; returns the distinct pairs, the roots' first, and the hop.

        The `new` roots are those whose keys count up from 2E.
        """
        neighbours, events, deltas, counts = self.sampler.neighbours(
            roots.nodes, roots.times, words, horizon, roots.places
        )
        stream, size = self.sampler.stream, roots.nodes.numel()
        ends = (stream.dst.index_select(0, events.clamp(min=0).view(-1)).view_as(events) == neighbours).long()
        slots = torch.where(events >= 0, 2 * events + ends, -1)
        keys, inverse, _ = self._unique(torch.cat([roots.keys, slots.view(-1)]), level, size)
        root_rows, rows = inverse[:size], inverse[size:].view_as(neighbours)
        last, is_new = 2 * len(stream) - 1, keys >= 2 * len(stream)
        event = keys.clamp(min=0, max=last) >> 1
        nodes = torch.where(keys & 1 == 1, stream.dst.index_select(0, event), stream.src.index_select(0, event))
        times = stream.t.index_select(0, event)
        if new.nodes.numel():
            place = (keys - (last + 1)).clamp(min=0, max=new.nodes.numel() - 1)
            nodes = torch.where(is_new, new.nodes.index_select(0, place), nodes)
            times = torch.where(is_new, new.times.index_select(0, place), times)
        nodes = torch.where(keys < 0, -1, nodes)
        return Roots(nodes, times, keys), Hop(root_rows, size, rows, events, deltas, counts)
