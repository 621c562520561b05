"""Operator graphs: their order, sets and joins, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mspipe_triton.pipeline.graphpipe as package
from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members


def operators(names: str) -> list[Operator]:
    return [Operator(name, Duration(0, 1)) for name in names]


def test_order_is_topological_and_otherwise_as_listed() -> None:
    graph = OperatorGraph.of(operators("dabc"), [("a", "b"), ("b", "c"), ("c", "d")])
    assert [each.name for each in graph.operators] == list("abcd")
    assert graph.edges == ((0, 1), (1, 2), (2, 3))
    loose = OperatorGraph.of(operators("cab"), [("a", "b")])
    assert [each.name for each in loose.operators] == list("cab")


def test_sets_of_neighbours() -> None:
    graph = OperatorGraph.of(operators("abcd"), [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("a", "d")])
    assert [list(members(each)) for each in graph.predecessors] == [[], [0], [0], [0, 1, 2]]
    assert [list(members(each)) for each in graph.successors] == [[1, 2, 3], [3], [3], []]
    assert [list(members(each)) for each in graph.ancestors] == [[], [0], [0], [0, 1, 2]]
    assert graph.names(0b1010) == ("b", "d")
    assert (graph.summary(0b11), graph.summary(0b1111)) == ("a, b", "a … d (4)")


def test_only_costless_ends_with_inputs_are_joins() -> None:
    costless = [Operator("loss"), Operator("start"), Operator("alone"), Operator("between")]
    graph = OperatorGraph.of(
        [*operators("ab"), *costless], [("a", "loss"), ("start", "b"), ("a", "between"), ("between", "b")]
    )
    assert [graph.operators[each].name for each in graph.joins] == ["loss"]
    assert "loss" not in graph.names(graph.placed)
    assert len(list(members(graph.placed))) == 5
    assert not Operator("kept", activations=1).costless


@pytest.mark.parametrize(
    ("names", "uses", "words"),
    [
        ("", [], "has no operators"),
        ("aba", [], "operator 'a' occurs twice"),
        ("ab", [("a", "c")], "names operator 'c', which model does not have"),
        ("abc", [("a", "b"), ("b", "c"), ("c", "a")], "use one another in a cycle: "),
        ("a", [("a", "a")], "use one another in a cycle: a → a"),
    ],
)
def test_graphs_that_are_refused(names: str, uses: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(GraphError, match=words) as error:
        OperatorGraph.of(operators(names), uses)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cost",
    [{"forward": Duration(-1)}, {"backward": Duration(0, float("nan"))}, {"parameters": -1}, {"output": float("inf")}],
)
def test_costs_that_are_refused(cost: dict) -> None:
    with pytest.raises(GraphError, match=r"operator 'a' has a cost of .*; costs are numbers of at least 0"):
        OperatorGraph((Operator("a", **cost),), ())


def test_edges_go_forward() -> None:
    with pytest.raises(GraphError, match="edge 1 → 0 does not go forward among 2 operators"):
        OperatorGraph(tuple(operators("ab")), ((1, 0),))


def test_only_capture_imports_torch() -> None:
    folder = Path(package.__path__[0])
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    modules = ", ".join(f"{package.__name__}.{name}" for name in sorted(names))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
