"""Mini-batches of a stream with several types of events: roots, and their recent neighbours of each type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.examples.typed_stream import KINDS, TypedStream
from mspipe_triton.kernels import sample_recent


class TypedBatch(NamedTuple):
    """B events in time order, K types, and F neighbours per root and type.

    Args:
        roots: [B, 3] int64: source, destination, and a negative destination.
        times: [B] int64 or float64.
        kind: [B] int64, the type, 0 to K − 1.
        event: [B] int64, the number of the event in the stream; 0 makes the model forget what came before.
        neighbours: [B, K, 3, F] int64, the latest neighbours of each root by events of each type before the root's
            time, the latest first; −1 in empty slots, which come last.
        deltas: [B, K, 3, F] floating, root's time − neighbour's time.
        counts: [B, K, 3] int64, filled slots.
    """

    roots: Tensor
    times: Tensor
    kind: Tensor
    event: Tensor
    neighbours: Tensor
    deltas: Tensor
    counts: Tensor


class TypedBatches:
    """Mini-batches of a stream, from its start at each iteration; the rest that fills no mini-batch is left out.

    They depend on the arguments alone, so every process of a pipeline gets the same ones.

    Args:
        stream: the events.
        size: B, events per mini-batch.
        fanout: F, neighbours per root and type.
        seed: of the negatives; those of an event are uniform among the other destinations of its type.
    """

    def __init__(self, stream: TypedStream, size: int, fanout: int, seed: int = 0) -> None:
        self.stream, self.size, self.fanout = stream, size, fanout
        self.negative = torch.empty_like(stream.events.dst)
        self.adjacencies = []
        for kind in KINDS:
            events, numbers = stream.of(kind)
            sampler = NegativeSampler(events, seed)
            draws = sampler.iterate(Purpose.TRAIN_NEGATIVES, kind, events.dst, max(1, len(events)))
            self.negative[numbers] = torch.cat([each.view(-1) for each in draws])
            self.adjacencies.append(TemporalCSR.build(events))

    def __len__(self) -> int:
        return len(self.stream.events) // self.size

    def __iter__(self) -> Iterator[TypedBatch]:
        events = self.stream.events
        for start in range(0, len(self) * self.size, self.size):
            event = torch.arange(start, start + self.size)
            roots = torch.stack([each[event] for each in (events.src, events.dst, self.negative)], 1)
            times = events.t[event]
            around = [self._around(each, roots, times) for each in self.adjacencies]
            yield TypedBatch(roots, times, self.stream.kind[event], event, *map(_by_type, zip(*around, strict=True)))

    def _around(self, adjacency: TemporalCSR, roots: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return neighbours and deltas [B, 3, F] and counts [B, 3] by events of one type."""
        parts = (adjacency.indptr, adjacency.neighbours, adjacency.event_ids, adjacency.times)
        nodes, _, deltas, counts = sample_recent(*parts, roots.view(-1), times.repeat_interleave(3), self.fanout)
        slots = (*roots.shape, self.fanout)
        return nodes.view(slots), deltas.view(slots), counts.view(roots.shape)


def _by_type(columns: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(columns, 1)
