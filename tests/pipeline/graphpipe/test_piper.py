"""Piper's planner: equality with an enumeration of all chains, and where it stops."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.piper import Piper, count_downsets
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders
from tests.pipeline.graphpipe.stage_oracle import ordered_partitions, problems, real
from tests.pipeline.graphpipe.test_sequential import RHYTHMS, check_optimum, optimum


def branches(number: int, length: int, join: bool = False) -> OperatorGraph:
    """Chains beside each other, which a costless operator may join."""
    names = [[f"{branch}.{index}" for index in range(length)] for branch in range(number)]
    operators = [Operator(name, Duration(1, 1)) for chain in names for name in chain]
    uses = [pair for chain in names for pair in pairwise(chain)]
    if join:
        operators.append(Operator("loss"))
        uses += [(chain[-1], "loss") for chain in names]
    return OperatorGraph.of(operators, uses, "branches")


@settings(max_examples=100, deadline=None)
@given(problems(), RHYTHMS)
def test_equals_all_chains(problem: Problem, rhythm: Rhythm) -> None:
    check_optimum(Piper(problem), rhythm, ordered_partitions(problem))


@settings(max_examples=80, deadline=None)
@given(problems(), RHYTHMS)
def test_never_worse_than_sequential(problem: Problem, rhythm: Rhythm) -> None:
    best = optimum(Piper(problem), rhythm)
    for order in linear_orders(problem.graph).values():
        other = optimum(Sequential(problem, order), rhythm)
        if other is not None:
            assert best is not None
            assert best[0] <= other[0]


@settings(max_examples=50, deadline=None)
@given(problems(chain=True), RHYTHMS)
def test_chains_have_the_sequential_plan(problem: Problem, rhythm: Rhythm) -> None:
    order = linear_orders(problem.graph)["depth first"]
    piper, sequential = Piper(problem), Sequential(problem, order)
    assert piper.limits(rhythm) == sequential.limits(rhythm)
    assert optimum(piper, rhythm) == optimum(sequential, rhythm)


def test_stages_need_not_be_connected() -> None:
    ones = tuple(Operator(str(cost), Duration(0, cost)) for cost in (1, 4, 3))
    problem = Problem(OperatorGraph(ones, ()), Cluster(2, 1e9), 8)
    parts = Piper(problem).parts(Rhythm(1), 4.0)
    assert parts is not None
    assert {each.operators for each in parts} == {0b101, 0b010}


@settings(max_examples=80, deadline=None)
@given(problems())
def test_counts_downsets(problem: Problem) -> None:
    ones = real(problem)
    edges = [edge for edge in problem.graph.edges if edge[1] in ones]
    choices = (dict(zip(ones, bits, strict=True)) for bits in product((0, 1), repeat=len(ones)))
    count = sum(all(chosen[before] >= chosen[after] for before, after in edges) for chosen in choices)
    assert count_downsets(problem.graph, 1000) == count
    assert count_downsets(problem.graph, count) == count
    assert count == 1 or count_downsets(problem.graph, count - 1) == count


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_downsets_grow_exponentially_with_branches(number: int) -> None:
    assert count_downsets(branches(number, 4, join=True), 1000) == 5**number


def test_where_it_stops() -> None:
    problem = Problem(branches(4, 4, join=True), Cluster(4, 1e9), 8)
    assert Piper(problem, 625).parts(Rhythm(4), 100.0) is not None
    with pytest.raises(
        GraphError, match=r"branches has more than 624 downsets \(counted up to 625\).* merge operators"
    ):
        Piper(problem, 624)
    stages = 15**4 - 5**4
    assert Piper(problem, limit_stages=stages).parts(Rhythm(4), 100.0) is not None
    with pytest.raises(GraphError, match=r"more than 49,999 candidate stages between its 625 downsets"):
        Piper(problem, limit_stages=stages - 1)
