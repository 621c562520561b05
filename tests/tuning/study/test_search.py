"""The search: its results against random points, refusals, trials cut short, and the budget."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable

import pytest

from mspipe_triton.tuning.study import proposals
from mspipe_triton.tuning.study.search import Cutoff, Measure, Search, Trial
from mspipe_triton.tuning.study.space import Point, Space
from tests.tuning.study.search_case import SMALL, SPACE, Clock, Measurement, speed


def landscape(seed: int) -> Callable[[Point], float]:
    """Events per second as a product: random walks over numbers, a level per name, and interactions of two choices."""
    chance = random.Random(seed)
    terms: dict[object, float] = {}
    for name, choices in SPACE.choices.items():
        level = 0.0
        for choice in choices:
            level = chance.gauss(level if SPACE.ordered(name) else 0.0, 1)
            terms[name, choice] = level
    for one, other in itertools.combinations(SPACE.choices, 2):
        if chance.random() < 0.4:
            for pair in itertools.product(SPACE.choices[one], SPACE.choices[other]):
                terms[one, other, pair] = chance.gauss(0, 0.5)

    def events_per_second(point: Point) -> float:
        pairs = itertools.combinations(point, 2)
        level = sum(terms[name, value] for name, value in point.items())
        level += sum(terms.get((one, other, (point[one], point[other])), 0.0) for one, other in pairs)
        return 1000 * 1.1**level

    return events_per_second


def one_step(speed_of: Callable[[Point], float]) -> Measure:
    """A measurement with one step."""
    return lambda point, cutoff: {"score": speed_of(point)}


def test_regret_is_at_most_a_quarter_of_random_search() -> None:
    points = list(SPACE.points())
    assert len(points) == SPACE.size == 2000
    regrets, random_regrets = [], []
    for number in range(3000, 3005):  # not the ones that the search was developed on
        speed_of = landscape(number)
        speeds = sorted(map(speed_of, points))
        assert speeds[-1] > speeds[-2]
        for seed in range(number, number + 4):
            result = Search(SPACE, "regret", seed=seed).run(one_step(speed_of), 1e9, trials=60)
            assert len({str(trial.point) for trial in result.trials}) == 60
            regrets.append(1 - result.score / speeds[-1])
            random_regrets.append(1 - max(map(speed_of, random.Random(seed).sample(points, 60))) / speeds[-1])
    assert statistics.median(regrets) <= statistics.median(random_regrets) / 4


def test_the_default_is_first_and_every_point_is_tried_once() -> None:
    measurement, trials = Measurement(), list[Trial]()
    result = Search(SMALL, "all").run(measurement, 1e9, observe=trials.append)
    assert measurement.points[0] == SMALL.default
    assert len(measurement.points) == SMALL.size == 48
    assert len({str(sorted(point.items())) for point in measurement.points}) == SMALL.size
    assert result.score == 219
    assert result.point == {"schedule": "exact", "prefetch": 6, "threads": 4, "fused": True}
    assert tuple(trials) == result.trials
    assert [trial.number for trial in trials] == list(range(48))
    assert trials[0].facts == {"score": 115.0, "stalls": 0.25}
    best = -1.0
    for trial in trials:
        best = max(best, trial.score or 0) if trial.state == "measured" else best
        assert trial.best == best


def test_a_space_of_one_point_is_measured_once() -> None:
    result = Search(Space({}, {}), "one").run(lambda point, cutoff: {"score": -3.0}, 1e9)
    assert (result.point, result.score, len(result.trials)) == ({}, -3.0, 1)


def test_the_same_seed_gives_the_same_trials() -> None:
    first, again, other = (
        Search(SMALL, "seeds", seed=seed).run(Measurement(), 1e9, trials=25).trials for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_a_refused_point_is_never_measured() -> None:
    measurement = Measurement()
    search = Search(SMALL, "refusing", refuse=lambda p: "spills\n80 bytes" if p["threads"] == 4 else None)
    result = search.run(measurement, 1e9)
    assert all(point["threads"] != 4 for point in measurement.points)
    refused = [trial for trial in result.trials if trial.state == "refused"]
    assert [(trial.score, trial.reason) for trial in refused] == [(None, "spills")] * 12
    assert len(measurement.points) == 36
    assert result.score == 209


def test_the_search_learns_from_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LOCAL", 1000)  # no neighbours of the best point, which is never refused

    def refuse(point: Point) -> str | None:
        return "too much shared memory" if point["block"] in (128, 256) else None

    trials = Search(SPACE, "refusing", refuse=refuse).run(lambda point, cutoff: {"score": 1.0}, 1e9, trials=40).trials
    assert sum(trial.state == "refused" for trial in trials[:10]) >= 2
    assert sum(trial.state == "refused" for trial in trials[10:]) <= len(trials[10:]) / 5  # of all points, 2 in 5


def test_a_slow_trial_is_cut_short_and_never_the_best() -> None:
    measurement = Measurement()
    result = Search(SMALL, "cutting").run(measurement, 1e9)
    best = -1.0
    for trial, steps in zip(result.trials, measurement.steps, strict=True):
        assert trial.state == ("cut short" if speed(trial.point) < 0.8 * best else "measured")
        assert steps == (4 if trial.state == "measured" else 1 if speed(trial.point) < 0.6 * best else 2)
        assert trial.score == speed(trial.point)
        best = max(best, trial.score) if trial.state == "measured" else best
    assert {trial.state for trial in result.trials} == {"measured", "cut short"}


def test_a_trial_is_compared_with_the_best_at_the_same_step() -> None:
    def warming(point: Point, cutoff: Cutoff) -> dict[str, float]:
        for score in (10.0, 20.0, 100.0):
            cutoff(score)
        return {"score": 100.0}

    assert {trial.state for trial in Search(SMALL, "warm").run(warming, 1e9).trials} == {"measured"}


def test_a_score_that_rises_after_the_cutoff_does_not_count() -> None:
    def late(point: Point, cutoff: Cutoff) -> dict[str, float]:
        slow = point != SMALL.default
        for _ in range(3):
            cutoff(-50.0 if slow else -10.0)
        return {"score": 1e6 if slow else -10.0}

    result = Search(SMALL, "late").run(late, 1e9)
    assert (result.point, result.score) == (SMALL.default, -10.0)
    assert {(trial.state, trial.score) for trial in result.trials[1:]} == {("cut short", -50.0)}


def test_no_trial_starts_that_would_end_after_the_budget() -> None:
    clock = Clock()
    clock.now = 1000.0
    result = Search(SMALL, "budget", clock=clock).run(Measurement(clock), 47.0)
    assert clock.now - 1000.0 <= 47.0
    assert sum(trial.state == "measured" for trial in result.trials) >= 3


def test_the_default_is_measured_with_any_budget() -> None:
    clock = Clock()
    assert len(Search(SMALL, "none", clock=clock).run(Measurement(clock), -1.0).trials) == 1


def test_a_failed_measurement_is_reported_and_the_search_continues() -> None:
    measurement = Measurement()

    def failing(point: Point, cutoff: Cutoff) -> dict[str, float]:
        if point["threads"] == 4:
            raise RuntimeError("\nCUDA out of memory.\nTried to allocate 20 GiB")
        return measurement(point, cutoff) if point["threads"] != 6 else {"score": float("nan")}

    result = Search(SMALL, "failing").run(failing, 1e9)
    reasons = {trial.reason for trial in result.trials if trial.state == "failed"}
    assert reasons == {"RuntimeError: CUDA out of memory.", "the score is nan"}
    assert len(result.trials) == 48
    assert result.score == 199
    assert all(trial.score is None for trial in result.trials if trial.state == "failed")


def test_the_result_is_the_default_if_nothing_can_be_measured() -> None:
    result = Search(SMALL, "nothing", refuse=lambda point: "spills").run(Measurement(), 1e9)
    assert (result.point, result.score, len(result.trials)) == (SMALL.default, float("-inf"), 48)


def test_other_errors_end_the_search() -> None:
    with pytest.raises(KeyError, match="score"):
        Search(SMALL, "wrong").run(lambda point, cutoff: {"speed": 1.0}, 1e9)
