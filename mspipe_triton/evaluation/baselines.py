"""Baselines of link prediction: EdgeBank, with and without a time window, popularity, and the features of pairs alone.

EdgeBank is that of Poursafaei et al., 2022 (arXiv 2207.10128).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.pair_choices import RANDOM, Choices, in_parts
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.iteration.step import reciprocal_ranks
from mspipe_triton.kernels.link.last_events import last_of_pair
from mspipe_triton.kernels.link.pair_columns import SPANS

# The keys of the baselines in `result.json`, and their names in tables and notes.
NAMES = {
    "edgebank": "EdgeBank",
    "edgebank_window": "EdgeBank with a window",
    "popularity": "popularity",
    "pair_features": "pair features alone",
}

_POPULARITY = 25  # column of the first span's popularity


@dataclass(frozen=True)
class Baselines:
    """Scores of pairs from the events at strictly earlier times.

    * `edgebank`: 1 if the pair has occurred, else 0.
    * `edgebank_window`: 1 if the pair has occurred in the last W before the event, else 0, where W is the time from the
      first to the last test event.
    * `popularity`: L(S_K)/3 of the destination (see `pair_features`) for one of the three spans K.
    * `pair_features`: a linear function of the pair's features.

    Args:
        index: the stream's events. window: W. span: the place of K in `SPANS`. weights: [36], of the features.
    """

    index: PairIndex
    window: int | float
    span: int
    weights: torch.Tensor

    @staticmethod
    def fit(stream: EventStream, index: PairIndex, split: Split, seed: int) -> Baselines:
        """Choose popularity's span and the features' weights on choices drawn from the training events.

        K has the highest mean reciprocal rank among the random destinations; for the weights, see `Choices.weights`.

        Args:
            stream: the events, of two destinations or more. index: the same events, which were indexed at once.
            seed: of the draws.
        """
        choices = Choices.draw(stream, index, split, seed)
        random = choices.features[:, : 1 + RANDOM, _POPULARITY : _POPULARITY + len(SPANS)]
        ranks = [reciprocal_ranks(each[:, 0], each[:, 1:]).mean() for each in random.unbind(2)]
        window = (stream.t[-1] - stream.t[split.val_end]).item()
        return Baselines(index, window, int(torch.stack(ranks).argmax()), choices.weights())

    def scores(
        self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, until: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Score pairs of sources [B] with destinations [B, C] at times [B]; return each baseline's scores [B, C].

        They are from the events strictly before the times `until` [B], by default `t`.
        """
        until = t if until is None else until
        scores = [self._scores(*part) for part in in_parts(src, dst, t, self.index.before(until))]
        return {name: torch.cat([each[name] for each in scores]) for name in NAMES}

    def _scores(
        self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, before: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        features = self.index.features(src, dst, t, before)
        met = features[:, :, 0].contiguous()  # a view would keep all columns in memory
        recent, (rows, columns) = torch.zeros_like(met), met.nonzero(as_tuple=True)
        pairs = (src[rows].long() << 32) + dst[rows, columns]
        _, last = last_of_pair(self.index.pairs, self.index.pair_keys, pairs, before[rows])
        recent[rows, columns] = (t[rows] - self.index.times[last] <= self.window).to(recent.dtype)
        return {
            "edgebank": met,
            "edgebank_window": recent,
            "popularity": features[:, :, _POPULARITY + self.span].contiguous(),
            # A matrix product may round equal rows differently.
            "pair_features": (features * self.weights.to(features.dtype)).sum(2),
        }
