"""The simulation: runs computed by hand, the rule for every start, and the period that a run settles to."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph
from mspipe_triton.pipeline.plan import steady_period
from mspipe_triton.pipeline.schedules import schedule_graph
from mspipe_triton.pipeline.simulate import simulate
from tests.pipeline.brute_force import largest_ratio
from tests.pipeline.test_graph import drafts, edges_of

TIMES = {"sample": 2, "features": 3, "memory": 2, "train": 6, "update": 3}


def valid_graph(stages: tuple[Stage, ...], dependencies: tuple[Dependency, ...]) -> StageGraph:
    try:
        return StageGraph(stages, dependencies)
    except GraphError:
        assume(False)
        raise


graphs = drafts().map(lambda draft: valid_graph(*draft))


@st.composite
def connected_graphs(draw: st.DrawFn) -> StageGraph:
    """Draw a graph in which every stage is at most a few iterations ahead of the next one."""
    stages, dependencies = draw(drafts())
    bounds = []
    for first, second in pairwise(stages):
        bounds += [Dependency(first.name, second.name), Dependency(second.name, first.name, draw(st.integers(1, 4)))]
    return valid_graph(stages, (*dependencies, *bounds))


def test_two_stages_by_hand() -> None:
    graph = StageGraph(
        (Stage("a", "x", 2, size=10), Stage("b", "y", Fraction(7, 2), size=1)),
        (Dependency("a", "b"), Dependency("b", "a", 2)),
    )
    run = simulate(graph, 4)
    assert run.starts == {"a": (0, 2, 5.5, 9), "b": (2, 5.5, 9, 12.5)}
    assert run.ends == {"a": (2, 4, 7.5, 11), "b": (5.5, 9, 12.5, 16)}
    assert run.makespan == 16
    assert run.busy() == {"x": 8, "y": 14}
    # From 5.5 to 9, iterations 1 and 2 hold a's bytes and iteration 1 holds b's; at 5.5 and 9 one iteration frees its
    # bytes as the next one starts.
    assert run.peak_size() == 21
    assert simulate(graph, 20).period() == Fraction(7, 2)


def test_starts_that_repeat_every_two_iterations() -> None:
    names = ("a", "b", "c")
    ring = [Dependency("a", "b"), Dependency("b", "c"), Dependency("c", "a", 2)]
    run = simulate(StageGraph(tuple(Stage(name, name, 3) for name in names), tuple(ring)), 12)
    assert run.starts["a"][:6] == (0, 3, 9, 12, 18, 21)
    assert run.period() == Fraction(9, 2)


def test_a_resource_keeps_its_order_even_if_another_stage_could_start() -> None:
    graph = StageGraph(
        (Stage("first", "x", 1), Stage("second", "x", 1), Stage("slow", "y", 5)), (Dependency("slow", "first"),)
    )
    assert simulate(graph, 2).starts == {"first": (5, 10), "second": (6, 11), "slow": (0, 5)}


def test_waiting_for_a_later_iteration_ends_with_the_run() -> None:
    graph = StageGraph((Stage("a", "x", 2), Stage("b", "y", 1)), (Dependency("a", "b", -2),))
    run = simulate(graph, 4)
    assert run.starts == {"a": (0, 2, 4, 6), "b": (6, 8, 9, 10)}
    assert simulate(graph, 30).period() == 2


def test_serial_and_a_run_too_short_to_settle() -> None:
    run = simulate(schedule_graph("serial", TIMES), 5)
    assert (run.makespan, run.period()) == (80, 16)
    assert simulate(schedule_graph("mspipe", TIMES, 1), 1).period() == 16
    with pytest.raises(GraphError, match="at least 1 iteration, not 0"):
        simulate(schedule_graph("serial", TIMES), 0)


def test_an_unchecked_graph_raises_if_no_stage_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StageGraph, "_refuse_cycles", lambda _: None)
    graph = StageGraph(
        (Stage("a", "x"), Stage("b", "y"), Stage("c", "z")), (Dependency("b", "c"), Dependency("c", "b"))
    )
    with pytest.raises(GraphError, match="no stage can start after 3 stages"):
        simulate(graph, 3)


@settings(max_examples=100, deadline=None)
@given(graphs, st.integers(1, 12))
def test_every_start_is_the_earliest_allowed_by_resource_and_waits(graph: StageGraph, iterations: int) -> None:
    run = simulate(graph, iterations)
    for stages in graph.by_resource.values():
        free = Fraction()
        for iteration in range(iterations):
            for stage in stages:
                awaited = [(edge.before, iteration - edge.distance) for edge in graph.waits[stage.name]]
                waits = [run.ends[name][min(earlier, iterations - 1)] for name, earlier in awaited if earlier >= 0]
                assert run.starts[stage.name][iteration] == max([free, *waits])
                free = run.starts[stage.name][iteration] + graph.times[stage.name]
                assert run.ends[stage.name][iteration] == free


@settings(max_examples=100, deadline=None)
@given(graphs)
def test_the_steady_period_against_the_worst_cycle_and_a_long_run(graph: StageGraph) -> None:
    period = steady_period(graph)
    assert period == largest_ratio(edges_of(graph.stages, graph.dependencies), graph.times)
    # A run takes at most one period per iteration after the potentials, and at least the worst cycle unrolled.
    iterations = 200
    reach = sum(abs(edge.distance) for edge in graph.constraints)
    margin = 2 * reach * period + sum(graph.times.values())
    assert abs(simulate(graph, iterations).makespan - iterations * period) <= margin


@settings(max_examples=100, deadline=None)
@given(connected_graphs())
def test_a_bounded_run_settles_to_the_steady_period_exactly(graph: StageGraph) -> None:
    period = steady_period(graph)
    for iterations in (10, 25, 60, 240, 960, 3840):
        run = simulate(graph, iterations)
        if (estimate := run.period()) == period:
            return
        assert estimate == run.makespan / iterations
    raise AssertionError(f"never settled to {period}")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["mspipe", "fixed"]), st.integers(0, 3), st.tuples(*[st.integers(1, 20)] * 5))
def test_schedules_settle_to_the_steady_period(schedule: str, staleness: int, times: tuple[int, ...]) -> None:
    graph = schedule_graph(schedule, dict(zip(TIMES, times, strict=True)), staleness)
    assert any(simulate(graph, iterations).period() == steady_period(graph) for iterations in (60, 240, 960, 3840))


@pytest.mark.parametrize("staleness", range(5))
def test_fixed_misses_exactly_its_staleness(staleness: int) -> None:
    iterations = 30
    for times in (TIMES, {**TIMES, "update": 17}, {**TIMES, "memory": 19}, {**TIMES, "sample": 40}):
        run = simulate(schedule_graph("fixed", times, staleness), iterations)
        for i in range(iterations):
            if i > staleness:
                assert run.starts["memory"][i] >= run.ends["update"][i - 1 - staleness]
            if i >= staleness:
                assert run.ends["memory"][i] <= run.starts["update"][i - staleness]
