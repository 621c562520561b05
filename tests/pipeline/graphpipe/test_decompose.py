"""Decomposition: series-parallel graphs come back, and rewrites of others keep to every dependency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, permutations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.decompose import Decomposition, Leaf, Parallel, Series, Tree, decompose
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.rewrites import REWRITES
from tests.pipeline.graphpipe.stage_oracle import critical_path

Pairs = set[tuple[int, int]]


def graph_of(costs: Sequence[float], edges: Iterable[tuple[int, int]]) -> OperatorGraph:
    """A graph whose operators take these seconds per sample, a quarter of them forward."""
    operators = [
        Operator(f"o{index}", Duration(0, cost / 4), Duration(1, cost * 3 / 4)) for index, cost in enumerate(costs)
    ]
    return OperatorGraph(tuple(operators), tuple(edges))


def by_name(edges: Iterable[str]) -> tuple[OperatorGraph, dict[str, int]]:
    """A graph of edges such as "a b", and the indices of its operators."""
    pairs = [(edge.split()[0], edge.split()[1]) for edge in edges]
    names = dict.fromkeys(name for pair in pairs for name in pair)
    graph = OperatorGraph.of([Operator(name, Duration(0, 1)) for name in names], pairs)
    return graph, {each.name: index for index, each in enumerate(graph.operators)}


def reachable(graph: OperatorGraph) -> Pairs:
    """Pairs of operators with a path from the first to the second, by depth-first search."""
    result: Pairs = set()
    for start in range(len(graph.operators)):
        stack = [start]
        while stack:
            here = stack.pop()
            for before, after in graph.edges:
                if before == here and (start, after) not in result:
                    result.add((start, after))
                    stack.append(after)
    return result


def leaves(tree: Tree) -> list[int]:
    """The operators of a tree, from left to right."""
    return [tree.operator] if isinstance(tree, Leaf) else [each for part in tree.parts for each in leaves(part)]


def ordered(tree: Tree) -> Pairs:
    """Pairs of operators that a tree orders."""
    if isinstance(tree, Leaf):
        return set()
    result = set().union(*map(ordered, tree.parts))
    if isinstance(tree, Series):
        for index, part in enumerate(tree.parts):
            for later in tree.parts[index + 1 :]:
                result |= set(product(leaves(part), leaves(later)))
    return result


def longest(tree: Tree, costs: Sequence[float]) -> float:
    """The cost of a tree's longest path."""
    if isinstance(tree, Leaf):
        return costs[tree.operator]
    lengths = [longest(part, costs) for part in tree.parts]
    return sum(lengths) if isinstance(tree, Series) else max(lengths)


def check_form(tree: Tree) -> None:
    """Trees are flat, their sets are those of their leaves, and parallel parts are sorted."""
    assert tree.operators == sum(1 << each for each in leaves(tree))
    if isinstance(tree, Leaf):
        return
    assert len(tree.parts) > 1
    assert not any(type(part) is type(tree) for part in tree.parts)
    if isinstance(tree, Parallel):
        assert tree.parts == tuple(sorted(tree.parts, key=lambda part: min(leaves(part))))
    for part in tree.parts:
        check_form(part)


def check(graph: OperatorGraph, result: Decomposition) -> None:
    """The tree has every operator once and keeps to the graph's order, and `added` counts what it adds to it."""
    check_form(result.tree)
    assert sorted(leaves(result.tree)) == list(range(len(graph.operators)))
    order, needed = ordered(result.tree), reachable(graph)
    assert needed <= order
    assert result.added == len(order - needed)


def has_n(graph: OperatorGraph) -> bool:
    """True if some a, b, c, d have exactly the order a → c ← b → d."""
    order = reachable(graph)
    return any(
        {pair for pair in permutations(four, 2) if pair in order}
        == {(four[0], four[2]), (four[1], four[2]), (four[1], four[3])}
        for four in permutations(range(len(graph.operators)), 4)
    )


@st.composite
def dags(draw: st.DrawFn, most: int = 9) -> tuple[OperatorGraph, list[float]]:
    size = draw(st.integers(1, most))
    costs: list[float] = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0, 6.0, 7.5]), min_size=size, max_size=size))
    pairs = [(before, after) for after in range(size) for before in range(after)]
    edges = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    return graph_of(costs, sorted(edges)), costs


# A nest of lists: a list at an even depth is a series, one at an odd depth is parallel.
NESTS = st.recursive(st.just(0), lambda parts: st.lists(parts, min_size=1, max_size=4), max_leaves=12)


