"""The stage graph: refused graphs, and the order, loads and waits of valid ones."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph
from mspipe_triton.pipeline.schedules import SCHEDULES, schedule_graph, stage_names
from tests.pipeline.brute_force import largest_ratio

TIMES = {"sample": 2, "features": 3, "memory": 2, "patch": 1, "train": 6, "update": 3}
A, B, C = Stage("a", "r", 2), Stage("b", "r", 3), Stage("c", "q", 4)


def graph_of(schedule: str, staleness: int = 0) -> StageGraph:
    return schedule_graph(schedule, {name: TIMES[name] for name in stage_names(schedule)}, staleness)


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": (((),), "at least one stage"),
    "twice": (((A, A),), "stage 'a' is given twice"),
    "zero": (((Stage("a", "r", 0),),), "stage 'a' takes 0"),
    "negative": (((Stage("a", "r", -1.5),),), "stage 'a' takes -1.5"),
    "nan": (((Stage("a", "r", float("nan")),),), "stage 'a' takes nan"),
    "inf": (((Stage("a", "r", float("inf")),),), "stage 'a' takes inf"),
    "bytes": (((Stage("a", "r", 1, -4),),), "stage 'a' holds -4 bytes"),
    "resource": (((A,), (), ("q", "p")), "stage 'a' is on resource 'r', not one of p, q"),
    "before": (((A,), (Dependency("x", "a"),)), "names stage 'x', not one of a"),
    "after": (((A,), (Dependency("a", "y"),)), "names stage 'y', not one of a"),
    "itself": (((A,), (Dependency("a", "a"),)), "stage 'a' waits for itself"),
    "later": (((A,), (Dependency("a", "a", -1),)), "stage 'a' waits for itself"),
    "order": (((A, B), (Dependency("b", "a"),)), "waits for itself"),
    "cycle": (((A, C), (Dependency("a", "c", 2), Dependency("c", "a", -2))), "waits for itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_cannot_run_is_refused_in_one_line(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(GraphError) as error:
        StageGraph(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


REFUSED_SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"schedule": "fast"}, "schedule 'fast' is not one of serial, prefetch, mspipe, fixed, exact"),
    "missing": ({"times": {"sample": 1, "memory": 1, "update": 1}}, "needs a time for features, train"),
    "stranger": ({"times": {**TIMES}}, "has no stage 'patch'; it has sample, features, memory, train, update"),
    "staleness": ({"staleness": -2}, "staleness must be at least 0, not -2"),
}


@pytest.mark.parametrize("name", REFUSED_SCHEDULES)
def test_an_impossible_schedule_is_refused(name: str) -> None:
    changes, message = REFUSED_SCHEDULES[name]
    times = {stage: TIMES[stage] for stage in stage_names("mspipe")}
    with pytest.raises(GraphError, match=message):
        schedule_graph(**{"schedule": "mspipe", "times": times, **changes})


def test_order_loads_and_waits() -> None:
    across = Dependency("c", "a", 2)
    graph = StageGraph((A, C, B), (Dependency("a", "c"), across))
    assert graph.by_resource == {"r": (A, B), "q": (C,)}
    assert set(graph.constraints) == {
        Dependency("a", "c"), across, Dependency("a", "b"), Dependency("b", "a", 1), Dependency("c", "c", 1),
    }  # fmt: skip
    assert graph.waits == {"a": (across,), "b": (), "c": (Dependency("a", "c"),)}
    assert graph.loads() == {"r": 5, "q": 4}
    assert graph.lower_bound() == 5


def test_times_are_exact_and_can_be_replaced() -> None:
    graph = StageGraph((Stage("a", "r", 0.1, 7), Stage("b", "r", Fraction(1, 3))), resources=("r", "unused"))
    assert graph.times == {"a": Fraction(0.1), "b": Fraction(1, 3)}
    other = graph.with_times({"b": 2})
    assert other.times == {"a": Fraction(0.1), "b": 2}
    assert (other.stages[0].size, other.resources) == (7, ("r", "unused"))
    with pytest.raises(GraphError, match="takes 0"):
        graph.with_times({"a": 0})


def test_schedules_differ_in_the_waits_of_the_fetch() -> None:
    for schedule in SCHEDULES:
        assert tuple(stage.name for stage in graph_of(schedule).stages) == stage_names(schedule)
    assert Dependency("update", "sample", 1) in graph_of("serial").dependencies
    assert graph_of("prefetch", 5).waits["memory"] == graph_of("prefetch").waits["memory"]
    for schedule in ("mspipe", "exact", "fixed"):
        assert Dependency("update", "memory", 3) in graph_of(schedule, 2).dependencies
    assert Dependency("memory", "update", -2) in graph_of("fixed", 2).dependencies
    assert Dependency("train", "memory", 6) in graph_of("mspipe", 2).dependencies
    assert Dependency("memory", "features", 6) not in graph_of("mspipe", 2).dependencies


@st.composite
def drafts(draw: st.DrawFn) -> tuple[tuple[Stage, ...], tuple[Dependency, ...]]:
    """Draw up to five stages on up to three resources, and any dependencies, possible or not."""
    stages = tuple(
        Stage(name, draw(st.sampled_from("xyz")), draw(st.integers(1, 9)))
        for name in "abcde"[: draw(st.integers(1, 5))]
    )
    names = st.sampled_from([stage.name for stage in stages])
    return stages, tuple(draw(st.lists(st.builds(Dependency, names, names, st.integers(-2, 4)), max_size=6)))


def edges_of(stages: tuple[Stage, ...], dependencies: tuple[Dependency, ...]) -> list[tuple[str, str, int]]:
    """Edges (before, after, distance) of the dependencies and of the order on each resource."""
    edges = [(edge.before, edge.after, edge.distance) for edge in dependencies]
    for resource in {stage.resource for stage in stages}:
        turns = [stage.name for stage in stages if stage.resource == resource]
        edges += [(first, second, 0) for first, second in pairwise(turns)] + [(turns[-1], turns[0], 1)]
    return edges


@settings(max_examples=150, deadline=None)
@given(drafts())
def test_exactly_the_cycles_that_reach_no_earlier_iteration_are_refused(
    draft: tuple[tuple[Stage, ...], tuple[Dependency, ...]],
) -> None:
    possible = largest_ratio(edges_of(*draft), {stage.name: Fraction(stage.time) for stage in draft[0]}) is not None
    try:
        StageGraph(*draft)
    except GraphError:
        assert not possible
    else:
        assert possible
