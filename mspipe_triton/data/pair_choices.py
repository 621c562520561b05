"""Choices of destinations in training events, and the linear function of pairs' features that explains them best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, pad

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.negatives import Purpose, draw_words
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.kernels import historical_negatives
from mspipe_triton.kernels.link.pair_columns import COLUMNS
from mspipe_triton.kernels.sampling.draw_batch import draw_others

RANDOM = 20  # draws per event
_PARTNERS = 10  # draws per event among the destinations that its source met before
_EVENTS = 6_000  # at most, that weights are fitted to; 36 numbers hardly change with more
_PAIRS = 2**16  # at a time, which bounds the memory of their features
_ITERATIONS = 50


class Choices(NamedTuple):
    """Features [M, 31, 36] of M events' pairs with 31 candidates, their own destination first, and offsets [M, 31].

    Candidates 1 to 20 are random destinations, and the last 10 ones that the source met before: the negatives of
    `historical_negatives`. A candidate's offset is its log weight, so that the sum of exp(score + offset) estimates
    that over all destinations; the own destination's is 0. All in float64, so that weights hardly depend on the order
    of additions.
    """

    features: torch.Tensor
    offsets: torch.Tensor

    @staticmethod
    def draw(stream: EventStream, index: PairIndex, split: Split, seed: int) -> Choices:
        """Draw candidates for at most 6,000 training events after their first tenth, evenly spaced.

        Args:
            stream: the events, of two destinations or more. index: the same events, which were indexed at once.
            seed: of the draws.
        """
        first, stop = split.train_end // 10, split.train_end
        count = min(_EVENTS, stop - first)
        events = first + torch.arange(count) * (stop - first) // count
        destinations, offsets = _draw(stream, index, events, seed)
        t = stream.t[events]
        parts = in_parts(stream.src[events], destinations, t, index.before(t))
        features = torch.cat([index.features(*part, dtype=torch.float64) for part in parts])
        return Choices(features, offsets)

    def weights(self) -> torch.Tensor:
        """Fit weights [36], under a standard normal prior, that make the events' own destinations most likely."""
        weights = torch.zeros(COLUMNS, dtype=torch.float64, requires_grad=True)
        first = torch.zeros(self.features.shape[0], dtype=torch.long)
        optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = cross_entropy(self.features @ weights + self.offsets, first) + weights.square().sum() / (
                2 * first.numel()
            )
            value.backward()
            return value

        optimizer.step(loss)
        return weights.detach()


Queries = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def in_parts(src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, before: torch.Tensor) -> Iterator[Queries]:
    """Cut queries [B], [B, C], [B] and [B] into parts of few pairs, which bounds the memory of their features."""
    size = max(1, _PAIRS // dst.shape[1])
    parts = (each.contiguous().split(size) for each in (src, dst, t, before))
    return zip(*parts, strict=True)


def _draw(stream: EventStream, index: PairIndex, events: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw candidates [M, 31] of M events, and their offsets; see `Choices`."""
    # Training draws in epochs from 1 on.
    random_words, words = (draw_words(seed, each) for each in (Purpose.TRAIN_NEGATIVES, Purpose.HISTORICAL_NEGATIVES))
    src, dst, t, destinations = stream.src[events], stream.dst[events], stream.t[events], torch.unique(stream.dst)
    positions = torch.arange(events.numel() * (RANDOM + _PARTNERS)).view(events.numel(), -1)
    random = draw_others(random_words, positions, dst.unsqueeze(1), destinations)
    others, log_weights = historical_negatives(
        index.meeting_keys(), index.pairs, index.pair_keys, stream.dst, index.times, src, dst, t, index.before(t),
        random, words, _PARTNERS, destinations.numel(), torch.float64,
    )  # fmt: skip
    return torch.cat([dst.unsqueeze(1).long(), others], 1), pad(log_weights, (1, 0))
