"""Baselines against their definitions, and what their fit reads and chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mspipe_triton.data import pair_choices
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.pair_choices import _draw
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.evaluation.baselines import NAMES, Baselines
from mspipe_triton.evaluation.metrics import Predictions, summarise
from tests.evaluation import plain_evaluation as plain

NODES = 5
PAIRS = st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1))
# Few times, so that most events share theirs: small ones, nanoseconds that float64 would round, and fractions.
TIMES = st.sampled_from([(0, 1, 2, 3), tuple(2**60 + n for n in range(4)), (0.1, 0.2, 0.30000000000000004, 1e9)])
EVENTS = st.lists(st.tuples(PAIRS, st.integers(0, 3)), min_size=1, max_size=20)


def indexed(stream: EventStream) -> PairIndex:
    return PairIndex.build(stream.src, stream.dst, stream.t)


def fit(stream: EventStream, seed: int = 0) -> Baselines:
    return Baselines.fit(stream, indexed(stream), stream.split(), seed)


@given(EVENTS, st.lists(PAIRS, max_size=8), TIMES, st.integers(0, 3), st.integers(0, 2))
def test_scores_against_their_definitions(
    events: list[tuple[tuple[int, int], int]],
    queries: list[tuple[int, int]],
    times: tuple[float, ...],
    steps: int,
    span: int,
) -> None:
    events.sort(key=lambda event: event[1])
    pairs, t = [pair for pair, _ in events], [times[number] for _, number in events]
    dtype = torch.int64 if isinstance(t[0], int) else torch.float64
    src, dst = torch.tensor(pairs).T
    index, window = PairIndex.build(src, dst, torch.tensor(t, dtype=dtype)), times[steps] - times[0]
    tested, moments = zip(*((query, time) for query in (*queries, *pairs) for time in times), strict=True)
    src, dst = torch.tensor(tested).T
    scores = Baselines(index, window, span, torch.zeros(36)).scores(
        src, dst.unsqueeze(1), torch.tensor(moments, dtype=dtype)
    )
    assert scores.keys() == NAMES.keys()
    assert all(score.shape == (len(moments), 1) for score in scores.values())
    history, questions = (pairs, t), (tested, moments)
    assert scores["edgebank"].squeeze(1).tolist() == plain.edgebank(*history, *questions)
    assert scores["edgebank_window"].squeeze(1).tolist() == plain.edgebank_window(*history, *questions, window)
    decay = (50.0, 500.0, 5000.0)[span]
    popularity = [plain.popularity(*history, pair[1], time, decay) for pair, time in zip(tested, moments, strict=True)]
    expected = torch.tensor([math.log1p(each) / 3 for each in popularity])
    torch.testing.assert_close(scores["popularity"].squeeze(1), expected)


def test_a_pair_is_directed() -> None:
    index = PairIndex.build(torch.tensor([0, 1, 0, 0]), torch.tensor([2, 2, 2, 3]), torch.arange(4))
    baselines = Baselines(index, 1, 0, torch.zeros(36))
    src, dst = torch.tensor([0, 1, 2, 3]), torch.tensor([[2, 3], [2, 3], [0, 1], [3, 0]])
    scores = baselines.scores(src, dst, torch.full((4,), 4))
    assert scores["edgebank"].tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]
    assert scores["edgebank_window"].tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]], "the pair (0, 2) is of time 2"


def test_draws_are_random_destinations_and_earlier_partners() -> None:
    """Events share times in threes, and 400 copies of each show how often a destination is drawn."""
    draw = torch.Generator().manual_seed(0)
    src, dst = torch.randint(4, (60,), generator=draw), 4 + torch.randint(6, (60,), generator=draw)
    stream = EventStream(src, dst, torch.arange(60) // 3)
    pairs, everyone = list(zip(src.tolist(), dst.tolist(), strict=True)), set(dst.tolist())
    copies = torch.arange(60).repeat_interleave(400)
    destinations, offsets = _draw(stream, indexed(stream), copies, 0)
    draws = zip(destinations.view(60, 400, 31), offsets.view(60, 400, 31), strict=True)
    for event, (columns, weights) in enumerate(draws):
        source, end = pairs[event]
        others, now = everyone - {end}, event // 3 * 3
        met = {other for node, other in pairs[:now] if node == source} - {end}
        meets = {other for node, other in pairs[now : now + 3] if node == source}
        assert set(columns[:, 0].tolist()) == {end}
        random = dict.fromkeys(others, 1 / len(others))
        # An event that has no earlier partner, or draws one that it meets now, has a random destination in its place.
        replaced = len(met & meets) / len(met) if met else 1
        partners = {each: replaced / len(others) + (each in met - meets) / max(len(met), 1) for each in others}
        for part, share in ((columns[:, 1:21], random), (columns[:, 21:], partners)):
            nodes = torch.tensor(sorted(others))
            expected = part.numel() * torch.tensor([share[each] for each in nodes.tolist()])
            counts = part.flatten().bincount(minlength=10)[nodes]
            assert int(counts.sum()) == part.numel()
            assert bool(((counts - expected).abs() <= 6 * expected.sqrt()).all()), "six standard errors"
        mean = {each: (20 if met else 30) / len(others) + (each in met) * 10 / max(len(met), 1) for each in others}
        expected = torch.tensor([-math.log(mean[each]) for each in columns[:, 1:].flatten().tolist()])
        torch.testing.assert_close(weights[:, 1:].flatten().float(), expected)
        assert not bool(weights[:, 0].any())


def test_scores_do_not_depend_on_what_is_scored_together(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines, events = fit(small_stream), torch.arange(900, 1000)
    draw = torch.Generator().manual_seed(0)
    src, t = small_stream.src[events], small_stream.t[events]
    dst = small_stream.dst[torch.randint(900, (100, 7), generator=draw)]
    together = baselines.scores(src, dst, t)
    alone = [baselines.scores(src[i : i + 1], dst[i : i + 1, j : j + 1], t[i : i + 1]) for i in (0, 99) for j in (0, 6)]
    monkeypatch.setattr(pair_choices, "_PAIRS", 16)
    for name, scores in baselines.scores(src, dst, t).items():
        assert torch.equal(scores, together[name])
        assert [each[name].item() for each in alone] == [scores[i, j].item() for i in (0, 99) for j in (0, 6)]


def test_the_fit_reads_training_events_alone(small_stream: EventStream) -> None:
    split, baselines = small_stream.split(), fit(small_stream)
    order = torch.arange(len(small_stream))
    order[split.train_end :] = order[split.train_end :].flip(0)
    other = fit(replace(small_stream, src=small_stream.src[order], dst=small_stream.dst[order]))
    assert torch.equal(other.weights, baselines.weights)
    assert other.span == baselines.span
    assert baselines.window == int(small_stream.t[-1] - small_stream.t[split.val_end])


def test_the_same_seed_draws_the_same(small_stream: EventStream) -> None:
    first = fit(small_stream)
    assert torch.equal(fit(small_stream).weights, first.weights)
    assert not torch.equal(fit(small_stream, seed=1).weights, first.weights)


def test_the_weights_fit_the_choice_among_all_destinations() -> None:
    """Draws stand for all 300 destinations: other weights fit the choice among these less well."""
    stream = synthetic_stream(SyntheticConfig(events=6000, users=100, items=300, seed=1))
    baselines, events, destinations = fit(stream), torch.arange(420, 4200), torch.unique(stream.dst)
    parts = []
    for part in events.split(500):
        every, before = destinations.repeat(part.numel(), 1), baselines.index.before(stream.t[part])
        features = baselines.index.features(stream.src[part], every, stream.t[part], before, torch.float64)
        scores = features @ torch.stack([baselines.weights * scale for scale in (0, 0.7, 1, 1.3)], 1)
        parts.append(torch.cat([features[:, :, :1], scores.log_softmax(1)], 2))
    rows, place = torch.cat(parts), torch.searchsorted(destinations, stream.dst[events])
    met, none, small, fitted, large = rows[torch.arange(events.numel()), place].mean(0).tolist()
    assert none == pytest.approx(-math.log(destinations.numel()))
    assert fitted > max(none + 1, small, large)
    # Where the likelihood is largest, earlier partners have the probability that is their share among the events.
    probability = float((rows[:, :, 0] * rows[:, :, 3].exp()).sum(1).mean())
    assert abs(probability - met) < 4 * (met * (1 - met) / events.numel()) ** 0.5


def test_popularity_lasts_as_long_as_destinations_are_popular() -> None:
    numbers, draw = torch.arange(6000), torch.Generator().manual_seed(0)
    src = torch.randint(50, (6000,), generator=draw)
    waves = 50 + numbers // 40 % 30  # one destination after the other
    steady = 50 + (30 * torch.rand(6000, generator=draw) ** 2).long()
    assert fit(EventStream(src, waves, numbers)).span == 0
    assert fit(EventStream(src, steady, numbers)).span == 2


@pytest.mark.parametrize("events", [3, 4, 8])
def test_few_events_are_enough(events: int) -> None:
    numbers = torch.arange(events)
    for src, dst in ((numbers, numbers + events), (numbers % 2, 2 + numbers % 2), (numbers * 0, numbers % 2)):
        stream = EventStream(src, dst, numbers)
        baselines = Baselines.fit(stream, indexed(stream), replace(stream, borders=(1, 2)).split(), 0)
        assert bool(baselines.weights.isfinite().all())
        scores = baselines.scores(src, dst.unsqueeze(1), numbers)
        assert all(bool(score.isfinite().all()) for score in scores.values())


def test_features_of_pairs_are_the_best_baseline(small_stream: EventStream) -> None:
    split, baselines = small_stream.split(), fit(small_stream)
    src, dst, t = (column[split.val_end :] for column in (small_stream.src, small_stream.dst, small_stream.t))
    draw = torch.Generator().manual_seed(1)
    destinations = torch.unique(small_stream.dst)
    numbers = torch.randint(destinations.numel() - 1, dst.shape, generator=draw)
    numbers += numbers >= torch.searchsorted(destinations, dst)
    scores = baselines.scores(src, torch.stack([dst, destinations[numbers]], 1), t)
    auc = {name: summarise(Predictions(*score.unbind(1), None, [dst.numel()]))["auc"] for name, score in scores.items()}
    assert max(auc, key=lambda name: auc[name] or 0) == "pair_features"
