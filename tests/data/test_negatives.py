"""Negative destinations against a plain oracle, on host and device: never the event's own, uniform among the others."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.negatives import NegativeSampler, Purpose, check_destinations, draw_words
from mspipe_triton.errors import DataError
from mspipe_triton.iteration.scene import batches
from mspipe_triton.kernels import draw_batch
from mspipe_triton.kernels.runtime import launch
from tests.data.plain_candidates import plain_candidates

STREAM = EventStream(torch.zeros(6, dtype=torch.int64), torch.tensor([3, 9, 3, 4, 9, 9]), torch.arange(6))
NODES = st.integers(0, 6)  # few, so that events repeat destinations and are self-loops
EVENTS = st.lists(st.tuples(NODES, NODES, st.integers(0, 1)), min_size=2, max_size=40)


def stream_of(events: list[tuple[int, int, int]]) -> EventStream:
    """Make a stream of sources, destinations, and gaps of time, of which many are 0."""
    src, dst, gaps = (torch.tensor(column) for column in zip(*events, strict=True))
    return EventStream(src, dst, gaps.cumsum(0))


@settings(deadline=None, max_examples=60)
@given(
    events=EVENTS.filter(lambda events: len({dst for _, dst, _ in events}) > 1), size=st.integers(1, 12),
    start=st.integers(0, 39), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9), ranked=st.integers(1, 300),
)  # fmt: skip
def test_batches_equal_the_oracle(
    events: list[tuple[int, int, int]], size: int, start: int, seed: int, epoch: int, ranked: int
) -> None:
    stream, destinations = stream_of(events), {dst for _, dst, _ in events}
    sampler = NegativeSampler(stream, seed)
    items = list(batches(start, len(events), size, sampler, Purpose.EVAL_NEGATIVES, epoch, ranked))
    assert [(item.start, item.stop) for item in items] == [
        (begin, min(begin + size, len(events))) for begin in range(start, len(events), size)
    ]
    for index, item in enumerate(items):
        dst = [dst for _, dst, _ in events[item.start : item.stop]]
        for purpose, each, negatives in (
            (Purpose.EVAL_NEGATIVES, 1, item.negatives),
            (Purpose.RANKING_NEGATIVES, ranked, item.candidates),
        ):
            assert negatives is not None
            assert negatives.tolist() == plain_candidates([seed, purpose, epoch, index], dst, each, destinations)


@pytest.mark.parametrize("triton", [False, True])
@settings(deadline=None, max_examples=40)
@given(
    events=EVENTS.filter(lambda events: len({dst for _, dst, _ in events}) > 1), size=st.integers(1, 12),
    start=st.integers(0, 39), seed=st.integers(0, 2**32 - 1), iteration=st.integers(0, 2**32 - 1),
    each=st.integers(1, 5),
)  # fmt: skip
def test_draws_on_the_device_equal_the_oracle(
    triton: bool, events: list[tuple[int, int, int]], size: int, start: int, seed: int, iteration: int, each: int
) -> None:
    if triton and launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    stream, span = stream_of(events), torch.tensor([start, len(events)])
    destinations = NegativeSampler(stream, seed).destinations
    words = draw_words(seed, Purpose.RANKING_NEGATIVES, 2, iteration)
    launch.use_triton(triton)
    try:
        roots, *_ = draw_batch(stream.src, stream.dst, stream.t, destinations, span, words, size, each)
    finally:
        launch.use_triton(None)
    dst = [dst for _, dst, _ in events[start : start + size]]
    draws = [seed, Purpose.RANKING_NEGATIVES, 2, iteration]
    rows = plain_candidates(draws, dst, each, {dst for _, dst, _ in events})
    padding = [[-1] * each] * (size - len(dst))
    assert roots[2 * size :].view(size, each).tolist() == rows + padding


@pytest.mark.parametrize("number", [2, 3, 7, 40])
@pytest.mark.parametrize("each", [1, 9])
def test_never_the_own_destination_and_uniform_among_the_others(number: int, each: int) -> None:
    """Pearson's statistic over events of each destination has K − 2 degrees of freedom: K (K − 2) in all."""
    events = 40_000
    dst = torch.arange(events) * 7919 % number * 3
    sampler = NegativeSampler(EventStream(torch.zeros_like(dst), dst, torch.arange(events)), number)
    negatives = torch.cat(list(sampler.iterate(Purpose.TRAIN_NEGATIVES, 1, dst, 700, each)))
    assert negatives.shape == (events, each)
    pairs = (dst.unsqueeze(1) // 3 * number + negatives // 3).flatten()
    counts = pairs.bincount(minlength=number**2).view(number, number).double()
    assert set(negatives.unique().tolist()) == set(range(0, 3 * number, 3))
    assert counts.diagonal().tolist() == [0] * number
    expected = counts.sum(1, keepdim=True) / (number - 1)
    statistic = ((counts - expected) ** 2 / expected).fill_diagonal_(0).sum()
    freedom = torch.tensor(number * (number - 2), dtype=torch.float64)
    if number == 2:
        assert statistic == 0
    else:  # the draws are fixed; of uniform ones, one in a million would fail on either side
        assert 1e-6 < torch.special.gammaincc(freedom / 2, statistic / 2) < 1 - 1e-6


def test_a_draw_depends_only_on_its_counter_and_destination() -> None:
    sampler = NegativeSampler(STREAM, 7)
    dst = STREAM.dst.repeat(200)  # 300 iterations of 4 events: more than are drawn at a time
    many = list(sampler.iterate(Purpose.EVAL_NEGATIVES, 2, dst, 4, 2))
    assert len(many) == 300
    rows = plain_candidates([7, Purpose.EVAL_NEGATIVES, 2, 299], dst[-4:].tolist(), 2, {3, 4, 9})
    assert many[299].tolist() == rows
    assert torch.equal(list(sampler.iterate(Purpose.EVAL_NEGATIVES, 2, dst[:20], 4, 2))[4], many[4])


def test_no_events_have_no_negatives() -> None:
    assert list(NegativeSampler(STREAM, 7).iterate(Purpose.EVAL_NEGATIVES, 2, STREAM.dst[:0], 4)) == []


def test_seed_purpose_and_epoch_change_the_draws() -> None:
    wide = EventStream(torch.zeros(9000, dtype=torch.int64), torch.arange(9000), torch.arange(9000))

    def draw(seed: int, purpose: Purpose, epoch: int) -> torch.Tensor:
        return next(NegativeSampler(wide, seed).iterate(purpose, epoch, wide.dst, 500))

    base = draw(0, Purpose.TRAIN_NEGATIVES, 1)
    assert torch.equal(base, draw(0, Purpose.TRAIN_NEGATIVES, 1))
    for other in ((1, Purpose.TRAIN_NEGATIVES, 1), (0, Purpose.EVAL_NEGATIVES, 1), (0, Purpose.TRAIN_NEGATIVES, 2)):
        assert (draw(*other) == base).float().mean() < 0.01


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        (None, "2"),
        (NodeIds((pa.array([7, 11, 120]),)), "120"),
        (NodeIds((pa.array([5, 6]), pa.array(["a page"])), ("user", "item")), "'a page'"),
    ],
)
def test_a_stream_of_one_destination_is_refused_by_the_users_id(ids: NodeIds | None, name: str) -> None:
    src = torch.arange(3000) % 2
    stream = EventStream(src, torch.full_like(src, 2), torch.arange(3000), name="few_1", ids=ids)
    message = (
        rf"^few_1: all 3,000 events have the same destination, {name}; a model has nothing to tell apart, so give "
        r"events with two destinations or more \(columns of source and destination may be swapped\)$"
    )
    with pytest.raises(DataError, match=message):
        check_destinations(stream)
