"""Planning of models: the published case study, and what holds for every model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.models import two_branch
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.planning import Planned, plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan

CASE = Problem(two_branch(), Cluster(8, 16e9), 128)


def chain(planned: Planned) -> PipelinePlan:
    assert planned.sequential is not None
    return planned.sequential.plan


def in_flight(plan: PipelinePlan) -> list[int]:
    return sorted((stage.in_flight for stage in plan.stages), reverse=True)


def test_case_study_halves_depth_and_in_flight() -> None:
    """Two branches of four stages: GraphPipe's paper, section 7.5."""
    planned = plan_model(CASE)
    assert (planned.graph.plan.depth, chain(planned).depth) == (4, 8)
    assert in_flight(planned.graph.plan) == [4, 4, 3, 3, 2, 2, 1, 1]
    assert in_flight(chain(planned)) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert {stage.rhythm.micro_batch for stage in planned.graph.plan.stages} == {8}
    assert {stage.rhythm.micro_batch for stage in chain(planned).stages} == {4}
    # 16 micro-batches of 8 and 3 more to fill and drain, each of 3 · (2 + 8) ms; 32 of 4 and 7 more, each of 18 ms.
    assert planned.graph.seconds == pytest.approx((16 + 3) * 30e-3)
    assert planned.sequential is not None
    assert planned.sequential.seconds == pytest.approx((32 + 7) * 18e-3)
    assert planned.speedup == pytest.approx(39 * 18 / (19 * 30))
    assert planned.bound.seconds == pytest.approx(planned.graph.time_per_sample)  # the plan is optimal


def test_depth_alone_gains_more_than_a_tenth() -> None:
    planned = plan_model(CASE, micro_batch=4)
    assert (planned.graph.plan.depth, chain(planned).depth) == (4, 8)
    assert planned.speedup == pytest.approx((32 + 7) / (32 + 3))


def test_chain_is_planned_as_by_the_sequential_planner() -> None:
    """The paper's appendix A.3."""
    layers = [
        Operator(f"layer{x}", Duration(1e-3, x % 3 * 1e-3), Duration(2e-3, 2e-3), 10**8, 10**6, 10**5) for x in range(9)
    ]
    graph = OperatorGraph.of(layers, [(a.name, b.name) for a, b in pairwise(layers)])
    planned = plan_model(Problem(graph, Cluster(4, 4e9, 1e9), 32))
    assert planned.speedup == 1
    assert planned.graph.plan.stages == chain(planned).stages


