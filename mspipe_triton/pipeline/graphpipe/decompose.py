"""Series-parallel decomposition of operator graphs, and rewrites of graphs that are not series-parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import lcm
from operator import or_

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members


@dataclass(frozen=True)
class Leaf:
    """A single operator.

    Args:
        operator: its index.
    """

    operator: int

    @cached_property
    def operators(self) -> int:
        """The set of this one operator."""
        return 1 << self.operator


@dataclass(frozen=True)
class Series:
    """Parts one after another: every operator of a part comes before every operator of the next part.

    Args:
        parts: at least two, in order; none is itself a `Series`.
    """

    parts: tuple[Tree, ...]

    @cached_property
    def operators(self) -> int:
        """The set of operators of all parts."""
        return sum(part.operators for part in self.parts)


@dataclass(frozen=True)
class Parallel:
    """Parts side by side: no operator of a part has to wait for an operator of another part.

    Args:
        parts: at least two, in the order of their first operators; none is itself a `Parallel`.
    """

    parts: tuple[Tree, ...]

    @cached_property
    def operators(self) -> int:
        """The set of operators of all parts."""
        return sum(part.operators for part in self.parts)


Tree = Leaf | Series | Parallel


@dataclass(frozen=True)
class Decomposition:
    """A series-parallel order of a graph's operators that keeps to all of the graph's dependencies.

    Args:
        tree: the order, over the operators of `OperatorGraph.placed`.
        added: number of pairs of operators that the tree orders and the graph does not; 0 if the graph is
            series-parallel.
    """

    tree: Tree
    added: int


@dataclass(frozen=True)
class Order:
    """The partial order of a graph's operators, and their cost. Everything has one entry per operator.

    Args:
        predecessors: operators whose outputs it uses.
        successors: operators that use its output.
        before: operators that must come before it, directly or not.
        after: operators that must come after it, directly or not.
        weights: seconds per sample of both passes, as integers in a common unit, so that sums are exact.
    """

    predecessors: Sequence[int]
    successors: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]
    weights: Sequence[int]

    @classmethod
    def of(cls, graph: OperatorGraph) -> Order:
        """Return the order of a graph."""
        after = [0] * len(graph.operators)
        for index in reversed(range(len(after))):
            for each in members(graph.successors[index]):
                after[index] |= 1 << each | after[each]
        costs = [Fraction(each.forward.per_sample) + Fraction(each.backward.per_sample) for each in graph.operators]
        unit = lcm(*(cost.denominator for cost in costs))
        weights = [int(cost * unit) for cost in costs]
        return cls(graph.predecessors, graph.successors, graph.ancestors, after, weights)

    @cached_property
    def comparable(self) -> tuple[int, ...]:
        """Of every operator, those that must come before or after it."""
        return tuple(map(or_, self.before, self.after))

    @cached_property
    def independent(self) -> tuple[int, ...]:
        """Of every operator, those that it may run beside, and itself."""
        everything = (1 << len(self.before)) - 1
        return tuple(everything & ~others for others in self.comparable)


Rewrite = Callable[[Order, int], Sequence[int]]
"""Cuts a set of operators into at least two parts, to be ordered one after another.

