"""Plans of ranks that share each iteration against brute force, and the staleness that a slow link asks for."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import Stage, StageGraph
from mspipe_triton.pipeline.plan import longest_time, make_plan, steady_period
from mspipe_triton.pipeline.schedules import RESOURCES, SCHEDULES, schedule_graph, stage_names
from mspipe_triton.pipeline.simulate import simulate
from mspipe_triton.pipeline.slow_link import link_notes, staleness_gain
from tests.pipeline.brute_force import Pipeline, largest_ratio

TIMES = {"sample": 2, "features": 3, "memory": 2, "forward": 2, "backward": 4, "exchange": 9, "update": 3}
EXACT = {**TIMES, "patch": 1}
GATHER = {**RESOURCES, "memory": "compute"}
FETCHING = ("prefetch", "mspipe", "fixed", "exact")


def vectors(count: int, schedule: str = "mspipe", seed: int = 7) -> list[dict[str, int]]:
    """Stage times from 1 to 20; every other vector has an exchange of up to 60."""
    draw = random.Random(seed)
    names = stage_names(schedule, shared=True)
    return [{name: draw.randint(1, 60 if k % 2 and name == "exchange" else 20) for name in names} for k in range(count)]


def loads(times: dict[str, int]) -> dict[str, int]:
    return {
        "sampler": times["sample"],
        "copy_in": times["features"] + times["memory"],
        "compute": times.get("patch", 0) + times["forward"] + times["backward"],
        "network": times["exchange"],
        "copy_out": times["update"],
    }


def way(times: dict[str, int]) -> int:
    """Time from the memory fetch to the end of the update."""
    longer = max(times["backward"], times["exchange"])
    return times["memory"] + times.get("patch", 0) + times["forward"] + longer + times["update"]


def hold(times: dict[str, int]) -> int:
    """Time from a patch to the one that it must precede, which waits for the exchange."""
    return times["patch"] + times["forward"] + times["exchange"] if "patch" in times else 0


def test_shared_stages_by_schedule() -> None:
    assert stage_names("mspipe", shared=True) == tuple(TIMES)
    assert stage_names("exact", shared=True) == (*list(TIMES)[:3], "patch", *list(TIMES)[3:])
    graph = schedule_graph("exact", EXACT, 1)
    assert graph.resource_of["exchange"] == "network"
    assert graph.sources == {
        "sample": None, "features": "sample", "memory": "features", "patch": "memory", "forward": "patch",
        "backward": "forward", "exchange": "forward", "update": "exchange",
    }  # fmt: skip
    assert {each.before for each in graph.waits["update"] if each.distance == 0} == {"backward", "exchange"}
    assert [(each.before, each.distance) for each in graph.waits["patch"]].count(("exchange", 1)) == 1
    assert not any(each.before == "exchange" for each in schedule_graph("mspipe", TIMES, 1).waits["memory"])


def test_an_example() -> None:
    plan = make_plan("exact", EXACT)
    assert (plan.period, plan.lower_bound, plan.staleness) == (12, 9, 1)
    assert plan.starts == {
        "sample": 0, "features": 2, "memory": 5, "patch": 7, "forward": 8, "backward": 10, "exchange": 10, "update": 19,
    }  # fmt: skip
    assert plan.utilisation["network"] == Fraction(9, 12)
    assert plan.delay is not None
    assert (plan.delay.stage, plan.delay.reference) == ("memory", "forward")


@pytest.mark.parametrize("schedule", FETCHING)
def test_periods_are_those_of_brute_force_of_simulation_and_of_formulas(schedule: str) -> None:
    for k, times in enumerate(vectors(60, schedule)):
        bound = 0 if schedule == "prefetch" else k % 4
        plan = make_plan(schedule, times, bound)
        expected = max(*loads(times).values(), Fraction(way(times), 1 + bound), hold(times))
        if schedule == "fixed":
            expected = max(expected, times["memory"] + times["update"])
        assert plan.period == expected
        assert plan.period == Pipeline(times, bound, fixed=schedule == "fixed").period()
        if k < 8:
            assert simulate(plan.graph, 150).period() == plan.period


def test_serially_times_add_up() -> None:
    for times in vectors(20):
        plan = make_plan("serial", times)
        assert plan.period == sum(times.values()) == simulate(plan.graph, 5).makespan / 5


@pytest.mark.parametrize("schedule", ["mspipe", "exact"])
@pytest.mark.parametrize("resources", [RESOURCES, GATHER], ids=["copies", "gather"])
def test_the_smallest_staleness_is_the_first_that_no_larger_one_improves(
    schedule: str, resources: dict[str, str]
) -> None:
    for times in vectors(40, schedule):
        plan, gather = make_plan(schedule, times, resources=resources), resources is GATHER
        periods = [Pipeline(times, bound, gather=gather).period() for bound in range(9)]
        assert (plan.period, plan.staleness) == (min(periods), periods.index(min(periods)))
        assert plan.period == max(plan.lower_bound, hold(times))


def test_the_bound_of_the_search_holds_where_stages_fork() -> None:
    """Uneven times with few resources: no bound from the number of stages on improves the period."""
    draw = random.Random(5)
    for _ in range(40):
        times = {name: 10 ** draw.randint(0, 5) for name in stage_names("exact", shared=True)}
        resources = {name: draw.choice("abcd") for name in times}
        plan = make_plan("exact", times, resources=resources)
        later = [schedule_graph("exact", times, bound, resources) for bound in (len(times), 3 * len(times))]
        assert all(steady_period(graph) == plan.period for graph in later)
        if plan.staleness:
            assert steady_period(schedule_graph("exact", times, plan.staleness - 1, resources)) > plan.period


def test_periods_are_the_largest_ratio_over_all_cycles() -> None:
    for schedule in SCHEDULES:
        for times in vectors(2, schedule):
            graph = schedule_graph(schedule, times, 0 if schedule in ("serial", "prefetch") else 2)
            edges = [(each.before, each.after, each.distance) for each in graph.constraints]
            assert steady_period(graph) == largest_ratio(edges, {name: Fraction(time) for name, time in times.items()})


@pytest.mark.parametrize("schedule", ["mspipe", "exact"])
def test_the_delay_costs_no_time_and_the_fetch_ends_just_in_time(schedule: str) -> None:
    for k, times in enumerate(vectors(60, schedule)):
        plan = make_plan(schedule, times, None if k % 3 else 1)
        assert plan.delay is not None
        assert (plan.delay.stage, plan.delay.reference) == ("memory", "forward")
        delayed = Pipeline(times, plan.staleness, delay=(plan.delay.distance, plan.delay.offset))
        assert delayed.period() == plan.period
        next_stage = "patch" if schedule == "exact" else "forward"
        assert delayed.end["memory"][-1] == delayed.start[next_stage][-1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_longest_time_is_where_the_period_starts_to_grow(schedule: str) -> None:
    tiny = Fraction(1, 10**6)
    for k, times in enumerate(vectors(25, schedule)):
        bound = k % 3 if schedule in ("mspipe", "fixed", "exact") else 0
        graph = schedule_graph(schedule, times, bound)
        limit = longest_time(graph, "exchange")
        free = steady_period(graph.with_times({"exchange": Fraction(1, 10**9)}))
        if schedule == "serial":
            assert limit == 0
        else:
            assert limit >= times["backward"]
            assert steady_period(graph.with_times({"exchange": limit})) == free
            assert steady_period(graph.with_times({"exchange": limit + tiny})) > free


def gain_of(schedule: str, times: dict[str, int], staleness: int | None = None) -> tuple[int, Fraction] | None:
    gain = staleness_gain(make_plan(schedule, times, staleness))
    return None if gain is None else (gain.staleness, gain.period)


def test_the_gain_by_staleness_of_an_example() -> None:
    gain = staleness_gain(make_plan("exact", EXACT))
    assert gain is not None
    assert (gain.staleness, gain.period, gain.before, gain.faster) == (1, 9, 12, Fraction(9, 4))
    assert gain.to_json() == {"staleness": 1, "period": 9, "faster": 2.25}
    assert gain.describe() == (
        "The exchange holds training up: staleness 1 (--schedule mspipe) would take 9 instead of 12 per iteration; "
        "if the exchange were 2.3 times as fast, no staleness would be needed."
    )
    assert gain_of("prefetch", TIMES) == gain_of("mspipe", TIMES, 0) == gain_of("fixed", TIMES, 0) == (1, 9)
    assert gain_of("mspipe", TIMES) is gain_of("fixed", TIMES, 1) is gain_of("serial", TIMES) is None
    quick = {**EXACT, "exchange": 4}  # as long as the backward pass
    assert gain_of("exact", quick) is gain_of("prefetch", {**TIMES, "exchange": 4}) is None
    one = {"sample": 2, "features": 3, "memory": 2, "train": 6, "update": 3}
    assert gain_of("prefetch", one) is None


@pytest.mark.parametrize("schedule", ["prefetch", "exact"])
def test_a_gain_is_what_brute_force_reaches_and_a_faster_link_needs_none(schedule: str) -> None:
    gains = 0
    for times in vectors(60, schedule, seed=11):
        plan = make_plan(schedule, times)
        gain = staleness_gain(plan)
        slow = longest_time(plan.graph, "exchange") < times["exchange"]
        best = make_plan("mspipe", {name: time for name, time in times.items() if name != "patch"})
        assert (gain is not None) == (slow and best.period < plan.period and best.staleness > 0)
        if gain is None:
            continue
        gains += 1
        without = {name: time for name, time in times.items() if name != "patch"}
        assert Pipeline(without, gain.staleness).period() == gain.period < plan.period == gain.before
        faster = {**times, "exchange": times["exchange"] / gain.faster}
        assert gain.faster > 1
        assert staleness_gain(make_plan(schedule, faster)) is None
    assert gains > 10


def test_a_run_is_told_of_gains_above_a_twentieth() -> None:
    seconds = {name: time / 1000 for name, time in EXACT.items()}
    assert link_notes("exact", seconds, 1) == [
        "The exchange holds training up: staleness 1 (--schedule mspipe) would take 9 ms instead of 12 ms per "
        "iteration; if the exchange were 2.3 times as fast, no staleness would be needed."
    ]
    # 12 ms of exchange: exact needs patch + forward + exchange, 12 ms and the rest.
    for rest, notes in ((0.25, 0), (0.35, 1)):
        close = {**seconds, "patch": rest * 1e-3, "forward": rest * 1e-3, "exchange": 12e-3}
        assert len(link_notes("exact", close, 1)) == notes
    without = {name: time for name, time in seconds.items() if name != "patch"}
    assert link_notes("fixed", without, 0)
    assert not link_notes("fixed", without, 1)
    assert not link_notes("serial", without, 0)
    assert link_notes("exact", {**seconds, "patch": 0.0}, 1)
    assert not link_notes("serial", {"sample": 1.0, "features": 1.0, "memory": 1.0, "train": 1.0, "update": 1.0}, 0)


WRONG = {
    "both": ({**TIMES, "train": 6}, "train and forward exclude each other: several ranks have forward, backward, exch"),
    "train": ({"train": 6, "exchange": 2}, "stages train and exchange exclude each other"),
    "exchange": ({n: t for n, t in TIMES.items() if n != "exchange"}, "needs a time for exchange, as in exchange=2"),
    "parts": ({"exchange": 1}, "needs a time for sample, features, memory, forward, backward, update, as in sample=2"),
    "patch": (EXACT, "has no stage 'patch'; it has sample, features, memory, forward, backward, exchange, update"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_stages_are_refused_by_name(name: str) -> None:
    times, message = WRONG[name]
    with pytest.raises(GraphError) as error:
        make_plan("mspipe", times)
    assert message in str(error.value)


def test_an_own_resource_of_the_exchange_is_used() -> None:
    resources = {**RESOURCES, "exchange": "copy_out"}
    plan = make_plan("mspipe", TIMES, resources=resources)
    assert plan.lower_bound == TIMES["exchange"] + TIMES["update"] == plan.period
    gain = staleness_gain(make_plan("prefetch", TIMES, resources=resources))
    assert gain is not None
    assert gain.period == plan.period
    assert longest_time(StageGraph((Stage("a", "r", 2), Stage("b", "q", 5))), "a") == 5