def ancestors(plan: PipelinePlan, stage: int) -> set[int]:
    direct = plan.stages[stage].after
    return {*direct, *(far for near in direct for far in ancestors(plan, near))}


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Random models of up to seven operators, on devices that hold at least one of them each."""
    size = draw(st.integers(1, 7))
    number = st.integers(0, 8)
    operators = [
        Operator(
            f"o{index}",
            Duration(draw(number) / 4, (1 + draw(number)) / 8),
            Duration(draw(number) / 4, (1 + draw(number)) / 8),
            draw(number),
            draw(number),
            draw(number),
        )
        for index in range(size)
    ]
    pairs = [(low, high) for low in range(size) for high in range(low + 1, size)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=10)) if pairs else []
    graph = OperatorGraph(tuple(operators), tuple(sorted(edges)))
    batch = draw(st.sampled_from([1, 4, 6, 8]))
    bandwidth = draw(st.sampled_from([4.0, 64.0, float("inf")]))
    return Problem(graph, Cluster(draw(st.integers(1, 4)), draw(st.integers(40, 400)), bandwidth), batch)


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["1f1b", "kfkb"]), st.booleans())
def test_plans_are_valid_and_between_the_bound_and_the_chain(problem: Problem, schedule: str, mixed: bool) -> None:
    try:
        planned = plan_model(problem, schedule, mixed=mixed)
    except GraphError:
        return
    plan, graph = planned.graph.plan, problem.graph
    assert planned.graph.seconds == simulate_plan(plan).makespan
    assert planned.graph.time_per_sample >= planned.bound.seconds * (1 - 1e-12)
    if planned.sequential is not None:
        assert planned.graph.seconds <= planned.sequential.seconds
    stage_of = {each: index for index, stage in enumerate(plan.stages) for each in members(stage.operators)}
    assert sorted(stage_of) == list(range(len(graph.operators)))  # C1
    for before, after in graph.edges:  # C2
        one, other = stage_of[before], stage_of[after]
        assert one == other or one in ancestors(plan, other) or after in graph.joins
    devices = [device for stage in plan.stages for device in stage.devices]
    assert len(set(devices)) == len(devices) <= problem.cluster.devices  # C3
    assert max(plan.memory(stage) for stage in plan.stages) <= problem.cluster.memory


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(problems())
def test_more_freedom_is_never_slower(problem: Problem) -> None:
    try:
        plain = plan_model(problem).graph.seconds
    except GraphError:
        return
    for size in (each for each in range(1, problem.batch + 1) if not problem.batch % each):
        with suppress(GraphError):
            assert plain <= plan_model(problem, micro_batch=size).graph.seconds
    assert plan_model(problem, "kfkb").graph.seconds <= plain
    assert plan_model(problem, mixed=True).graph.seconds <= plain


def test_stages_with_their_own_micro_batches_fill_sooner() -> None:
    """A fixed cost in the last stage asks for large micro-batches; between the others, small ones pass sooner."""
    layers = [
        Operator("first", Duration(0, 1), Duration(0, 2), 1),
        Operator("second", Duration(0, 1), Duration(0, 2), 1),
        Operator("large", Duration(8, 0.5), Duration(8, 0.5), 1),
    ]
    problem = Problem(OperatorGraph(tuple(layers), ((0, 1), (1, 2))), Cluster(3, 7), 16)
    plain, mixed = plan_model(problem), plan_model(problem, mixed=True)
    assert mixed.graph.seconds < plain.graph.seconds
    assert len({stage.rhythm.micro_batch for stage in mixed.graph.plan.stages}) == 2


def test_a_dag_can_fit_where_no_chain_does() -> None:
    """Eight micro-batches in flight need 11.44 GB on the first device of the chain; the DAG needs 10.72."""
    problem = replace(CASE, cluster=Cluster(8, 10.9e9))
    planned = plan_model(problem)
    assert planned.sequential is None
    assert planned.speedup is None
    assert planned.graph.plan.depth == 4


def test_shortfall_names_the_stage_and_what_it_needs() -> None:
    """One sample in flight in each of four micro-batches needs 4 · 0.18 GB beside 10 GB."""
    problem = replace(CASE, cluster=Cluster(8, 10.6e9))
    with pytest.raises(
        GraphError, match=r"stage \d \((a|b)\.0\) needs 10\.72 GB .* with 4 micro-batches of 1 in flight"
    ):
        plan_model(problem)


def test_too_small_devices_name_the_operator() -> None:
    with pytest.raises(GraphError, match=r"'a\.0' needs .*GB"):
        plan_model(replace(CASE, cluster=Cluster(8, 8e9)))


@pytest.mark.parametrize(
    ("arguments", "words"), [({"schedule": "gpipe"}, "1f1b or kfkb"), ({"micro_batch": 3}, "divide the batch of 128")]
)
def test_settings_that_do_not_fit(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_model(CASE, **arguments)


def test_joined_models_that_are_not_series_parallel() -> None:
    """An N of four operators: a before c and d, b before d."""
    layers = [Operator(name, Duration(0, 1), Duration(0, 2), 8) for name in "abcd"]
    graph = OperatorGraph(tuple(layers), ((0, 2), (0, 3), (1, 3)))
    planned = plan_model(Problem(graph, Cluster(4, 40), 8))
    assert planned.graph.plan.depth == 2
    assert planned.graph.seconds == pytest.approx((8 + 1) * 3)


def test_transfers_never_make_the_dag_slower_than_the_chain() -> None:
    """With fewer micro-batches in flight a transfer's latency shows, so the chain itself stays among the plans."""
    layers = [Operator(name, Duration(0, 1e-3), Duration(0, 1e-3), 10**8, 0, 2 * 10**7) for name in "abc"]
    graph = OperatorGraph(tuple(layers), ((0, 2), (1, 2)))
    planned = plan_model(Problem(graph, Cluster(4, 4.5e8, 1e10), 8, replicas=1))
    assert planned.sequential is not None
    assert planned.graph.seconds <= planned.sequential.seconds


def test_idle_time_counts_devices_without_a_stage() -> None:
    """Two stages of equal time on three devices: each works 8 of 9 units of time."""
    layers = [Operator(name, Duration(0, 1), Duration(0, 1), 8) for name in "ab"]
    choice = plan_model(Problem(OperatorGraph(tuple(layers), ((0, 1),)), Cluster(3, 50), 8, replicas=1)).graph
    assert choice.plan.devices == 2
    assert choice.bubble == pytest.approx(1 - 2 * 8 / (3 * 9))


def test_large_batches_are_cut_into_at_most_a_thousand_passes() -> None:
    planned = plan_model(replace(CASE, batch=10**6, cluster=Cluster(8, 1e12)))
    assert all(10**6 // stage.rhythm.micro_batch <= 1024 for stage in planned.graph.plan.stages)


def test_a_model_that_takes_no_time() -> None:
    planned = plan_model(Problem(OperatorGraph((Operator("a", parameters=8),), ()), Cluster(2, 50), 4))
    assert (planned.graph.seconds, planned.speedup, planned.over_bound(planned.graph)) == (0, 1, 1)
    assert planned.to_json()["bubble"] == 0.5  # one of two devices has no stage
