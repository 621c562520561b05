"""Counter-based negative destinations, and the keys and purposes that separate a run's random draws."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch.nn.functional import pad

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.kernels.sampling.draw_batch import draw_others
from mspipe_triton.placement import Placement

_BLOCK = 256
LAYER = 16  # above every purpose, so that purpose + LAYER · layer identifies both
RANK = 2**16  # above every purpose and layer


class Purpose(IntEnum):
    """Purpose of a draw, the second word of its Philox key."""

    TRAIN_NEGATIVES = 1
    EVAL_NEGATIVES = 2
    RANKING_NEGATIVES = 3
    UNIFORM_NEIGHBOURS = 4
    ATTENTION_DROPOUT = 5
    OUTPUT_DROPOUT = 6
    RANKING_NEIGHBOURS = 7
    MAILBOX_DROPOUT = 8
    UPDATER_DROPOUT = 9
    RECEIVING_NEIGHBOURS = 10
    HISTORICAL_NEGATIVES = 11


def draw_words(seed: int, purpose: int, epoch: int = 0, iteration: int = 0) -> torch.Tensor:
    """Philox words [4] int64 that key the draws of one iteration."""
    return torch.tensor([seed, int(purpose), epoch, iteration], dtype=torch.int64)


def drawing_rank(purpose: Purpose, layer: int, layers: int, rank: int) -> int:
    """Return the rank in the words of a draw: 0 if all ranks draw for places of whole batches, else this process's.

    Whole batches have places for their negatives, for the receivers of their mail, and for the uniform neighbours in
    the hop around their roots; other points are numbered within a share.

    Args:
        layer: the hop or layer. layers: the number of hops of the batch's neighbourhood.
    """
    outer = purpose is Purpose.UNIFORM_NEIGHBOURS and layer == min(1, layers - 1)
    return 0 if outer or purpose in _OF_WHOLE_BATCHES else rank


_OF_WHOLE_BATCHES = (
    Purpose.TRAIN_NEGATIVES, Purpose.EVAL_NEGATIVES, Purpose.RANKING_NEGATIVES, Purpose.HISTORICAL_NEGATIVES,
    Purpose.RECEIVING_NEIGHBOURS,
)  # fmt: skip


class Draws(Protocol):
    """Keys of one iteration's draws; each hop and layer has its own keys."""

    def words(self, purpose: Purpose, layer: int = 0) -> torch.Tensor:
        """Philox words [4] int64, on the device that draws."""


@dataclass(frozen=True)
class IterationDraws:
    """Draws of an iteration whose number is known on the host; the words are created on use.

    Args:
        rank: of the process, if others draw for parts of the same batch by numbers of their own: their draws differ
            from this one's.
    """

    seed: int
    epoch: int
    iteration: int
    placement: Placement
    rank: int = 0

    def words(self, purpose: Purpose, layer: int = 0) -> torch.Tensor:
        """Philox words [4] int64 on the placement's device."""
        key = purpose + LAYER * layer + RANK * self.rank
        return self.placement.load(draw_words(self.seed, key, self.epoch, self.iteration))


class NegativeSampler:
    """Negatives of events, uniform among the distinct destinations of the whole stream other than the event's own.

    The negative of an event depends only on (seed, purpose, epoch, iteration, position in the batch) and on the event's
    own destination, in the way that `draw_batch` describes.

    Args:
        stream: the events, with two destinations or more if negatives are drawn (see `check_destinations`).
        seed: of all draws.
    """

    def __init__(self, stream: EventStream, seed: int) -> None:
        self.dst, self.destinations = stream.dst, torch.unique(stream.dst)
        self.seed = seed

    def on(self, device: torch.device) -> NegativeSampler:
        """Copy the sampler, with the destinations on a device, for `draw_batch`."""
        sampler = copy(self)
        sampler.destinations = self.destinations.to(device)
        return sampler

    def others(self, dst: torch.Tensor) -> torch.Tensor:
        """Return all K − 1 destinations [M, K − 1] other than the events' own, `dst` [M], ascending."""
        lower, upper = self.destinations[:-1], self.destinations[1:]
        return torch.where(lower < dst.unsqueeze(1), lower, upper)

    def iterate(
        self, purpose: Purpose, epoch: int, dst: torch.Tensor, size: int, each: int = 1
    ) -> Iterator[torch.Tensor]:
        """Yield negatives [B, each] for iteration 0, 1, …; draws many iterations at a time.

        Args:
            dst: [M] the destinations of the events, such as a part of the sampler's `dst`.
            size: B, events per iteration; the last one may have fewer.
            each: negatives per event.
        """
        block = max(1, _BLOCK // each)
        positions = torch.arange(size * each).view(size, each)
        iterations = -(-dst.numel() // size)
        for start in range(0, iterations, block):
            stop = min(start + block, iterations)
            events = dst[start * size : stop * size]
            numbers = torch.arange(start, stop).view(-1, 1, 1)
            zero = torch.zeros_like(numbers)
            words = torch.stack([zero + self.seed, zero + int(purpose), zero + epoch, numbers])
            whole = pad(events, (0, (stop - start) * size - events.numel())).view(-1, size, 1)
            negatives = draw_others(words, positions, whole, self.destinations)
            yield from negatives.view(-1, each)[: events.numel()].split(size)


def check_destinations(stream: EventStream, negatives: int = 1) -> None:
    """Refuse a stream whose events have no other destination than their own, and more negatives than there are others.

    Raises:
        DataError: all events have the same destination.
        ConfigError: there are fewer other destinations than `negatives`, the number per event in training.
    """
    first = stream.dst[:1]
    if not bool((stream.dst != first).any()):
        node = first.item() if stream.ids is None else stream.ids.of(first)[0]
        name = shown(node[1] if isinstance(node, tuple) else node)  # with two kinds, ids are pairs (kind, id)
        raise DataError(
            f"{stream.name}: all {len(stream):,} events have the same destination, {name}; a model has nothing to tell "
            "apart, so give events with two destinations or more (columns of source and destination may be swapped)"
        )
    others = torch.unique(stream.dst).numel() - 1 if negatives > 1 else 1
    if negatives > others:
        raise ConfigError(
            f"train-negatives {negatives:,} is above the number of destinations other than an event's own, {others:,} "
            f"in {stream.name}; use a few, as in --train-negatives 10"
        )
