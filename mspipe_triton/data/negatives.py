"""Counter-based negative destinations, and the keys and purposes that separate a run's random draws."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.kernels.numbers.philox import philox_integers
from mspipe_triton.placement import Placement

_BLOCK = 256
LAYER = 16  # above every purpose, so that purpose + LAYER · layer identifies both


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


def draw_words(seed: int, purpose: int, epoch: int = 0, iteration: int = 0) -> torch.Tensor:
    """Philox words [4] int64 that key the draws of one iteration."""
    return torch.tensor([seed, int(purpose), epoch, iteration], dtype=torch.int64)


class Draws(Protocol):
    """Keys of one iteration's draws; each hop and layer has its own keys."""

    def words(self, purpose: Purpose, layer: int = 0) -> torch.Tensor:
        """Philox words [4] int64, on the device that draws."""


@dataclass(frozen=True)
class IterationDraws:
    """Draws of an iteration whose number is known on the host; the words are created on use."""

    seed: int
    epoch: int
    iteration: int
    placement: Placement

    def words(self, purpose: Purpose, layer: int = 0) -> torch.Tensor:
        """Philox words [4] int64 on the placement's device."""
        return self.placement.load(draw_words(self.seed, purpose + LAYER * layer, self.epoch, self.iteration))


class NegativeSampler:
    """Uniform negatives among the distinct destinations of the whole stream; a draw may hit the true destination.

    The negative of an event depends only on (seed, purpose, epoch, iteration, position in the batch).
    """

    def __init__(self, stream: EventStream, seed: int) -> None:
        self.destinations = torch.unique(stream.dst)
        self.seed = seed

    def on(self, device: torch.device) -> NegativeSampler:
        """Copy the sampler, with the destinations on a device."""
        sampler = copy(self)
        sampler.destinations = self.destinations.to(device)
        return sampler

    def iterate(
        self, purpose: Purpose, epoch: int, batch_size: int, iterations: int, each: int = 1
    ) -> Iterator[torch.Tensor]:
        """Yield negatives [batch_size, each] for iteration 0, 1, …; draws many iterations at a time."""
        block = max(1, _BLOCK // each)
        positions = torch.arange(batch_size * each).view(1, -1)
        for start in range(0, iterations, block):
            numbers = torch.arange(start, min(start + block, iterations)).view(-1, 1)
            zero = torch.zeros_like(numbers)
            words = torch.stack([zero + self.seed, zero + int(purpose), zero + epoch, numbers])
            indices = philox_integers(words, positions, self.destinations.numel())
            yield from self.destinations[indices].view(-1, batch_size, each)