def labelled(nest: int | list, labels: list[int], series: bool = True) -> tuple[list[int], Pairs]:
    """Label the leaves of a nest, and return their labels and the pairs that it orders."""
    if not isinstance(nest, list):
        return [labels.pop()], set()
    parts = [labelled(each, labels, not series) for each in nest]
    order = set().union(*(inner for _, inner in parts))
    if series:
        for index, (operators, _) in enumerate(parts):
            order |= {pair for later, _ in parts[index + 1 :] for pair in product(operators, later)}
    return [each for operators, _ in parts for each in operators], order


@settings(max_examples=200, deadline=None)
@given(NESTS, st.randoms(use_true_random=False), st.sampled_from(sorted(REWRITES)), st.booleans())
def test_a_series_parallel_graph_comes_back(nest: int | list, random: Random, rewrite: str, short: bool) -> None:
    labels = list(range(100))
    random.shuffle(labels)
    operators, order = labelled(nest, labels)
    edges = {
        (before, after)
        for before, after in order
        if not short or not any((before, each) in order and (each, after) in order for each in operators)
    }
    graph = OperatorGraph.of(
        [Operator(str(each), Duration(0, 1)) for each in sorted(operators)],
        [(str(before), str(after)) for before, after in edges],
    )
    result = decompose(graph, rewrite)
    check_form(result.tree)
    assert result.added == 0
    names = [int(each.name) for each in graph.operators]
    assert {(names[before], names[after]) for before, after in ordered(result.tree)} == order


@settings(max_examples=150, deadline=None)
@given(dags(), st.sampled_from(sorted(REWRITES)))
def test_a_tree_keeps_to_the_order_of_its_graph(case: tuple[OperatorGraph, list[float]], rewrite: str) -> None:
    check(case[0], decompose(case[0], rewrite))


@settings(max_examples=150, deadline=None)
@given(dags(7))
def test_pairs_are_added_only_where_there_is_an_n(case: tuple[OperatorGraph, list[float]]) -> None:
    graph, _ = case
    n = has_n(graph)
    for rewrite in REWRITES:
        assert (decompose(graph, rewrite).added > 0) == n


@settings(max_examples=150, deadline=None)
@given(dags(10))
def test_cost_never_has_a_longer_path_than_strata(case: tuple[OperatorGraph, list[float]]) -> None:
    graph, costs = case
    cost, strata = (longest(decompose(graph, rewrite).tree, costs) for rewrite in ("cost", "strata"))
    assert critical_path(graph, costs) <= cost * (1 + 1e-9)
    assert cost <= strata * (1 + 1e-9) + 1e-9


# N: 0 → 2 ← 1 → 3
N = ((0, 2), (1, 2), (1, 3))


def test_cost_cuts_an_n_where_the_longest_path_grows_least() -> None:
    costs = [9, 1, 1, 9]
    graph = graph_of(costs, N)
    cost, strata = decompose(graph), decompose(graph, "strata")
    assert strata == Decomposition(Series((Parallel((Leaf(0), Leaf(1))), Parallel((Leaf(2), Leaf(3))))), 1)
    assert cost == Decomposition(Series((Parallel((Leaf(0), Series((Leaf(1), Leaf(3))))), Leaf(2))), 1)
    assert critical_path(graph, costs) == 10
    assert (longest(cost.tree, costs), longest(strata.tree, costs)) == (11, 18)


def test_cost_cuts_an_n_as_strata_does_where_that_costs_nothing() -> None:
    costs = [1, 4, 5, 8]
    graph = graph_of(costs, N)
    result = decompose(graph)
    assert result == decompose(graph, "strata")
    assert longest(result.tree, costs) == critical_path(graph, costs) == 12


def test_cost_takes_the_strata_where_their_path_is_shorter() -> None:
    costs = [6, 4, 6, 3, 4, 6]
    graph = graph_of(costs, [(0, 1), (0, 3), (1, 4), (2, 4), (1, 5)])
    assert longest(decompose(graph).tree, costs) == critical_path(graph, costs) == 16


def test_strata_adds_fewer_pairs_where_cost_keeps_the_path_shorter() -> None:
    costs = [2, 1, 1, 1, 5]
    graph = graph_of(costs, [(0, 3), (1, 3), (2, 3), (1, 4), (2, 4)])
    cost, strata = decompose(graph), decompose(graph, "strata")
    assert (longest(cost.tree, costs), longest(strata.tree, costs)) == (6, 7)
    assert (cost.added, strata.added) == (2, 1)


