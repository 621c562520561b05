"""Sequential pipelines: the search over chains of stages, and PipeDream's planner on a linearised model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part
from mspipe_triton.pipeline.graphpipe.planner import NONE, Counts, StageTable
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm


class ChainPlanner:
    """A planner of chains: of nested downsets, each stage is the difference between two that follow one another.

    A downset is a set of operators that contains all ancestors of its operators. With F(A, l) the fewest devices for
    all operators outside A in exactly l stages,

        F(A, l) = min over B ⊃ A of fewest(B − A, l) + F(B, l − 1).

    A level of F is one operation on arrays.

    Args:
        problem: the problem.
        downsets: those that stages may start and end at, from the empty one to `problem.graph.placed`.
        pairs: indices into `downsets` of every stage's inner and outer one, in the order of the inner ones.
    """

    chain = True

    def __init__(self, problem: Problem, downsets: Sequence[int], pairs: Iterable[tuple[int, int]]) -> None:
        self.problem = problem
        self.states = 0
        numbers: dict[int, int] = {}
        inner, outer, stage = [], [], []
        for start, end in pairs:
            inner.append(start)
            outer.append(end)
            stage.append(numbers.setdefault(downsets[end] ^ downsets[start], len(numbers)))
        self._stages = tuple(numbers)
        self._outer, self._stage = np.array(outer), np.array(stage)
        self._starts = np.searchsorted(inner, np.arange(len(downsets)))
        self._table = StageTable(problem, min(problem.cluster.devices, problem.graph.placed.bit_count()))
        self._rows = np.array([self._table.row(each) for each in self._stages])

    def limits(self, rhythm: Rhythm) -> Sequence[float]:
        """Return the times per sample that stages of the family have, ascending, without repetition."""
        return self._table.limits(rhythm)

    def parts(self, rhythm: Rhythm, limit: float) -> tuple[Part, ...] | None:
        """Return the chain of the fewest stages that need at most `limit` seconds per sample, or None.

        It fits into the devices and their memory. Among equals it needs the fewest devices.
        """
        devices = self.problem.cluster.devices
        fewest = self._table.fewest(rhythm, limit)[self._rows]
        rest = np.full(len(self._starts), NONE, np.int32)
        rest[-1] = 0
        levels: list[tuple[Counts, Counts]] = []
        for needs in fewest.T:
            levels.append((needs, rest))
            rest = np.full(len(self._starts), NONE, np.int32)
            sums = needs[self._stage] + levels[-1][1][self._outer]
            rest[:-1] = np.minimum(np.minimum.reduceat(sums, self._starts[:-1]), NONE)
            self.states += len(rest) - 1
            if rest[0] <= devices:
                return self._trace(rhythm, levels)
            if rest.min() >= devices:
                break
        return None

    def _trace(self, rhythm: Rhythm, levels: list[tuple[Counts, Counts]]) -> tuple[Part, ...]:
        """Return the stages of the best chain, from every level's needs of stages and of what follows them."""
        parts, inner = [], 0
        for needs, rest in reversed(levels):
            span = slice(self._starts[inner], self._starts[inner + 1])
            best = int(self._starts[inner] + np.argmin(needs[self._stage[span]] + rest[self._outer[span]]))
            number, inner = int(self._stage[best]), int(self._outer[best])
            parts.append(Part(self._stages[number], int(needs[number]), rhythm))
        return tuple(parts)


class Sequential(ChainPlanner):
    """PipeDream's dynamic programme: stages are intervals of one topological order.

    Args:
        problem: the problem.
        order: indices of the operators of `problem.graph.placed`, in a topological order.

    Raises:
        GraphError: the order leaves an operator out, repeats one, or is not topological.
    """

    def __init__(self, problem: Problem, order: Sequence[int]) -> None:
        graph = problem.graph
        if sorted(order) != list(members(graph.placed)):
            raise GraphError(f"the order {tuple(order)} does not hold each operator of {graph.name} exactly once")
        prefixes = list(accumulate((1 << each for each in order), int.__or__, initial=0))
        for before, each in zip(prefixes, order, strict=False):
            if graph.ancestors[each] & ~before:
                late = graph.names(graph.ancestors[each] & ~before)[0]
                raise GraphError(f"{graph.operators[each].name} precedes {late} in the order, but uses its output")
        size = len(prefixes)
        super().__init__(problem, prefixes, ((start, end) for start in range(size) for end in range(start + 1, size)))


def linear_orders(graph: OperatorGraph) -> dict[str, tuple[int, ...]]:
    """Return topological orders of the operators that need a device, by name.

    "depth first" ends a branch before it starts the next; "breadth first" goes level by level, where an operator's
    level is the number of operators on the longest path to it.
    """
    levels: dict[int, int] = {}
    for each in members(graph.placed):
        levels[each] = 1 + max((levels[before] for before in members(graph.predecessors[each])), default=0)
    deep: list[int] = []
    ready = [each for each in reversed(list(levels)) if levels[each] == 1]
    waiting = {each: graph.predecessors[each].bit_count() for each in levels}
    while ready:
        deep.append(ready.pop())
        following = []
        for after in members(graph.successors[deep[-1]] & graph.placed):
            waiting[after] -= 1
            if not waiting[after]:
                following.append(after)
        ready += reversed(following)
    return {"depth first": tuple(deep), "breadth first": tuple(sorted(levels, key=levels.__getitem__))}
