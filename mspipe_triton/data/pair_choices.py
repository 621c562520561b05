"""Choices of destinations in training events, and the linear function of pairs' features that explains them best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.kernels.link.pair_features import COLUMNS

RANDOM, PARTNERS = 20, 10  # draws per event
_EVENTS = 6_000  # at most, that weights are fitted to; 36 numbers hardly change with more
_PAIRS = 2**16  # at a time, which bounds the memory of their features
_ITERATIONS = 50
_NUMBER = (1 << 32) - 1  # the bits of an event in a key


class Choices(NamedTuple):
    """Features [M, C, 36] of M events' pairs with C candidates, their own destination first, and offsets of scores.

    Candidates 1 to 20 are random destinations other than the event's own. The last 10 are ones that its source has met
    before, or more random ones if there are none. A candidate c that is expected to be drawn q(c) times has the offset
    −log q(c), so the sum of exp(score + offset) estimates that over all destinations (Bengio and Senécal, 2008). The
    event's own destination has the offset 0. All in float64, so that weights hardly depend on the order of additions.
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
        destinations, partners = _draw(stream, index, events, seed)
        t = stream.t[events]
        parts = in_parts(stream.src[events], destinations, t, index.before(t))
        features = torch.cat([index.features(*part, dtype=torch.float64) for part in parts])
        others, partners = torch.unique(stream.dst).numel() - 1, partners.unsqueeze(1)
        earlier = features[:, :, 0] * PARTNERS / partners.clamp(min=1)  # column 0: u has met v
        expected = RANDOM / others + torch.where(partners > 0, earlier, PARTNERS / others)
        offsets = -expected.log()
        offsets[:, 0] = 0
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
    """Draw destinations [M, 1 + 20 + 10] for M events: the event's own, random ones, and earlier partners.

    An event without other partners has random destinations in their place. Draws are uniform, and may repeat.

    Returns:
        The destinations, and the numbers [M] of earlier partners other than the event's destination.
    """
    generator = torch.Generator().manual_seed(seed)
    src, dst, before = stream.src[events], stream.dst[events], index.before(stream.t[events])
    destinations = torch.unique(stream.dst)
    shape = (events.numel(), RANDOM + PARTNERS)
    numbers = torch.randint(destinations.numel() - 1, shape, generator=generator)
    numbers += numbers >= torch.searchsorted(destinations, dst).unsqueeze(1)
    random = destinations[numbers]
    # Partners of a source in the order in which it met them: keys of source and the pair's first event.
    meetings = index.pair_keys[torch.searchsorted(index.pair_keys, torch.arange(index.pairs.numel()) << 32)] & _NUMBER
    keys = (stream.src[meetings] << 32) + meetings
    meeting = keys[torch.searchsorted(index.pairs, (src << 32) + dst)]  # of the event's own pair
    keys = keys.sort().values
    start = torch.searchsorted(keys, src << 32)
    partners, place = torch.searchsorted(keys, (src << 32) + before) - start, torch.searchsorted(keys, meeting) - start
    met = place < partners
    partners -= met.long()
    uniform = torch.rand((events.numel(), PARTNERS), dtype=torch.float64, generator=generator)
    choice = (uniform * partners.unsqueeze(1)).long()
    choice += (choice >= place.unsqueeze(1)) & met.unsqueeze(1)
    rows = (start.unsqueeze(1) + choice).clamp_(max=keys.numel() - 1)
    earlier = torch.where(partners.unsqueeze(1) > 0, stream.dst[keys[rows] & _NUMBER], random[:, RANDOM:])
    return torch.cat([dst.unsqueeze(1), random[:, :RANDOM], earlier], 1), partners
