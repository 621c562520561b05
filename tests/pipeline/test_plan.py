"""The planner against brute force: staleness, period, starts, and the delayed memory fetch."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from math import ceil
from typing import Any

import pytest

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graph import Time
from mspipe_triton.pipeline.plan import Delay, Plan, make_plan, parse_times, steady_period
from mspipe_triton.pipeline.schedules import RESOURCES, SCHEDULES, stage_names
from mspipe_triton.pipeline.simulate import simulate
from tests.pipeline.brute_force import Pipeline, smallest

TIMES = {"sample": 2, "features": 3, "memory": 2, "train": 6, "update": 3}
GATHER = {**RESOURCES, "memory": "compute"}


def vectors(count: int, schedule: str = "mspipe") -> list[dict[str, int]]:
    """Stage times from 1 to 20."""
    draw = random.Random(7)
    return [{name: draw.randint(1, 20) for name in stage_names(schedule)} for _ in range(count)]


def ring(times: dict[str, int]) -> int:
    return times["memory"] + times["train"] + times["update"]


def test_an_example() -> None:
    plan = make_plan("mspipe", TIMES)
    assert plan.to_json() == {
        "schedule": "mspipe",
        "period": 6,
        "lower_bound": 6,
        "staleness": 1,
        "starts": {"sample": 0, "features": 2, "memory": 5, "train": 7, "update": 13},
        "utilisation": {"sampler": 2 / 6, "copy_in": 5 / 6, "compute": 1, "copy_out": 0.5},
        "slack": 1,
    }
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()
    assert plan.delay == Delay("memory", "train", 1, Fraction(4))
    assert simulate(plan.graph, 40).period() == 6


def test_serial_and_prefetch() -> None:
    serial, prefetch = make_plan("serial", TIMES), make_plan("prefetch", TIMES, 0)
    assert (serial.period, serial.lower_bound, serial.staleness, serial.slack, serial.delay) == (16, 6, 0, 0, None)
    assert (prefetch.period, prefetch.staleness, prefetch.slack, prefetch.delay) == (ring(TIMES), 0, 0, None)
    assert list(serial.starts.values()) == [0, 2, 5, 7, 13]


def test_the_smallest_staleness_against_a_search() -> None:
    for times in vectors(1000):
        plan = make_plan("mspipe", times)
        assert (plan.staleness, plan.period) == smallest(times)
        assert plan.period == plan.lower_bound
        assert plan.staleness == ceil(ring(times) / plan.period) - 1
        assert plan.slack == (1 + plan.staleness) * plan.period - ring(times) >= 0


@pytest.mark.parametrize(("schedule", "resources"), [("exact", RESOURCES), ("mspipe", GATHER), ("exact", GATHER)])
def test_the_smallest_staleness_with_a_patch_and_with_a_gather_on_compute(
    schedule: str, resources: dict[str, str]
) -> None:
    for times in vectors(200, schedule):
        plan = make_plan(schedule, times, resources=resources)
        assert (plan.staleness, plan.period) == smallest(times, gather=resources is GATHER)
        assert plan.period == plan.lower_bound


def test_a_fixed_staleness_bounds_the_period() -> None:
    for k, times in enumerate(vectors(200)):
        staleness = k % 5
        expected = max(make_plan("mspipe", times).lower_bound, Fraction(ring(times), 1 + staleness))
        plan = make_plan("mspipe", times, staleness)
        assert plan.period == expected == Pipeline(times, staleness).period()
        assert plan.staleness == staleness
        # Under fixed, fetches and updates also alternate on the memory itself.
        fixed = make_plan("fixed", times, staleness)
        expected = max(expected, times["memory"] + times["update"])
        assert fixed.period == expected == Pipeline(times, staleness, fixed=True).period()


def cases() -> list[Plan]:
    """Plans of every schedule on the default resources, with a gather on compute, and with updates on compute."""
    plans = []
    for schedule in SCHEDULES:
        for resources in (RESOURCES, GATHER, {**RESOURCES, "update": "compute"}):
            for k, times in enumerate(vectors(12, schedule)):
                staleness = k % 4 if schedule == "fixed" or (k % 2 and schedule in ("mspipe", "exact")) else None
                plans.append(make_plan(schedule, times, staleness, resources))
    return plans


def feasible(plan: Plan, starts: dict[str, Fraction]) -> bool:
    """Return true if starts that repeat every period break no constraint."""
    return all(
        starts[edge.after] >= starts[edge.before] + plan.graph.times[edge.before] - edge.distance * plan.period
        for edge in plan.graph.constraints
    )


def test_stages_start_as_early_as_possible_and_the_fetch_as_late() -> None:
    moment = Fraction(1, 10**6)
    for plan in cases():
        assert feasible(plan, plan.starts)
        assert plan.starts["sample"] == 0
        assert not feasible(plan, {**plan.starts, "memory": plan.starts["memory"] + moment})
        for name in plan.starts:
            earlier = {**plan.starts, name: plan.starts[name] - moment}
            assert name in ("sample", "memory") or not feasible(plan, earlier), name


def test_utilisation_is_load_per_period() -> None:
    for plan in cases():
        run = simulate(plan.graph, 5)
        assert plan.utilisation == {name: busy / 5 / plan.period for name, busy in run.busy().items()}
        assert steady_period(plan.graph) == plan.period >= plan.lower_bound


def test_slack_is_the_time_between_the_required_update_and_the_fetch() -> None:
    for schedule in ("mspipe", "exact", "fixed"):
        for k, times in enumerate(vectors(50, schedule)):
            plan = make_plan(schedule, times, k % 4)
            update_end = plan.starts["update"] + times["update"] - (1 + plan.staleness) * plan.period
            assert plan.slack == plan.starts["memory"] - update_end >= 0


@pytest.mark.parametrize("resources", [RESOURCES, GATHER])
@pytest.mark.parametrize("schedule", ["mspipe", "exact"])
def test_the_delay_costs_no_time_and_the_fetch_ends_just_in_time(schedule: str, resources: dict[str, str]) -> None:
    for k, times in enumerate(vectors(100, schedule)):
        plan = make_plan(schedule, times, None if k % 3 else 1, resources)
        assert plan.delay is not None
        assert (plan.delay.stage, plan.delay.reference) == ("memory", "train")
        assert plan.delay.offset >= 0
        assert plan.delay.distance == 1 or plan.delay.offset < plan.period
        delay = (plan.delay.distance, plan.delay.offset)
        delayed = Pipeline(times, plan.staleness, gather=resources is GATHER, delay=delay)
        assert delayed.period() == plan.period
        next_stage = "patch" if schedule == "exact" else "train"
        assert delayed.end["memory"][-1] == delayed.start[next_stage][-1]


def test_floats_count_to_twelve_digits_and_fractions_are_exact() -> None:
    tenths = {name: value / 10 for name, value in TIMES.items()}
    assert sum(Fraction(tenths[name]) for name in ("memory", "train", "update")) != Fraction(11, 10)
    plan = make_plan("mspipe", tenths)
    assert (plan.period, plan.staleness, plan.slack) == (Fraction(3, 5), 1, Fraction(1, 10))
    assert plan.to_json()["period"] == 0.6
    assert make_plan("serial", {**TIMES, "train": Fraction(1, 3)}).period == 10 + Fraction(1, 3)
    assert make_plan("serial", {**TIMES, "train": 0.1 + 0.2}).period == 10 + Fraction(3, 10)
    assert make_plan("serial", {**TIMES, "train": 1.00000000001}).period == 11 + Fraction(1, 10**11)


def test_planning_is_quick_for_any_times() -> None:
    draw, seconds = random.Random(3), []
    for _ in range(100):
        times = {name: draw.random() * 10 ** draw.randint(-9, 9) for name in stage_names("exact")}
        start = time.thread_time()
        make_plan("exact", times)
        seconds.append(time.thread_time() - start)
    assert statistics.median(seconds) < 0.01


INVALID: dict[str, tuple[tuple[Any, ...], str]] = {
    "serial": (("serial", TIMES, 2), "schedule serial misses no update: staleness 2 needs mspipe, fixed or exact"),
    "prefetch": (("prefetch", TIMES, 1), "schedule prefetch misses no update"),
    "fixed": (("fixed", TIMES), "schedule fixed needs a staleness"),
    "negative": (("mspipe", TIMES, -1), "staleness must be at least 0, not -1"),
    "unknown": (("fast", TIMES), "schedule 'fast' is not one of"),
    "patch": (("exact", TIMES), "needs a time for patch"),
    "nan": (("mspipe", {**TIMES, "train": float("nan")}), "stage 'train' takes nan"),
    "zero": (("mspipe", {**TIMES, "train": 0.0}), "stage 'train' takes 0"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_impossible_plan_is_refused_in_one_line(name: str) -> None:
    arguments, message = INVALID[name]
    with pytest.raises(GraphError) as error:
        make_plan(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


UNREADABLE = (
    *("", "a", "=2", "a=", "a=x", "a=1=2", "a=1,,b=2", "a=1/2/3"),
    *("a=0", "a=-1", "a=1/0", "a=nan", "a=inf", "a=1e16", "a=1e999999999", "a=1e-999999999"),
)


def test_times_are_read_exactly() -> None:
    times: dict[str, Time] = {"a": 2, "b": Fraction(5, 2), "c": Fraction(1, 3), "d": Fraction(1, 1000)}
    assert parse_times(" a=2, b = 2.5,c=1/3,d=1e-3") == times
    for text in UNREADABLE:
        with pytest.raises(ConfigError, match="--times: "):
            parse_times(text)
    with pytest.raises(ConfigError, match="a is given twice"):
        parse_times("a=1,a=2")


def test_a_period_that_no_staleness_shortens_is_planned_with_staleness_0() -> None:
    # Features wait for the previous update on the same copy engine, so all stages but the sample form one cycle.
    plan = make_plan("mspipe", TIMES, resources={**RESOURCES, "update": "copy_in"})
    assert (plan.period, plan.lower_bound, plan.staleness) == (14, 8, 0)


def test_planning_loads_no_torch() -> None:
    code = "import sys, mspipe_triton.pipeline.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
