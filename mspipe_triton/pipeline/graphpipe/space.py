"""Space of partitions of a series-parallel model: subproblems, each with the splits that it can begin with.

Equal subproblems are one: the space of four equal branches is little larger than that of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations_with_replacement, product
from math import comb, prod
from operator import or_
from typing import NamedTuple

from mspipe_triton.pipeline.graphpipe.decompose import Leaf, Parallel, Series, Tree, restricted
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members

MOST_CUTS = 200  # ways to cut parallel branches that a subproblem tries; with more, only some kinds of cuts


class Child(NamedTuple):
    """A smaller subproblem: its number, and the operators that take the places of that subproblem's own."""

    node: int
    operators: tuple[int, ...]


class Last(NamedTuple):
    """The last stage is `stage`; `front` comes before it, if anything does."""

    stage: int
    front: Child | None


class Beside(NamedTuple):
    """Some of parallel branches, and beside them the rest."""

    some: Child
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


class _Cut(NamedTuple):
    """Parallel branches cut into beginnings and ends, and whether every branch has one."""

    heads: int
    tails: int
    all_begin: bool
    all_end: bool


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
    5. Fork: the first stage holds the beginnings of some parallel branches that nothing follows, and all before them.
    6. Ends: the last stage holds the ends of all branches.
    7. Beginnings: the first stage holds the beginnings of all branches.

    Branches are cut between the parts of their series. If parallel branches can be cut in more than `MOST_CUTS` ways,
    only those are considered that cut branches of one kind, all at one place.

    Args:
        graph: the model.
        tree: its decomposition.
    """

    def __init__(self, graph: OperatorGraph, tree: Tree) -> None:
        self.graph, self.tree = graph, tree
        self.nodes: list[Node] = []
        self._children: dict[int, Child] = {}
        self._numbers: dict[object, int] = {}
        self._signatures: dict[int, tuple[object, tuple[int, ...]]] = {}
        costs: dict[object, int] = {}
        self._cost = [
            costs.setdefault((each.forward, each.backward, each.parameters, each.activations, each.output), len(costs))
            for each in graph.operators
        ]
        self.root = self.child(tree.operators)

    def child(self, operators: int) -> Child:
        """Return the subproblem of a set of operators; a node is added with all that it needs, unless one is equal."""
        child = self._children.get(operators)
        if child is None:
            tree = restricted(self.tree, operators)
            signature, order = self._signature(tree)
            number = self._numbers.get(signature)
            if number is None:
                node = Node(order, [Last(operators, None)])
                if isinstance(tree, Series):
                    node.splits += self._series(tree.parts)
                elif isinstance(tree, Parallel):
                    node.splits += self._parallel(tree.parts)
                number = self._numbers[signature] = len(self.nodes)
                self.nodes.append(node)
            child = self._children[operators] = Child(number, order)
        return child

    def _series(self, parts: Sequence[Tree]) -> Iterator[Split]:
        until = [0, *accumulate((part.operators for part in parts), or_)]
        everything = until[-1]
        for place in range(1, len(parts)):
            yield Last(everything ^ until[place], self.child(until[place]))
        for place, part in enumerate(parts[:-1]):
            if isinstance(part, Parallel):
                for cut in self._cuts(part.parts):
                    front = until[place] | cut.heads
                    yield Last(everything ^ front, self.child(front))
        if isinstance(parts[-1], Parallel):
            yield Then(self.child(until[-2]), self.child(parts[-1].operators))
            for cut in self._cuts(parts[-1].parts):
                for start in until[:-2]:
                    fork = First(until[-2] ^ start | cut.heads, self.child(cut.tails))
                    yield Then(self.child(start), self._node(fork)) if start else fork

    def _node(self, split: First) -> Child:
        """Add a subproblem that can only begin with one split."""
        operators = (*members(split.stage), *split.back.operators)
        self.nodes.append(Node(operators, [split]))
        return Child(len(self.nodes) - 1, operators)

    def _parallel(self, parts: Sequence[Tree]) -> Iterator[Split]:
        for some, rest in self._subsets(parts[0], parts[1:]):
            yield Beside(self.child(some), self.child(rest))
        for cut in self._cuts(parts):
            if cut.all_end:
                yield Last(cut.tails, self.child(cut.heads))
            if cut.all_begin:
                yield First(cut.heads, self.child(cut.tails))

    def _subsets(self, first: Tree, others: Sequence[Tree]) -> Iterator[tuple[int, int]]:
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
        everything = _union((first, *others))
        for each in counts:
            some = first.operators
            for kind, number in zip(kinds, each, strict=True):
                some |= _union(kind[:number])
            if some != everything:
                yield some, everything ^ some

    def _cuts(self, branches: Sequence[Tree]) -> Iterator[_Cut]:
        """Yield ways to cut parallel branches into beginnings and ends, of which neither is empty."""
        kinds = self._kinds(branches)
        until = [[_beginnings(branch) for branch in kind] for kind in kinds]
        lengths = [len(kind[0]) - 1 for kind in until]
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
        everything = _union(branches)
        for each in places:
            heads, all_begin, all_end = 0, True, True
            for kind, length, cuts in zip(until, lengths, each, strict=True):
                for beginnings, cut in zip(kind, cuts, strict=True):
                    heads |= beginnings[cut]
                    all_begin, all_end = all_begin and cut > 0, all_end and cut < length
            if heads not in (0, everything):
                yield _Cut(heads, everything ^ heads, all_begin, all_end)

    def _kinds(self, branches: Sequence[Tree]) -> list[list[Tree]]:
        """Group branches that can be exchanged for one another: equal ones with the same neighbours outside."""
        kinds: dict[object, list[Tree]] = {}
        for branch in branches:
            signature, order = self._signature(branch)
            neighbours = []
            for index in order:
                both = (self.graph.predecessors[index], self.graph.successors[index])
                neighbours.append(tuple(each & ~branch.operators for each in both))
            kinds.setdefault((signature, tuple(neighbours)), []).append(branch)
        return list(kinds.values())

    def _signature(self, tree: Tree) -> tuple[object, tuple[int, ...]]:
        """Describe a tree, so that trees with equal descriptions have equal partitions of equal cost.

        The description holds its shape, the cost of every operator, and where its inputs come from: the position of an
        operator inside, or the number and output of one outside.

        Returns:
            The description, and the operators of the tree in the order of their positions.
        """
        signature = self._signatures.get(tree.operators)
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
            signature = self._signatures[tree.operators] = (shape, tuple(entries)), order
        return signature

    def _shape(self, tree: Tree) -> tuple[object, tuple[int, ...]]:
        """Return the shape of a tree, and its operators in an order that equal trees share."""
        if isinstance(tree, Leaf):
            return 0, (tree.operator,)
        parts = list(tree.parts)
        if isinstance(tree, Parallel):
            parts.sort(key=lambda part: repr(self._signature(part)[0]))
        shapes, orders = zip(*map(self._shape, parts), strict=True)
        return (type(tree).__name__, *shapes), tuple(index for order in orders for index in order)


def _beginnings(branch: Tree) -> list[int]:
    """Return the sets of operators before each place where a branch can be cut, from none to all."""
    parts = branch.parts if isinstance(branch, Series) else (branch,)
    return [0, *accumulate((part.operators for part in parts), or_)]


def _few_cuts(sizes: Sequence[int], lengths: Sequence[int]) -> Iterator[list[list[int]]]:
    """Yield places of cuts, by kind of branches: some branches of one kind are cut at one place, and all others whole.

    Of that kind some branches can be in the end, and some in the beginning; all other kinds are in one of them. If
    these are still too many, one, two or all of the branches that are in neither are cut.
    """
    for kind, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        thin = size * (size + 1) * (length - 1) > 2 * MOST_CUTS
        for ends in range(size + 1):
            numbers = {0, *((1, 2, size - ends) if thin else range(1, size - ends + 1))}
            for many in sorted(number for number in numbers if number <= size - ends):
                for place in range(1, length) if many else (0,):
                    places = [0] * ends + [place] * many + [length] * (size - ends - many)
                    for side in (0, 1)[: len(sizes)]:
                        yield [
                            places if other == kind else [side * lengths[other]] * sizes[other]
                            for other in range(len(sizes))
                        ]


def _union(parts: Iterable[Tree]) -> int:
    union = 0
    for part in parts:
        union |= part.operators
    return union
