"""The planner of series-parallel models against an enumeration of all plans, and against the planner of chains."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mspipe_triton.pipeline.graphpipe import space
from mspipe_triton.pipeline.graphpipe.decompose import decompose
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.rewrites import REWRITES
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel
from mspipe_triton.pipeline.graphpipe.sequential import Sequential
from tests.pipeline.graphpipe import enumeration
from tests.pipeline.graphpipe.enumeration import Enumeration, Operators, Outcome
from tests.pipeline.graphpipe.random_problems import any_graph, chain, equal_operators, problem, series_parallel

NEAR = 1 + 1e-9  # the planner and the enumeration round differently
# Models of equal operators, some of whose parts have the same shape, but receive other data.
LOOK_EQUAL = {
    "one source or two": ((0, 1), (0, 2), (3, 4), (5, 6)),
    "sources in common or not": ((0, 2), (1, 2), (2, 3), (2, 4), (2, 5), (0, 3), (1, 4), (1, 5)),
}
Case = tuple[Problem, Rhythm]
Stages = set[tuple[Operators, int]]


@st.composite
def cases(
    draw: st.DrawFn,
    build: Callable[[Random, int], OperatorGraph] = series_parallel,
    operators: int = 6,
    devices: int = 4,
) -> Case:
    random = Random(draw(st.integers(0, 1 << 32)))
    return problem(random, build(random, draw(st.sampled_from([operators, *range(1, operators)]))), devices)


def enumerated(case: Case) -> Enumeration:
    problem, rhythm = case
    return Enumeration(problem, rhythm.micro_batch, rhythm.group)


def planner_of(problem: Problem, rewrite: str = "cost") -> SeriesParallel:
    return SeriesParallel(problem, decompose(problem.graph, rewrite).tree)


def least_limit(planner: Planner, rhythm: Rhythm) -> float | None:
    return next((limit for limit in planner.limits(rhythm) if planner.parts(rhythm, limit) is not None), None)


def stages_of(parts: Iterable[Part]) -> Stages:
    return {(Operators(members(part.operators)), part.devices) for part in parts}


def same(plans: Iterable[Outcome], parts: Iterable[Part]) -> list[Outcome]:
    """The plans with the same stages on the same devices; these may differ in their levels."""
    stages = stages_of(parts)
    return [plan for plan in plans if {(each.operators, each.devices) for each in plan.stages} == stages]


def in_flight(plan: PipelinePlan) -> dict[Operators, int]:
    placed = plan.problem.graph.placed
    return {Operators(members(each.operators & placed)): each.in_flight for each in plan.stages}


def promised(case: Case, outcome: Outcome) -> dict[Operators, int]:
    """Micro-batches in flight by the levels of a plan."""
    problem, rhythm = case
    return {
        each.operators: min(each.level * rhythm.unit, problem.batch) // rhythm.micro_batch for each in outcome.stages
    }


def check(case: Case) -> None:
    """Compare the planner with the enumeration: its optimum, and its plan at each of its limits."""
    problem, rhythm = case
    planner, plans = planner_of(problem), enumerated(case).plans_by_splits()
    best = least_limit(planner, rhythm)
    if plans:
        assert best == pytest.approx(min(plan.bottleneck for plan in plans), rel=1e-12, abs=0)
    else:
        assert best is None
    for limit in (NEAR * each for each in planner.limits(rhythm)):
        parts = planner.parts(rhythm, limit)
        fast = [plan for plan in plans if plan.bottleneck <= limit]
        assert (parts is None) == (not fast)
        if parts is not None:
            depth = min(plan.depth for plan in fast)
            shallow = [plan for plan in fast if plan.depth == depth]
            assert sum(part.devices for part in parts) == min(plan.devices for plan in shallow)
            plan = assemble(problem, parts)
            assert plan.bottleneck <= limit
            assert plan.depth <= depth
            actual = in_flight(plan)
            assert any(
                all(actual[stage] <= most for stage, most in promised(case, each).items())
                for each in same(shallow, parts)
            )


@settings(max_examples=400, deadline=None)
@given(cases())
def test_equals_the_enumeration_of_its_splits(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(operators=7, devices=4))
def test_equals_the_enumeration_of_its_splits_on_larger_models(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("edges", LOOK_EQUAL.values(), ids=LOOK_EQUAL)
def test_parts_that_only_look_equal(edges: tuple[tuple[int, int], ...]) -> None:
    for seed in range(100):
        random = Random(seed)
        check(problem(random, equal_operators(random, edges), 4))


@pytest.mark.parametrize("outputs", [(1, 2), (2, 1)])
def test_equal_operators_that_receive_more_or_less(outputs: tuple[int, int]) -> None:
    firsts = [Operator(name, Duration(0, 1), parameters=1, output=out) for name, out in zip("ab", outputs, strict=True)]
    graph = OperatorGraph((*firsts, *(Operator(name, parameters=2) for name in "cd")), ((0, 2), (1, 3)))
    case = Problem(graph, Cluster(3, memory=2, bandwidth=0.25), batch=4, copies=1), Rhythm(1)
    assert least_limit(planner_of(case[0]), case[1]) == 8
    check(case)


@settings(max_examples=150, deadline=None)
@given(cases(chain))
def test_chains_are_those_of_the_sequential_planner(case: Case) -> None:
    problem, rhythm = case
    planner = planner_of(problem)
    sequential = Sequential(problem, list(members(problem.graph.placed)))
    plans = enumerated(case).all_plans()
    assert list(planner.limits(rhythm)) == list(sequential.limits(rhythm))
    for limit in (NEAR * each for each in planner.limits(rhythm)):
        ours, theirs = planner.parts(rhythm, limit), sequential.parts(rhythm, limit)
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            stages, devices = len(theirs), sum(part.devices for part in theirs)
            assert (len(ours), sum(part.devices for part in ours)) == (stages, devices)
            equals = [p for p in plans if (p.depth, p.devices) == (stages, devices) and p.bottleneck <= limit]
            assert same(equals, ours)
            if len(equals) == 1:
                assert stages_of(ours) == stages_of(theirs)


@settings(max_examples=150, deadline=None)
@given(cases(any_graph), st.sampled_from(list(REWRITES)))
def test_plans_of_any_model_are_valid(case: Case, rewrite: str) -> None:
    problem, rhythm = case
    planner, plans = planner_of(problem, rewrite), enumerated(case).all_plans()
    for limit in (NEAR * each for each in planner.limits(rhythm)):
        if parts := planner.parts(rhythm, limit):
            plan = assemble(problem, parts)
            (outcome,) = same(plans, parts)
            assert plan.bottleneck == pytest.approx(outcome.bottleneck, rel=1e-12, abs=0)
            assert outcome.bottleneck <= limit
            assert plan.depth == outcome.depth
            assert in_flight(plan) == promised(case, outcome)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_splits_make_some_of_all_plans(case: Case) -> None:
    """The two enumerations agree, but that levels by splits may be higher."""
    everything = {
        frozenset((each.operators, each.devices) for each in plan.stages): plan for plan in enumerated(case).all_plans()
    }
    for plan in enumerated(case).plans_by_splits():
        other = everything[frozenset((each.operators, each.devices) for each in plan.stages)]
        assert plan.bottleneck == other.bottleneck
        levels = {each.operators: each.level for each in other.stages}
        assert all(levels[each.operators] <= each.level for each in plan.stages)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_fewer_cuts_make_fewer_plans(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, rhythm = case
    monkeypatch.setattr(space, "MOST_CUTS", 0)
    planner, plans = planner_of(problem), enumerated(case).plans_by_splits()
    for limit in (NEAR * each for each in planner.limits(rhythm)):
        if parts := planner.parts(rhythm, limit):
            assert same([plan for plan in plans if plan.bottleneck <= limit], parts)


def test_joins_receive_nothing() -> None:
    branches = [Operator(name, Duration(0, 1), output=100) for name in "ab"]
    graph = OperatorGraph((*branches, Operator("loss")), ((0, 2), (1, 2)))
    case = Problem(graph, Cluster(2, 1, bandwidth=1), batch=4), Rhythm(1)
    planner = planner_of(case[0])
    assert least_limit(planner, case[1]) == min(plan.bottleneck for plan in enumerated(case).all_plans()) == 1
    parts = planner.parts(case[1], 1)
    assert parts is not None
    assert assemble(case[0], parts).bottleneck == 1


def test_the_enumeration_shares_no_code_with_planners() -> None:
    tree = ast.parse(Path(enumeration.__file__).read_text(encoding="utf-8"))
    assert not [each for each in ast.walk(tree) if isinstance(each, ast.Import)]
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    names = {f"{each.module}.{name.name}" for each in imports for name in each.names}
    assert {name.rpartition("graphpipe.")[2] for name in names if name.startswith("mspipe_triton")} == {
        "operators.Duration",
        "problem.Problem",
    }
