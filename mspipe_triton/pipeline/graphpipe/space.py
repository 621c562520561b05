"""Space of partitions of a series-parallel model: subproblems, each with the splits that it can begin with.

Equal subproblems are one: the space of four equal branches is little larger than that of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, product
from math import comb, prod
from typing import NamedTuple

from mspipe_triton.pipeline.graphpipe.decompose import Leaf, Parallel, Series, Tree
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members

MOST_CUTS = 600  # ways to cut parallel branches that a subproblem tries; beyond, only some kinds of cuts


class Child(NamedTuple):
    """A smaller subproblem: its number, and the operators that take the places of that subproblem's own."""

    node: int
    operators: tuple[int, ...]


class Last(NamedTuple):
    """The last stage is `stage`; `front` comes before it, if anything does."""

    stage: int
    front: Child | None


class Beside(NamedTuple):
    """A part of parallel branches, as one stage or as a subproblem, beside the `rest` of them."""

    stage: int | None
    unit: Child | None
    rest: Child


class Then(NamedTuple):
    """All stages of `back` follow all of `front`."""

    front: Child
    back: Child


class First(NamedTuple):
    """The first stage is `stage`; `back` follows it."""

    stage: int
    back: Child


Split = Last | Beside | Then | First


@dataclass
class Node:
    """A subproblem.

    Args:
        operators: its operators, in the order of its tree.
        splits: what its partitions can begin with; every other node in them has a lower number.
    """

    operators: tuple[int, ...]
    splits: list[Split] = field(default_factory=list)


