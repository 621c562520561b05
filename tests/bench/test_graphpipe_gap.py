"""The study of the gap between planners and all valid plans, on a few small models."""

from __future__ import annotations

from math import inf

import pytest

from bench.studies.graphpipe_gap import KINDS, compare, measure, summary
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm


@pytest.mark.parametrize("kind", KINDS)
def test_no_family_is_below_the_optimum(kind: str) -> None:
    families = measure(kind, 5, 4, 3)["families"]
    assert all(each["mean_ratio"] >= 1 - 1e-9 for each in families.values())
    either = families["splits or chains"]
    assert either["at_optimum"] >= max(families["splits"]["at_optimum"], families["chains"]["at_optimum"])


def test_chains_that_memory_forbids() -> None:
    """A device holds one operator, and the activations of one micro-batch."""
    operator = Operator("a", Duration(0, 1), Duration(0, 2), parameters=4, activations=4)
    graph = OperatorGraph((operator, Operator("b", Duration(0, 1), Duration(0, 2), 4, 4)), ())
    problem = Problem(graph, Cluster(2, memory=8), batch=2, copies=1)
    assert compare(problem, Rhythm(1)) == {
        "splits": 1, "chains": inf, "splits or chains": 1, "splits or freed chains": 1,
    }  # fmt: skip


def test_problems_without_a_plan_are_skipped() -> None:
    graph = OperatorGraph((Operator("a", Duration(1), parameters=2),), ())
    assert compare(Problem(graph, Cluster(1, memory=1), batch=1), Rhythm(1)) is None


def test_summary() -> None:
    expected = {"at_optimum": 0.5, "no_plan": 0.25, "mean_ratio": pytest.approx(4 / 3), "largest_ratio": 2}
    assert summary([1, 1, 2, inf]) == expected
