"""Rewrites of operator graphs that are not series-parallel: cuts that add synchronisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import inf, lcm
from operator import or_

from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members

FINENESS = 40


@dataclass(frozen=True)
class Order:
    """The partial order of a graph's operators, and their cost. Everything has one entry per operator.

    Args:
        predecessors: operators whose outputs it uses.
        successors: operators that use its output.
        before: operators that must come before it, directly or not.
        after: operators that must come after it, directly or not.
        weights: seconds per sample of both passes, as integers in a common unit, so that sums are exact. An operator
            weighs at least a 2⁻⁴⁰th of all together; where none has a cost, all weigh the same.
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
        scale = lcm(*(cost.denominator for cost in costs)) << FINENESS
        least = int(sum(costs) * scale) >> FINENESS or 1
        weights = [max(least, int(cost * scale)) for cost in costs]
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


Cut = Callable[[Order, int], Sequence[int]]
"""Divides a convex set of operators into at least two parts, to be ordered one after another.

No dependency leads from a part to an earlier one.
"""


def _longest(indices: Iterable[int], neighbours: Sequence[int], weights: Sequence[int], within: int) -> dict[int, int]:
    """Return the longest path to each operator, its own weight included.

    Args:
        indices: operators; each comes after its neighbours.
        neighbours: of every operator, the set of operators that a path can come from.
        weights: of every operator.
        within: the set of operators that paths use.
    """
    lengths: dict[int, int] = {}
    for index in indices:
        earlier = (lengths[each] for each in members(neighbours[index] & within))
        lengths[index] = weights[index] + max(earlier, default=0)
    return lengths


def _strata(order: Order, operators: int) -> list[int]:
    """Cut between levels: operators with equally many others on the longest path to them (stratum synchronisation)."""
    levels: dict[int, int] = {}
    for index, level in _longest(members(operators), order.predecessors, [1] * len(order.before), operators).items():
        levels[level] = levels.get(level, 0) | 1 << index
    return [levels[level] for level in sorted(levels)]


def _economical(order: Order, operators: int) -> tuple[int, int]:
    """Cut in two, so that the longest path grows little, and few independent pairs become ordered.

    Growth counts relative to the length of the path, and the more, the less equal the costs of both parts are: a cut
    that splits off little leaves most to later cuts, which lengthen the path as well. Pairs count by their share of
    the pairs across the cut, and a quarter as much.
    """
    indices = list(members(operators))
    heads = _longest(indices, order.predecessors, order.weights, operators)
    tails = _longest(reversed(indices), order.successors, order.weights, operators)
    longest_heads = sorted(indices, key=heads.__getitem__, reverse=True)
    longest_tails = sorted(indices, key=tails.__getitem__, reverse=True)
    path = heads[longest_heads[0]]
    surplus = {  # a cut orders a pair within the first part once up and once down, so that only pairs across remain
        index: (order.after[index] & operators).bit_count() - (order.before[index] & operators).bit_count()
        for index in indices
    }
    work = sum(order.weights[index] for index in indices)
    growths = {
        first: next(heads[index] for index in longest_heads if first >> index & 1)
        + next(tails[index] for index in longest_tails if not first >> index & 1)
        - path
        for first in _candidates(order, operators, heads, tails)
    }
    best, least = 0, inf
    for first in sorted(growths, key=lambda first: (growths[first], first)):
        growth = growths[first] / path
        if 4 * growth >= least:
            break  # even in the middle, and without pairs
        chosen = list(members(first))
        share = sum(order.weights[index] for index in chosen) / work
        across = len(chosen) * (len(indices) - len(chosen))
        added = across - sum(surplus[index] for index in chosen)
        expense = growth / (share * (1 - share)) + added / across / 4
        if expense < least:
            best, least = first, expense
    return best, operators ^ best


def _candidates(order: Order, operators: int, heads: Mapping[int, int], tails: Mapping[int, int]) -> set[int]:
    """Return first parts of cuts: sets that hold all that must come before one of their operators."""
    indices = list(members(operators))
    ones = [1] * len(order.before)
    levels = _longest(indices, order.predecessors, ones, operators)
    heights = _longest(reversed(indices), order.successors, ones, operators)
    keys: tuple[Callable[[int], int], ...] = (
        lambda index: heads[index] - order.weights[index],
        lambda index: -tails[index],
        lambda index: levels[index],
        lambda index: -heights[index],
    )
    candidates: set[int] = set()
    for key in keys:
        candidates.update(accumulate((1 << index for index in sorted(indices, key=key)), or_))
    for index in indices:
        one = 1 << index
        before, rest = order.before[index] & operators, operators & ~order.after[index]
        candidates |= {before, before | one, rest & ~one, rest}
    return candidates - {0, operators}


REWRITES: dict[str, tuple[Cut, ...]] = {"cost": (_economical, _strata), "strata": (_strata,)}
