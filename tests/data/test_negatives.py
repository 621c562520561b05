"""Negative destinations: counter-based, so that they do not depend on the order of draws."""

from __future__ import annotations

import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.kernels.numbers.philox import philox_words

STREAM = EventStream(torch.zeros(6, dtype=torch.int64), torch.tensor([3, 9, 3, 4, 9, 9]), torch.arange(6))


def test_only_distinct_destinations_uniformly() -> None:
    (negatives,) = NegativeSampler(STREAM, 0).iterate(Purpose.TRAIN_NEGATIVES, 1, 30_000, 1)
    values, counts = negatives.unique(return_counts=True)
    assert values.tolist() == [3, 4, 9]
    # Five standard deviations of a binomial count.
    assert (counts - 10_000).abs().max() < 5 * (30_000 * (1 / 3) * (2 / 3)) ** 0.5


def test_a_draw_depends_only_on_its_counter() -> None:
    sampler = NegativeSampler(STREAM, 7)
    many = list(sampler.iterate(Purpose.EVAL_NEGATIVES, 2, 4, 300, 2))
    words = philox_words(torch.tensor([7, int(Purpose.EVAL_NEGATIVES), 2, 299]), torch.arange(8))[0]
    assert torch.equal(many[299].view(-1), sampler.destinations[(words * 3) >> 32])
    assert torch.equal(list(sampler.iterate(Purpose.EVAL_NEGATIVES, 2, 4, 5, 2))[4], many[4])


def test_seed_purpose_and_epoch_change_the_draws() -> None:
    wide = EventStream(torch.zeros(9000, dtype=torch.int64), torch.arange(9000), torch.arange(9000))

    def draw(seed: int, purpose: Purpose, epoch: int) -> torch.Tensor:
        return next(NegativeSampler(wide, seed).iterate(purpose, epoch, 500, 1))

    base = draw(0, Purpose.TRAIN_NEGATIVES, 1)
    assert torch.equal(base, draw(0, Purpose.TRAIN_NEGATIVES, 1))
    for other in ((1, Purpose.TRAIN_NEGATIVES, 1), (0, Purpose.EVAL_NEGATIVES, 1), (0, Purpose.TRAIN_NEGATIVES, 2)):
        assert (draw(*other) == base).float().mean() < 0.01