The set is convex. No dependency leads from a part to an earlier one.
"""


def decompose(graph: OperatorGraph, rewrite: str = "cost") -> Decomposition:
    """Decompose the order of a graph's operators into series and parallel parts.

    The order of a graph is series-parallel if and only if it has no N: operators a, b, c, d with a before c, b before c
    and d, and no other order among them (Valdes, Tarjan and Lawler, 1982). Edges that other paths imply, such as skip
    connections, do not matter. Where a set of operators is neither a series nor parallel, a rewrite adds
    synchronisation: it cuts that set, and only that one, into parts that follow one another.

    Args:
        graph: the model; its costless joins are left out.
        rewrite: one of `REWRITES`.

    Raises:
        GraphError: there is no such rewrite.
    """
    if rewrite not in REWRITES:
        raise GraphError(f"rewrite {rewrite!r} is not one of {', '.join(REWRITES)}")
    order = Order.of(graph)
    tree = _tree(order, graph.placed, REWRITES[rewrite])
    pairs = sum((order.before[index] & graph.placed).bit_count() for index in members(graph.placed))
    return Decomposition(tree, _pairs(tree) - pairs)


def critical_path(graph: OperatorGraph, weights: Sequence[float]) -> float:
    """Return the largest sum of weights along a path of a graph.

    Args:
        graph: the model.
        weights: one of at least 0 per operator, in any unit.
    """
    return max(_longest(range(len(graph.operators)), graph.predecessors, weights).values())


def _tree(order: Order, operators: int, rewrite: Rewrite) -> Tree:
    """Decompose a convex set of operators."""
    parts: list[Tree] = []
    remaining = [operators]
    while remaining:
        section = remaining.pop()
        if section.bit_count() == 1:
            parts.append(Leaf(section.bit_length() - 1))
        elif len(branches := list(_components(section, order.comparable))) > 1:
            parts.append(Parallel(tuple(_tree(order, branch, rewrite) for branch in branches)))
        elif len(steps := list(_components(section, order.independent))) > 1:
            remaining += reversed(steps)
        else:
            remaining += reversed(rewrite(order, section))
    return parts[0] if len(parts) == 1 else Series(tuple(parts))


def _components(operators: int, neighbours: Sequence[int]) -> Iterator[int]:
    """Yield the connected components of a set of operators, in the order of their first operators."""
    while operators:
        component = frontier = operators & -operators
        while frontier:
            reach = 0
            for index in members(frontier):
                reach |= neighbours[index]
            frontier = reach & operators & ~component
            component |= frontier
        yield component
        operators ^= component


def _pairs(tree: Tree) -> int:
    """Count the pairs of operators that a tree orders."""
    if isinstance(tree, Leaf):
        return 0
    pairs = sum(map(_pairs, tree.parts))
    if isinstance(tree, Series):
        sizes = [part.operators.bit_count() for part in tree.parts]
        pairs += (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
    return pairs


def _longest(
    indices: Iterable[int], neighbours: Sequence[int], weights: Sequence[float], within: int = -1
) -> dict[int, float]:
    """Return the longest path to each operator, its own weight included.

    Args:
        indices: operators; each comes after its neighbours.
        neighbours: of every operator, the set of operators that a path can come from.
        weights: of every operator.
        within: the set of operators that paths use; −1 is all.
    """
    lengths: dict[int, float] = {}
    for index in indices:
        lengths[index] = weights[index] + max((lengths[each] for each in members(neighbours[index] & within)), default=0)
    return lengths


def _strata(order: Order, operators: int) -> list[int]:
    """Cut between levels: operators with equally many others on the longest path to them (stratum synchronisation)."""
    levels: dict[float, int] = {}
    for index, level in _longest(members(operators), order.predecessors, [1] * len(order.before), operators).items():
        levels[level] = levels.get(level, 0) | 1 << index
    return [levels[level] for level in sorted(levels)]


def _cheapest(order: Order, operators: int) -> tuple[int, int]:
    """Cut in two, so that the longest path through both parts, one after the other, is as short as possible.

    Among equal cuts, the one that orders the fewest independent pairs is best, then the one with the most equal costs.
    """
    indices = list(members(operators))
    heads = _longest(indices, order.predecessors, order.weights, operators)
    tails = _longest(reversed(indices), order.successors, order.weights, operators)
    longest_heads = sorted(indices, key=heads.__getitem__, reverse=True)
    longest_tails = sorted(indices, key=tails.__getitem__, reverse=True)
    paths = {
        first: next(heads[index] for index in longest_heads if first >> index & 1)
        + next(tails[index] for index in longest_tails if not first >> index & 1)
        for first in _candidates(order, operators, heads, tails)
    }
    shortest = min(paths.values())
    surplus = {  # a cut orders a pair within the first part once up and once down, so that only pairs across remain
        index: (order.after[index] & operators).bit_count() - (order.before[index] & operators).bit_count()
        for index in indices
    }
    work = sum(order.weights[index] for index in indices)

    def rank(first: int) -> tuple[int, int, int]:
        pairs = first.bit_count() * (len(indices) - first.bit_count()) - sum(surplus[each] for each in members(first))
        return pairs, abs(work - 2 * sum(order.weights[each] for each in members(first))), first

    best = min((first for first, path in paths.items() if path == shortest), key=rank)
    return best, operators ^ best


def _candidates(order: Order, operators: int, heads: Mapping[int, float], tails: Mapping[int, float]) -> set[int]:
    """Return first parts of cuts: sets that hold all that must come before one of their operators."""
    indices = list(members(operators))
    ones = [1] * len(order.before)
    levels = _longest(indices, order.predecessors, ones, operators)
    heights = _longest(reversed(indices), order.successors, ones, operators)
    keys: tuple[Callable[[int], float], ...] = (
        lambda index: heads[index] - order.weights[index],
        lambda index: -tails[index],
        lambda index: levels[index],
        lambda index: -heights[index],
    )
    candidates = set()
    for key in keys:
        candidates.update(accumulate((1 << index for index in sorted(indices, key=key)), or_))
    for index in indices:
        one = 1 << index
        before, rest = order.before[index] & operators, operators & ~order.after[index]
        candidates |= {before, before | one, rest & ~one, rest}
    return candidates - {0, operators}


REWRITES: dict[str, Rewrite] = {"cost": _cheapest, "strata": _strata}
