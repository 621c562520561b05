"""Piper's planner of sequential pipelines: a search over all downsets of a model."""

from __future__ import annotations

from collections.abc import Iterator

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.sequential import ChainPlanner

DOWNSETS, STAGES = 20_000, 250_000


class Piper(ChainPlanner):
    """Piper's dynamic programme: a stage is the difference of any two nested downsets, a convex set of operators.

    It finds the best chain over all topological orders, but the number of downsets is exponential in the number of
    branches.

    Args:
        problem: the problem.
        limit_downsets: the most downsets to search.
        limit_stages: the most pairs of nested downsets to search.

    Raises:
        GraphError: the model has more downsets, or more pairs of them.
    """

    def __init__(self, problem: Problem, limit_downsets: int = DOWNSETS, limit_stages: int = STAGES) -> None:
        graph = problem.graph
        downsets = sorted(_downsets(graph, limit_downsets), key=int.bit_count)
        if len(downsets) > limit_downsets:
            raise GraphError(
                f"{graph.name} has more than {limit_downsets:,} downsets (counted up to {len(downsets):,}), too many "
                "for Piper's planner; use the sequential planner, or merge operators"
            )
        number = {each: index for index, each in enumerate(downsets)}
        pairs: list[tuple[int, int]] = []
        for index, inner in enumerate(downsets):
            for outer in _supersets(graph, inner):
                pairs.append((index, number[outer]))
                if len(pairs) > limit_stages:
                    raise GraphError(
                        f"{graph.name} has more than {limit_stages:,} candidate stages between its {len(downsets):,} "
                        "downsets, too many for Piper's planner; use the sequential planner, or merge operators"
                    )
        super().__init__(problem, downsets, pairs)


def count_downsets(graph: OperatorGraph, at_most: int) -> int:
    """Return the number of downsets of the operators that need a device, or `at_most` + 1 if there are more.

    Args:
        graph: the model.
        at_most: where to stop, at least 1.
    """
    return len(_downsets(graph, at_most))


def _downsets(graph: OperatorGraph, at_most: int) -> list[int]:
    """Return all downsets; if there are more than `at_most`, that many and one more."""
    result = [0]
    for outer in _supersets(graph, 0):
        if len(result) > at_most:
            break
        result.append(outer)
    return result


def _supersets(graph: OperatorGraph, inner: int) -> Iterator[int]:
    """Yield the downsets that hold a downset and more, each once, in the order of their sizes."""
    layer = {inner}
    while layer:
        layer = {
            each | 1 << operator
            for each in layer
            for operator in members(graph.placed & ~each)
            if not graph.predecessors[operator] & ~each
        }
        yield from layer
