"""The search: what it finds against random points, and how it refuses, cuts short and keeps its budget."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable

import pytest

from mspipe_triton.tuning.study import proposals
from mspipe_triton.tuning.study.search import Cut, Measure, Search, Told
from mspipe_triton.tuning.study.space import Point, Space
from tests.tuning.study.search_case import SMALL, SPACE, Clock, Measured, speed


def landscape(seed: int) -> Callable[[Point], float]:
    """Events per second: walks over the numbers, a level a name, and how two of them bear each other, multiplied."""
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


def scored(speed_of: Callable[[Point], float]) -> Measure:
    """A measurement that takes one step."""
    return lambda point, cut: {"score": speed_of(point)}


def test_its_regret_is_at_most_a_quarter_of_random_searchs() -> None:
    points = list(SPACE.points())
    assert len(points) == SPACE.size == 2000
    searched, drawn = [], []
    for number in range(3000, 3005):  # none of those that the search was made with
        speed_of = landscape(number)
        speeds = sorted(map(speed_of, points))
        assert speeds[-1] > speeds[-2]
        for seed in range(number, number + 4):
            found = Search(SPACE, "regret", seed=seed).run(scored(speed_of), 1e9, trials=60)
            assert len({str(told.point) for told in found.told}) == 60
            searched.append(1 - found.score / speeds[-1])
            drawn.append(1 - max(map(speed_of, random.Random(seed).sample(points, 60))) / speeds[-1])
    assert statistics.median(searched) <= statistics.median(drawn) / 4


def test_the_default_is_tried_first_and_every_point_once() -> None:
    measured, seen = Measured(), list[Told]()
    found = Search(SMALL, "all").run(measured, 1e9, observe=seen.append)
    assert measured.points[0] == SMALL.default
    assert len(measured.points) == SMALL.size == 48
    assert len({str(sorted(point.items())) for point in measured.points}) == SMALL.size
    assert found.score == 219
    assert found.point == {"schedule": "exact", "prefetch": 6, "threads": 4, "fused": True}
    assert tuple(seen) == found.told
    assert [told.number for told in seen] == list(range(48))
    assert seen[0].facts == {"score": 115.0, "stalls": 0.25}
    best = -1.0
    for told in seen:
        best = max(best, told.score or 0) if told.state == "measured" else best
        assert told.best == best


def test_a_space_of_one_point_is_measured_once() -> None:
    found = Search(Space({}, {}), "one").run(lambda point, cut: {"score": -3.0}, 1e9)
    assert (found.point, found.score, len(found.told)) == ({}, -3.0, 1)


def test_the_same_seed_makes_the_same_choices() -> None:
    first, again, other = (Search(SMALL, "seeds", seed=seed).run(Measured(), 1e9, trials=25).told for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_refused_point_is_never_measured() -> None:
    measured = Measured()
    found = Search(SMALL, "refusing", refuse=lambda p: "spills\n80 bytes" if p["threads"] == 4 else None).run(
        measured, 1e9
    )
    assert all(point["threads"] != 4 for point in measured.points)
    refused = [told for told in found.told if told.state == "refused"]
    assert [(told.score, told.reason) for told in refused] == [(None, "spills")] * 12
    assert len(measured.points) == 36
    assert found.score == 209


def test_refusals_teach_the_search_to_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LOCAL", 1000)  # nothing beside the best, which is never refused

    def refuse(point: Point) -> str | None:
        return "too much shared memory" if point["block"] in (128, 256) else None

    told = Search(SPACE, "refusing", refuse=refuse).run(lambda point, cut: {"score": 1.0}, 1e9, trials=40).told
    assert sum(one.state == "refused" for one in told[:10]) >= 2
    assert sum(one.state == "refused" for one in told[10:]) <= len(told[10:]) / 5  # 2 in 5 of all points are


def test_a_slow_trial_is_cut_short_and_never_the_best() -> None:
    measured = Measured()
    found = Search(SMALL, "cutting").run(measured, 1e9)
    best = -1.0
    for told, steps in zip(found.told, measured.steps, strict=True):
        assert told.state == ("cut short" if speed(told.point) < 0.8 * best else "measured")
        assert steps == (4 if told.state == "measured" else 1 if speed(told.point) < 0.6 * best else 2)
        assert told.score == speed(told.point)
        best = max(best, told.score) if told.state == "measured" else best
    assert {told.state for told in found.told} == {"measured", "cut short"}


def test_trials_are_compared_with_the_best_at_the_same_step() -> None:
    def warming(point: Point, cut: Cut) -> dict[str, float]:
        for score in (10.0, 20.0, 100.0):
            cut(score)
        return {"score": 100.0}

    assert {told.state for told in Search(SMALL, "warm").run(warming, 1e9).told} == {"measured"}


def test_a_score_that_shoots_up_after_it_was_cut_short_is_not_taken() -> None:
    def late(point: Point, cut: Cut) -> dict[str, float]:
        slow = point != SMALL.default
        for _ in range(3):
            cut(-50.0 if slow else -10.0)
        return {"score": 1e6 if slow else -10.0}

    found = Search(SMALL, "late").run(late, 1e9)
    assert (found.point, found.score) == (SMALL.default, -10.0)
    assert {(told.state, told.score) for told in found.told[1:]} == {("cut short", -50.0)}


def test_no_trial_starts_that_would_end_after_the_budget() -> None:
    clock = Clock()
    clock.now = 1000.0
    found = Search(SMALL, "budget", clock=clock).run(Measured(clock), 47.0)
    assert clock.now - 1000.0 <= 47.0
    assert sum(told.state == "measured" for told in found.told) >= 3


def test_the_default_is_measured_whatever_the_budget() -> None:
    clock = Clock()
    assert len(Search(SMALL, "none", clock=clock).run(Measured(clock), -1.0).told) == 1


def test_a_failed_measurement_is_told_and_the_search_goes_on() -> None:
    measured = Measured()

    def failing(point: Point, cut: Cut) -> dict[str, float]:
        if point["threads"] == 4:
            raise RuntimeError("\nCUDA out of memory.\nTried to allocate 20 GiB")
        return measured(point, cut) if point["threads"] != 6 else {"score": float("nan")}

    found = Search(SMALL, "failing").run(failing, 1e9)
    failed = {told.reason for told in found.told if told.state == "failed"}
    assert failed == {"RuntimeError: CUDA out of memory.", "the score is nan"}
    assert len(found.told) == 48
    assert found.score == 199
    assert all(told.score is None for told in found.told if told.state == "failed")


def test_where_nothing_can_be_measured_the_default_comes_out() -> None:
    found = Search(SMALL, "nothing", refuse=lambda point: "spills").run(Measured(), 1e9)
    assert (found.point, found.score, len(found.told)) == (SMALL.default, float("-inf"), 48)


def test_other_errors_end_the_search() -> None:
    with pytest.raises(KeyError, match="score"):
        Search(SMALL, "wrong").run(lambda point, cut: {"speed": 1.0}, 1e9)
