"""Sequential planning: equality with an enumeration of all cuts of an order, orders, and the table of stages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, assemble
from mspipe_triton.pipeline.graphpipe.planner import NONE, Planner, StageTable
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders
from tests.pipeline.graphpipe.stage_oracle import Groups, intervals, outcomes, problems

RHYTHMS = st.builds(Rhythm, st.sampled_from([1, 2, 4]), st.integers(1, 2))
NEAR = 1 + 1e-9


def optimum(planner: Planner, rhythm: Rhythm) -> tuple[float, tuple[Part, ...]] | None:
    """The least limit that a planner can keep to, and its parts at that limit."""
    for limit in planner.limits(rhythm):
        if planner.parts(rhythm, limit) is not None:
            parts = planner.parts(rhythm, limit * NEAR)
            assert parts is not None
            return limit, parts
    return None


@settings(max_examples=150, deadline=None)
@given(problems(), RHYTHMS, st.sampled_from(["depth first", "breadth first"]))
def test_equals_all_cuts_of_the_order(problem: Problem, rhythm: Rhythm, name: str) -> None:
    order = linear_orders(problem.graph)[name]
    check_optimum(Sequential(problem, order), rhythm, intervals(order))


def check_optimum(planner: Planner, rhythm: Rhythm, partitions: Iterator[Groups]) -> None:
    """Compare a planner's least bottleneck, and depth and devices there, with all chains of its family."""
    problem = planner.problem
    chains = outcomes(problem, rhythm.micro_batch, rhythm.group, partitions)
    best = optimum(planner, rhythm)
    if best is None:
        assert not chains
        return
    limit, parts = best
    assert limit == pytest.approx(min(each.bottleneck for each in chains), rel=1e-12, abs=0)
    fast = [each for each in chains if each.bottleneck <= limit * NEAR]
    depth = min(each.depth for each in fast)
    assert len(parts) == depth
    assert sum(part.devices for part in parts) == min(each.devices for each in fast if each.depth == depth)
    plan = assemble(problem, parts, chain=True)
    assert plan.bottleneck <= limit * NEAR
    assert plan.depth == depth


@settings(max_examples=100, deadline=None)
@given(problems(), RHYTHMS, st.floats(0, 1))
def test_least_depth_at_any_limit(problem: Problem, rhythm: Rhythm, share: float) -> None:
    order = linear_orders(problem.graph)["depth first"]
    planner = Sequential(problem, order)
    limits = planner.limits(rhythm)
    limit = limits[int(share * (len(limits) - 1))] * NEAR
    chains = outcomes(problem, rhythm.micro_batch, rhythm.group, intervals(order))
    depths = [each.depth for each in chains if each.bottleneck <= limit]
    parts = planner.parts(rhythm, limit)
    assert (None if parts is None else len(parts)) == min(depths, default=None)


@settings(max_examples=100, deadline=None)
@given(problems(), RHYTHMS, st.integers(0, 40))
def test_table_needs_the_fewest_devices_that_fit(problem: Problem, rhythm: Rhythm, place: int) -> None:
    stages = range(1, problem.graph.everything + 1)
    table = StageTable(problem, levels=3)
    rows = [table.row(each) for each in stages]
    limits = table.limits(rhythm)
    limit = limits[place % len(limits)]
    fewest = table.fewest(rhythm, limit)
    for stage, row in zip(stages, rows, strict=True):
        for level in (1, 2, 3):
            in_flight = min(level * rhythm.unit, problem.batch) // rhythm.micro_batch
            fits = [
                devices
                for devices in range(1, min(problem.cluster.devices, rhythm.micro_batch) + 1)
                if problem.time_per_sample(stage, rhythm.micro_batch, devices) <= limit
                and problem.memory(stage, rhythm.micro_batch, devices, in_flight) <= problem.cluster.memory
            ]
            assert fewest[row, level - 1] == min(fits, default=NONE)


def test_orders_of_two_branches_that_join() -> None:
    cost = Duration(1)
    names = ("stem", "a0", "b0", "a1", "b1", "head", "loss")
    uses = [
        ("stem", "a0"),
        ("stem", "b0"),
        ("a0", "a1"),
        ("b0", "b1"),
        ("a1", "head"),
        ("b1", "head"),
        ("head", "loss"),
    ]
    operators = [Operator(name, Duration() if name == "loss" else cost) for name in names]
    graph = OperatorGraph.of(operators, uses)
    orders = {name: [graph.operators[index].name for index in order] for name, order in linear_orders(graph).items()}
    assert orders == {
        "depth first": ["stem", "a0", "a1", "b0", "b1", "head"],
        "breadth first": ["stem", "a0", "b0", "a1", "b1", "head"],
    }


@settings(max_examples=100, deadline=None)
@given(problems())
def test_orders_are_topological(problem: Problem) -> None:
    for order in linear_orders(problem.graph).values():
        Sequential(problem, order)


def test_wrong_orders_are_refused() -> None:
    graph = OperatorGraph((Operator("a", Duration(1)), Operator("b", Duration(1))), ((0, 1),))
    problem = Problem(graph, Cluster(2, 1e9), 4)
    with pytest.raises(GraphError, match=r"the order \(0, 0\) does not hold each operator of model exactly once"):
        Sequential(problem, (0, 0))
    with pytest.raises(GraphError, match="b precedes a in the order, but uses its output"):
        Sequential(problem, (1, 0))


def test_large_models() -> None:
    operators = tuple(Operator(str(index), Duration(0, 1 + index % 5), Duration(0, 2), 10) for index in range(64))
    graph = OperatorGraph(operators, tuple((index, index + 1) for index in range(63)))
    planner = Sequential(Problem(graph, Cluster(32, 1e9, 1e6), 128), range(64))
    rhythm = Rhythm(32)
    limits = planner.limits(rhythm)
    assert planner.parts(rhythm, limits[-1]) == (Part(graph.everything, 1, rhythm),)
    assert planner.states == 64
    work = sum(3 + index % 5 for index in range(64)) / 32
    feasible = [limit for limit in limits if work <= limit <= 1.5 * work and planner.parts(rhythm, limit)]
    assert feasible
    parts = planner.parts(rhythm, feasible[0])
    assert parts is not None
    assert assemble(planner.problem, parts, chain=True).bottleneck == feasible[0]
