"""Series-parallel decomposition of operator graphs; graphs that are not series-parallel are rewritten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.rewrites import REWRITES as REWRITES
from mspipe_triton.pipeline.graphpipe.rewrites import Cut, Order


@dataclass(frozen=True)
class Leaf:
    """A single operator.

    Args:
        operator: its index.
    """

    operator: int

    @property
    def operators(self) -> int:
        """The set of this one operator."""
        return 1 << self.operator


@dataclass(frozen=True)
class _Parts:
    """A set of operators in disjoint parts."""

    parts: tuple[Tree, ...]
    operators: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", sum(part.operators for part in self.parts))


@dataclass(frozen=True)
class Series(_Parts):
    """Parts one after another: every operator of a part comes before every operator of the next part.

    Args:
        parts: at least two, in order; none is itself a `Series`.

    Attributes:
        operators: the set of operators of all parts.
    """


@dataclass(frozen=True)
class Parallel(_Parts):
    """Parts side by side: no operator of a part has to wait for an operator of another part.

    Args:
        parts: at least two, in the order of their first operators; none is itself a `Parallel`.

    Attributes:
        operators: the set of operators of all parts.
    """


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


def decompose(graph: OperatorGraph, rewrite: str = "cost") -> Decomposition:
    """Decompose the order of a graph's operators into series and parallel parts.

    The order of a graph is series-parallel if and only if it has no N: operators a, b, c, d with a before c, b before c
    and d, and no other order among them (Valdes, Tarjan and Lawler, 1982). Edges that other paths imply, such as skip
    connections, do not matter. Where a set of operators is neither series nor parallel, a rewrite adds
    synchronisation: it cuts that set, and only that one, into parts that follow one another.

    Args:
        graph: the model; its costless joins are left out.
        rewrite: one of `REWRITES`. "strata" cuts between all levels of the set. "cost" cuts where the longest path, in
            seconds per sample, grows little, or as "strata" does where that makes it shorter.

    Raises:
        GraphError: there is no such rewrite.
    """
    if rewrite not in REWRITES:
        raise GraphError(f"rewrite {rewrite!r} is not one of {', '.join(REWRITES)}")
    order = Order.of(graph)
    tree = _tree(order, graph.placed, REWRITES[rewrite])
    pairs = sum((order.before[index] & graph.placed).bit_count() for index in members(graph.placed))
    return Decomposition(tree, _pairs(tree) - pairs)


def restricted(tree: Tree, operators: int) -> Tree:
    """Return the tree of some of its operators, at least one."""
    if isinstance(tree, Leaf) or not tree.operators & ~operators:
        return tree
    kind = type(tree)
    parts: list[Tree] = []
    for part in tree.parts:
        if part.operators & operators:
            smaller = restricted(part, operators)
            parts += smaller.parts if isinstance(smaller, kind) else [smaller]
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def _tree(order: Order, operators: int, cuts: Sequence[Cut]) -> Tree:
    """Decompose a convex set of operators."""
    parts = _parts(order, operators, cuts)
    return parts[0] if len(parts) == 1 else Series(parts)


def _parts(order: Order, operators: int, cuts: Sequence[Cut]) -> tuple[Tree, ...]:
    """Decompose a convex set of operators into parts, one after another, none of which is a series."""
    parts: list[Tree] = []
    remaining = [operators]
    while remaining:
        section = remaining.pop()
        if section.bit_count() == 1:
            parts.append(Leaf(section.bit_length() - 1))
        elif len(branches := list(_components(section, order.comparable))) > 1:
            parts.append(Parallel(tuple(_tree(order, branch, cuts) for branch in branches)))
        elif len(steps := list(_components(section, order.independent))) > 1:
            remaining += reversed(steps)
        elif len(cuts) == 1:
            remaining += reversed(cuts[0](order, section))
        else:
            choices = [Series(_parts(order, section, (cut,))) for cut in cuts]
            parts += min(choices, key=lambda tree: (_length(order, tree), _pairs(tree))).parts
    return tuple(parts)


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


def _length(order: Order, tree: Tree) -> int:
    """Return the cost of the longest path of a tree."""
    if isinstance(tree, Leaf):
        return order.weights[tree.operator]
    lengths = (_length(order, part) for part in tree.parts)
    return sum(lengths) if isinstance(tree, Series) else max(lengths)


def _pairs(tree: Tree) -> int:
    """Count the pairs of operators that a tree orders."""
    if isinstance(tree, Leaf):
        return 0
    pairs = sum(map(_pairs, tree.parts))
    if isinstance(tree, Series):
        sizes = [part.operators.bit_count() for part in tree.parts]
        pairs += (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
    return pairs