def test_only_the_part_with_an_n_is_rewritten() -> None:
    graph, index = by_name(["s a", "s b", "a c", "b c", "b d", "c t", "d t", "s x", "x y", "y t"])
    for rewrite in REWRITES:
        result = decompose(graph, rewrite)
        check(graph, result)
        assert result.added == 1
        assert isinstance(result.tree, Series)
        assert len(result.tree.parts) == 3
        assert Series((Leaf(index["x"]), Leaf(index["y"]))) in result.tree.parts[1].parts  # type: ignore[union-attr]


def test_skip_connections_leave_a_chain() -> None:
    edges = [f"{before} {after}" for before, after in pairwise("abcdefg")] + ["a c", "c e", "e g", "a g"]
    graph, _ = by_name(edges)
    assert decompose(graph) == Decomposition(Series(tuple(map(Leaf, range(7)))), 0)


def test_a_residual_branch_with_an_operator_is_parallel() -> None:
    graph, index = by_name(["in conv1", "conv1 conv2", "in down", "conv2 out", "down out", "in out"])
    block = {Series((Leaf(index["conv1"]), Leaf(index["conv2"]))), Leaf(index["down"])}
    tree = decompose(graph).tree
    assert isinstance(tree, Series)
    assert (tree.parts[0], tree.parts[2]) == (Leaf(index["in"]), Leaf(index["out"]))
    assert isinstance(tree.parts[1], Parallel)
    assert set(tree.parts[1].parts) == block


def test_branches_of_an_inception_block_may_fork_again() -> None:
    edges = ["in a", "in b1", "b1 b2", "in c1", "c1 c2", "c2 c3", "c2 c4", "in pool", "pool d"]
    graph, index = by_name([*edges, *(f"{each} out" for each in ("a", "b2", "c3", "c4", "d"))])
    result = decompose(graph)
    check(graph, result)
    assert result.added == 0
    block = result.tree.parts[1]  # type: ignore[union-attr]
    assert isinstance(block, Parallel)
    fork = Parallel((Leaf(index["c3"]), Leaf(index["c4"])))
    assert Series((Leaf(index["c1"]), Leaf(index["c2"]), fork)) in block.parts


def test_a_costless_joining_loss_is_left_out() -> None:
    operators = [Operator(name, Duration(0, 1)) for name in ("a0", "b0", "a1", "b1")]
    graph = OperatorGraph.of(
        [*operators, Operator("loss")], [("a0", "a1"), ("b0", "b1"), ("a1", "loss"), ("b1", "loss")]
    )
    tree = Parallel((Series((Leaf(0), Leaf(2))), Series((Leaf(1), Leaf(3)))))
    assert decompose(graph) == Decomposition(tree, 0)
    costly = OperatorGraph((*graph.operators[:4], Operator("loss", Duration(0, 1))), graph.edges)
    assert decompose(costly) == Decomposition(Series((tree, Leaf(4))), 0)


@pytest.mark.parametrize("costs", [(0.0,) * 6, (1e-300, 1.0, 1e300, 0.0, 5e-324, 1e-9)], ids=["none", "extreme"])
def test_costs_may_be_zero_or_far_apart(costs: tuple[float, ...]) -> None:
    graph = graph_of(costs, [(0, 2), (1, 2), (1, 3), (3, 5), (4, 5)])
    for rewrite in REWRITES:
        check(graph, decompose(graph, rewrite))


def test_an_unknown_rewrite_is_refused() -> None:
    with pytest.raises(GraphError, match="rewrite 'fast' is not one of cost, strata"):
        decompose(graph_of([1], []), "fast")


@pytest.mark.parametrize("rewrite", sorted(REWRITES))
def test_three_hundred_operators(rewrite: str) -> None:
    random = Random(7)
    costs = [random.random() for _ in range(300)]
    edges = [(index, index + step) for index in range(300) for step in range(1, 13) if random.random() < 0.2]
    graph = graph_of(costs, [edge for edge in edges if edge[1] < 300])
    result = decompose(graph, rewrite)
    assert result.added > 0
    check(graph, result)


def test_three_hundred_operators_nest() -> None:
    edges = [(index, other) for index in range(0, 298, 2) for other in (index + 1, index + 2)]
    graph = graph_of([1] * 300, edges)
    result = decompose(graph)
    check(graph, result)
    assert result.added == 0
