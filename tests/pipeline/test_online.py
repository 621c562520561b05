"""Planning while training: the drift of stage times that calls for a new plan, and the report of the change."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.online import OnlinePlanner, Replanned, guarded
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.pipeline.schedules import RESOURCES

TIMES = {"sample": 2e-3, "features": 3e-3, "memory": 2e-3, "train": 6e-3, "update": 3e-3}
EXACT = {**TIMES, "patch": 2e-5}


def feed(planner: OnlinePlanner, times: dict[str, float], iterations: int) -> list[Replanned]:
    """Observe iterations with these stage times, and return the planner's changes."""
    spans = [Span(name, RESOURCES[name], 0, 0.0, 1.0, seconds) for name, seconds in times.items()]
    changes = [planner.observe(spans) for _ in range(iterations)]
    return [change for change in changes if change is not None]


@pytest.mark.parametrize("factor", [0.75, 1.25, 3.0])
@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_drift_above_a_fifth_calls_for_one_new_plan(stage: str, factor: float) -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    assert feed(planner, TIMES, 50) == []
    old, times = planner.plan, {**TIMES, stage: TIMES[stage] * factor}
    changes = feed(planner, times, 1)
    while not changes and planner.iterations < 500:
        changes = feed(planner, times, 1)
    (change,) = changes
    assert (change.old, change.new, change.stage) == (old, planner.plan, stage)
    share = float(planner.plan.graph.times[stage]) / TIMES[stage] - 1
    assert 0.2 < abs(share) <= 0.2 + abs(factor - 1) / 16  # as soon as the average has drifted too far


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_drift_below_a_fifth_changes_nothing(factor: float) -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    plan = planner.plan
    assert feed(planner, {name: seconds * factor for name, seconds in TIMES.items()}, 300) == []
    assert planner.plan is plan


def test_the_drift_limit_can_be_chosen() -> None:
    assert feed(OnlinePlanner("mspipe", times=TIMES, drift=0.1), {**TIMES, "train": 6.9e-3}, 100) != []


def test_the_drift_of_a_negligible_stage_does_not_count() -> None:
    planner = OnlinePlanner("exact", times=EXACT)
    assert feed(planner, {**EXACT, "patch": 6e-5}, 300) == []  # 3 times its time, 0.7 % of the period
    assert feed(planner, {**EXACT, "patch": 2e-4}, 300) != []


def test_one_slow_iteration_is_no_drift() -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    feed(planner, TIMES, 20)
    assert feed(planner, {**TIMES, "train": 2.5 * TIMES["train"]}, 1) == []
    assert feed(planner, TIMES, 50) == []


def test_without_times_the_first_measurements_make_the_plan() -> None:
    planner = OnlinePlanner("mspipe")
    assert len(set(planner.plan.graph.times.values())) == 1
    feed(planner, {name: 1.0 for name in TIMES}, 1)  # the first iteration of a process compiles, and does not count
    (change,) = feed(planner, TIMES, 30)
    assert {name: float(time) for name, time in change.new.graph.times.items()} == pytest.approx(TIMES)
    assert float(change.new.period) == pytest.approx(6e-3)
    assert change.new.staleness == 1


def test_the_new_plan_has_the_staleness_for_the_new_times() -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    assert planner.plan.staleness == 1
    feed(planner, {**TIMES, "train": 4e-3, "update": 4.5e-3}, 200)
    assert planner.plan.staleness == 2  # (2 + 4 + 4.5) / 5, rounded up, less 1
    fixed = OnlinePlanner("fixed", 3, TIMES)
    feed(fixed, {name: 2 * seconds for name, seconds in TIMES.items()}, 200)
    assert fixed.plan.staleness == 3
    assert float(fixed.plan.graph.times["train"]) > 1.2 * TIMES["train"]


def test_new_times_can_be_planned_without_adopting_the_plan() -> None:
    planner = OnlinePlanner("serial", times=TIMES)
    assert float(planner.plan_for({**TIMES, "train": 6.6e-3}).period) == pytest.approx(16.6e-3)
    assert float(planner.plan.period) == pytest.approx(16e-3)


def test_a_single_pause_changes_no_plan() -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    assert feed(planner, TIMES, 40) == []
    assert feed(planner, {**TIMES, "train": 1.0}, 1) == []
    assert feed(planner, TIMES, 40) == []


def test_the_event_contains_both_plans() -> None:
    planner = OnlinePlanner("mspipe", times=TIMES)
    first = json.loads(json.dumps(Replanned(None, planner.plan).to_json()))
    assert (first["event"], first["stage"], first["old"]) == ("plan", None, None)
    (change, *_) = feed(planner, {**TIMES, "train": 12e-3}, 30)
    event = json.loads(json.dumps(change.to_json()))
    assert set(event) == {"event", "stage", "old", "new"}
    assert event["stage"] == "train"
    assert event["old"] == first["new"]
    assert event["old"]["times"] == pytest.approx(TIMES)
    assert event["new"]["times"] == pytest.approx({**TIMES, "train": 12e-3})
    for side, plan in (("old", change.old), ("new", change.new)):
        assert plan is not None
        assert {name: value for name, value in event[side].items() if name != "times"} == plan.to_json()


def test_the_fetch_starts_a_tenth_of_a_period_early() -> None:
    plan = make_plan("mspipe", {"sample": 2, "features": 3, "memory": 2, "train": 6, "update": 3})
    assert plan.delay is not None
    delay = guarded(plan)
    assert delay is not None
    assert delay.offset == plan.delay.offset - Fraction(6, 10) == Fraction(34, 10)
    assert (delay.stage, delay.reference, delay.distance) == ("memory", "train", plan.delay.distance)
    assert guarded(make_plan("serial", TIMES)) is None
    short = make_plan("mspipe", {"sample": 1, "features": 0.5, "memory": 9.5, "train": 10, "update": 1})
    assert short.delay is not None
    assert short.delay.offset == Fraction(1, 2)
    delay = guarded(short)
    assert delay is not None
    assert delay.offset == 0