class Space:
    """All subproblems of a tree; the last one is the whole model.

    The splits of a model, and of every part that they leave:

    1. One stage holds everything.
    2. Series: the stages of one part follow those of the other.
    3. Parallel: two sets of branches share no stage.
    4. Join: the last stage holds the ends of some parallel branches, and all that follows the branches.
    5. Fork: the first stage holds all that comes before some parallel branches, and their beginnings.

    Branches are cut between the parts of their series. If parallel branches can be cut in more than `MOST_CUTS` ways,
    only those are considered that cut branches of one kind, all at one place.

    Args:
        graph: the model.
        tree: its decomposition.
    """

    def __init__(self, graph: OperatorGraph, tree: Tree) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self._numbers: dict[object, int] = {}
        self._signatures: dict[Tree, object] = {}
        self._orders: dict[Tree, tuple[int, ...]] = {}
        costs: dict[object, int] = {}
        self._cost = [
            costs.setdefault((each.forward, each.backward, each.parameters, each.activations, each.output), len(costs))
            for each in graph.operators
        ]
        self.root = self.child(tree)

    def child(self, tree: Tree) -> Child:
        """Return the subproblem of a tree; its node is added with all that it needs, unless an equal one exists."""
        signature = self._signature(tree)
        number = self._numbers.get(signature)
        if number is None:
            node = Node(self._orders[tree])
            node.splits.append(Last(tree.operators, None))
            if isinstance(tree, Series):
                node.splits += self._series(tree.parts)
            elif isinstance(tree, Parallel):
                node.splits += self._parallel(tree.parts)
            number = self._numbers[signature] = len(self.nodes)
            self.nodes.append(node)
        return Child(number, self._orders[tree])

    def _series(self, parts: Sequence[Tree]) -> Iterator[Split]:
        for cut in range(1, len(parts)):
            yield Last(_union(parts[cut:]), self.child(in_series(parts[:cut])))
        for place, part in enumerate(parts[:-1]):
            if isinstance(part, Parallel):
                after = _union(parts[place + 1 :])
                for heads, tails in self._cuts(part.parts):
                    front = in_series((*parts[:place], in_parallel(heads)))
                    yield Last(after | _union(tails), self.child(front))
        last = parts[-1]
        if isinstance(last, Parallel):
            yield Then(self.child(in_series(parts[:-1])), self.child(last))
            for start in range(len(parts) - 1):
                before = _union(parts[start:-1])
                for heads, tails in self._cuts(last.parts):
                    fork = First(before | _union(heads), self.child(in_parallel(tails)))
                    yield Then(self.child(in_series(parts[:start])), self._node(fork)) if start else fork

    def _node(self, split: First) -> Child:
        """Add a subproblem that can only begin with one split."""
        operators = (*members(split.stage), *split.back.operators)
        self.nodes.append(Node(operators, [split]))
        return Child(len(self.nodes) - 1, operators)

    def _parallel(self, parts: Sequence[Tree]) -> Iterator[Split]:
        """Split the branches into a set that holds the first one, and the rest."""
        for chosen, others in self._subsets(parts[0], parts[1:]):
            rest = self.child(in_parallel(others))
            if len(chosen) > 1:
                yield Beside(_union(chosen), None, rest)
            else:
                yield Beside(None, self.child(chosen[0]), rest)

    def _subsets(self, first: Tree, others: Sequence[Tree]) -> Iterator[tuple[list[Tree], list[Tree]]]:
        """Yield `first` with some of the others, and those that are left; equal branches stand for one another."""
        kinds = self._kinds(others)
        counts: Iterable[Sequence[int]]
        if prod(len(kind) + 1 for kind in kinds) <= MOST_CUTS:
            counts = product(*(range(len(kind) + 1) for kind in kinds))
        else:  # none, or some of one kind
            counts = [[0] * len(kinds)]
            counts += [
                [number if other is kind else 0 for other in kinds]
                for kind in kinds
                for number in range(1, len(kind) + 1)
            ]
        for each in counts:
            left = [branch for kind, number in zip(kinds, each, strict=True) for branch in kind[number:]]
            if left:
                yield [first, *(b for kind, number in zip(kinds, each, strict=True) for b in kind[:number])], left

    def _cuts(self, branches: Sequence[Tree]) -> Iterator[tuple[list[Tree], list[Tree]]]:
        """Yield ways to cut parallel branches into beginnings and ends, of which neither is empty."""
        kinds = self._kinds(branches)
        lengths = [len(kind[0].parts) if isinstance(kind[0], Series) else 1 for kind in kinds]
        places: Iterable[Sequence[Sequence[int]]]
        if prod(comb(len(kind) + length, length) for kind, length in zip(kinds, lengths, strict=True)) <= MOST_CUTS:
            places = product(
                *(
                    combinations_with_replacement(range(length + 1), len(kind))
                    for kind, length in zip(kinds, lengths, strict=True)
                )
            )
        else:
            places = _few_cuts([len(kind) for kind in kinds], lengths)
        for each in places:
            heads: list[Tree] = []
            tails: list[Tree] = []
            for kind, cuts in zip(kinds, each, strict=True):
                for branch, cut in zip(kind, cuts, strict=True):
                    sections = branch.parts if isinstance(branch, Series) else (branch,)
                    heads += [in_series(sections[:cut])] if cut else []
                    tails += [in_series(sections[cut:])] if cut < len(sections) else []
            if tails and heads:
                yield heads, tails

    def _kinds(self, branches: Sequence[Tree]) -> list[list[Tree]]:
        """Group branches that can be exchanged for one another: equal ones with the same neighbours outside."""
        kinds: dict[object, list[Tree]] = {}
        for branch in branches:
            signature, outside = self._signature(branch), []
            for index in self._orders[branch]:
                neighbours = (self.graph.predecessors[index], self.graph.successors[index])
                outside.append(tuple(each & ~branch.operators for each in neighbours))
            kinds.setdefault((signature, tuple(outside)), []).append(branch)
        return list(kinds.values())

    def _signature(self, tree: Tree) -> object:
        """Describe a tree, so that trees with equal descriptions have equal partitions of equal cost.

        The description holds its shape, the cost of every operator, and where its inputs come from: the position of an
        operator inside, or the number and output of one outside.
        """
        signature = self._signatures.get(tree)
        if signature is None:
            shape, order = self._shape(tree)
            position = {index: place for place, index in enumerate(order)}
            outside: dict[int, int] = {}
            entries = []
            for index in order:
                inputs = []
                for each in members(self.graph.predecessors[index]):
                    if each in position:
                        inputs.append((position[each], 0))
                    else:
                        number = outside.setdefault(each, len(outside))
                        inputs.append((-1 - number, self.graph.operators[each].output))
                entries.append((self._cost[index], *sorted(inputs)))
            signature = self._signatures[tree] = (shape, tuple(entries))
            self._orders[tree] = order
        return signature

    def _shape(self, tree: Tree) -> tuple[object, tuple[int, ...]]:
        """Return the shape of a tree, and its operators in an order that equal trees share."""
        if isinstance(tree, Leaf):
            return 0, (tree.operator,)
        parts = list(tree.parts)
        if isinstance(tree, Parallel):
            parts.sort(key=lambda part: repr(self._signature(part)))
        shapes, orders = zip(*map(self._shape, parts), strict=True)
        return (type(tree).__name__, *shapes), tuple(index for order in orders for index in order)


def in_series(parts: Sequence[Tree]) -> Tree:
    """Return the tree of parts in series, flat."""
    flat = [each for part in parts for each in (part.parts if isinstance(part, Series) else (part,))]
    return flat[0] if len(flat) == 1 else Series(tuple(flat))


def in_parallel(parts: Sequence[Tree]) -> Tree:
    """Return the tree of parallel parts, flat."""
    flat = [each for part in parts for each in (part.parts if isinstance(part, Parallel) else (part,))]
    return flat[0] if len(flat) == 1 else Parallel(tuple(flat))


def _few_cuts(sizes: Sequence[int], lengths: Sequence[int]) -> Iterator[list[list[int]]]:
    """Yield places of cuts, by kind of branches: some branches of one kind are cut at one place, and all others whole.

    Of that kind some branches can be in the end, and some in the beginning; all other kinds are in one of them.
    """
    for kind, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        for ends in range(size + 1):
            for many in range(size - ends + 1):
                for place in range(1, length) if many else (0,):
                    own = [0] * ends + [place] * many + [length] * (size - ends - many)
                    for side in (0, 1):
                        yield [
                            own if other == kind else [side * lengths[other]] * sizes[other]
                            for other in range(len(sizes))
                        ]


def _union(parts: Iterable[Tree]) -> int:
    union = 0
    for part in parts:
        union |= part.operators
    return union
