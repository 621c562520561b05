"""What the stages of an iteration hand to one another: a batch of events, and what each stage adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood
from mspipe_triton.mailbox import Receivers


@dataclass(frozen=True)
class Batch:
    """B consecutive events [start, stop) with a negative destination each, and candidates [B, N] when ranking.

    `size` is that of a whole batch: the last one is padded to it, so that draws have the same place in all of them.
    """

    index: int
    epoch: int
    start: int
    stop: int
    size: int
    negatives: torch.Tensor
    candidates: torch.Tensor | None = None


@dataclass(frozen=True)
class Sampled:
    """A batch and the neighbourhood of its 3B roots, on the host; the first `endpoints` nodes are its events' ends.

    `receivers` are those who hear of the events, where the model's mailbox tells more than the ends.
    """

    batch: Batch
    around: Neighbourhood
    endpoints: int
    receivers: Receivers | None


@dataclass(frozen=True)
class Featured:
    """What the device needs of a batch but memory: its neighbourhood, edge and node rows, and the events themselves.

    edges: rows of the slots, one for each hop; node_features [U, V] of the distinct nodes, if there are any;
    event_features [B, E] and times [B] of the batch's own events.
    """

    sampled: Sampled
    around: Neighbourhood
    receivers: Receivers | None
    edges: list[EdgeRows]
    node_features: torch.Tensor | None
    event_features: torch.Tensor
    times: torch.Tensor

    @property
    def batch(self) -> Batch:
        """The events that it is about."""
        return self.sampled.batch

    @property
    def root_times(self) -> torch.Tensor:
        """[3 · size], the times of the roots; padding has the last event's."""
        return padded_times(self.times, self.batch.size).repeat(3)


@dataclass(frozen=True)
class Fetched:
    """With the records of the distinct nodes, which held the writes of `version` iterations when they were fetched.

    `seen` is how many they hold now; it is larger where they were patched since.
    """

    rows: Featured
    record: Any
    version: int
    seen: int

    @property
    def batch(self) -> Batch:
        """The events that it is about."""
        return self.rows.batch


@dataclass(frozen=True)
class Done:
    """An iteration that the model has seen.

    `staleness` is how many of the iterations before were missing from the records that it saw. `rows` are kept until
    the device is through with them, since their memory would go to the next fetch, on a stream that runs ahead.
    """

    batch: Batch
    version: int
    staleness: int
    rows: Fetched | None


@dataclass(frozen=True)
class Trained(Done):
    """With its loss []."""

    loss: torch.Tensor


@dataclass(frozen=True)
class Scored(Done):
    """With the logits of positives [B], negatives [B] and, when ranking, of the candidates [B, N]."""

    positive: torch.Tensor
    negative: torch.Tensor
    ranked: torch.Tensor | None


@dataclass(frozen=True)
class Embedded(Done):
    """With the embeddings [B, D] of the sources, before their events."""

    sources: torch.Tensor


def padded_times(times: torch.Tensor, size: int) -> torch.Tensor:
    """Times [B] with the last one repeated up to `size`."""
    return times if times.numel() == size else torch.cat([times, times[-1:].expand(size - times.numel())])


def batches(
    start: int,
    stop: int,
    size: int,
    sampler: NegativeSampler,
    purpose: Purpose,
    epoch: int,
    candidates: int = 0,
) -> Iterator[Batch]:
    """Events [start, stop) cut into batches, the partial last one included; `candidates` N ranking negatives each."""
    count = -(-(stop - start) // size)
    ranked = sampler.iterate(Purpose.RANKING_NEGATIVES, epoch, size, count, candidates) if candidates else None
    for index, negatives in enumerate(sampler.iterate(purpose, epoch, size, count)):
        begin = start + index * size
        end = min(begin + size, stop)
        others = None if ranked is None else next(ranked)[: end - begin]
        yield Batch(index, epoch, begin, end, size, negatives[: end - begin, 0], others)
