"""Ranking of events among candidates: the distinct (node, time) pairs of a batch, each of which is embedded once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from mspipe_triton.iteration.scene import Scene

PAIRS = 2**16  # pairs that are embedded at a time: many, so that they share rows, in tables of some 30 MB at most
_ROUND = 16
_PADDING = 2**62


class Pairs(NamedTuple):
    """The distinct (node, time) pairs of B events that have C nodes each, sorted by node and then by time.

    In this order, successive pairs have most of their neighbours in common, so a group of them needs few rows.

    nodes, times: [P], with node −1 in padding, which comes last. rows: [B, C], the pair of each node; arbitrary for
    padding. real: [1], the number of pairs that are no padding.
    """

    nodes: torch.Tensor
    times: torch.Tensor
    rows: torch.Tensor
    real: torch.Tensor

    @staticmethod
    def of(nodes: torch.Tensor, times: torch.Tensor) -> Pairs:
        """Find the pairs, P = B·C with padding, without waiting for the device.

        Args:
            nodes: [B, C], −1 in padding. times: [B] of the events, never decreasing.
        """
        size = times.numel()
        first = torch.searchsorted(times, times)  # events of one time have the same first one
        keys = torch.where(nodes < 0, _PADDING, nodes * size + first.unsqueeze(1))
        ordered, places = keys.view(-1).sort()
        steps = torch.cat([torch.zeros_like(places[:1]), (ordered[1:] != ordered[:-1]).long()])
        numbers = steps.cumsum(0)
        rows = torch.empty_like(numbers).scatter_(0, places, numbers)
        distinct = torch.full_like(ordered, _PADDING).scatter_(0, numbers, ordered)
        real = distinct < _PADDING
        events = torch.where(real, distinct % size, 0)
        pair_nodes = torch.where(real, distinct // size, -1)
        return Pairs(pair_nodes, times.index_select(0, events), rows.view_as(nodes), real.sum(0, keepdim=True))

    def cut(self, capacity: int) -> Pairs:
        """Keep the first `capacity` pairs, rounded up; it must be at least the number of real ones.

        Products of few rows round differently, so that equal embeddings of two groups would not tie.
        """
        capacity = -(-capacity // _ROUND) * _ROUND
        return Pairs(self.nodes[:capacity], self.times[:capacity], self.rows.clamp(max=capacity - 1), self.real)


class StaticPairs:
    """Source of pairs whose number is fixed: at first all B·C, with padding; after `fit`, the most that were found."""

    def __init__(self, device: torch.device) -> None:
        self.capacity: int | None = None
        self.peak = torch.zeros(1, dtype=torch.int64, device=device)

    def of(self, nodes: torch.Tensor, times: torch.Tensor) -> Pairs:
        """Find the pairs of B events, as `Pairs.of` does."""
        pairs = Pairs.of(nodes, times)
        torch.maximum(self.peak, pairs.real, out=self.peak)
        return pairs if self.capacity is None else pairs.cut(self.capacity)

    def fit(self) -> None:
        """Set the number to the largest count so far, at least 1."""
        self.capacity = max(1, int(self.peak))


class Ranked(NamedTuple):
    """Events that are ranked together.

    rows: [M, 1 + N], the pairs of each event's destination and candidates. scene: the pairs, as roots. gaps: [M, N],
    True where an event has no candidate; None if it has all.
    """

    rows: torch.Tensor
    scene: Scene
    gaps: torch.Tensor | None = None


Ranking = Iterator[Ranked]  # of a batch, in the order of its events


def events_at_a_time(candidates: int) -> int:
    """Return the number of events that are ranked together, with N candidates each."""
    return max(1, PAIRS // (1 + candidates))
