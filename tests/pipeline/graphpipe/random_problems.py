"""Random planning problems: small models with costs of few values, so that many operators and branches are equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, product
from math import inf
from random import Random

from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

Pairs = set[tuple[int, int]]
OUTPUTS = (0, 1, 3, 8)


def series_parallel(random: Random, operators: int) -> OperatorGraph:
    """Build a series-parallel model, often with equal branches, in any topological order."""
    kinds = [_operator(random) for _ in range(random.choice([1, 1, 2, 3]))]
    numbers, order = _tree(random, operators, len(kinds), random.random() < 0.6)
    sequence: list[int] = []
    while len(sequence) < operators:
        sequence.append(random.choice([b for b in range(operators) if _ready(b, order, sequence)]))
    place = {index: number for number, index in enumerate(sequence)}
    model = [kinds[numbers[index]] for index in sequence]
    other = random.randrange(operators)
    model[other] = replace(model[other], output=random.choice(OUTPUTS))
    return _graph(model, _edges(random, {(place[a], place[b]) for a, b in order}))


def chain(random: Random, operators: int) -> OperatorGraph:
    """Build a chain."""
    return _graph([_operator(random) for _ in range(operators)], _edges(random, {*combinations(range(operators), 2)}))


def equal_operators(random: Random, edges: Iterable[tuple[int, int]]) -> OperatorGraph:
    """Build a model of equal operators."""
    pairs = {*edges}
    return _graph([_operator(random)] * (1 + max(after for _, after in pairs)), pairs)


def any_graph(random: Random, operators: int) -> OperatorGraph:
    """Build a model that need not be series-parallel."""
    edges = {pair for pair in combinations(range(operators), 2) if random.random() < 0.4}
    return _graph([_operator(random) for _ in range(operators)], edges)


def problem(random: Random, graph: OperatorGraph, most_devices: int = 3) -> tuple[Problem, Rhythm]:
    """Draw devices, whose memory is often hardly enough or too little, a mini-batch and a rhythm."""
    devices, copies = random.choice([*range(1, most_devices), *[most_devices] * 3]), random.choice([1, 4])
    micro_batch, group, count = random.choice([1, 1, 2, 3, 4, 8]), random.randint(1, 2), random.randint(1, 8)
    samples = min(group, count) * micro_batch
    each = [copies * each.parameters + each.activations * samples for each in graph.operators]
    share = random.choice([0, 0.2, 0.4, 0.7, 1, 2, inf])
    memory = inf if share == inf else max(1, int(max(each) + share * (sum(each) - max(each))))
    node, between = random.choice([(None, None), (1, 1), (2, 2)])
    cluster = Cluster(devices, memory, random.choice([0.5, 2, inf]), node, between)
    replicas = random.choice([None, None, 1, 2])
    return Problem(graph, cluster, micro_batch * count, copies, replicas), Rhythm(micro_batch, group)


def _tree(random: Random, operators: int, kinds: int, series: bool) -> tuple[list[int], Pairs]:
    """Draw the kinds of operators and the pairs of them that follow one another."""
    if operators == 1:
        return [random.randrange(kinds)], set()
    if not series and random.random() < 0.5:
        number = random.choice([each for each in range(2, operators + 1) if operators % each == 0])
        parts = [_tree(random, operators // number, kinds, True)] * number
    else:
        cuts = sorted(random.sample(range(1, operators), random.randint(1, operators - 1)))
        sizes = [after - before for before, after in zip([0, *cuts], [*cuts, operators], strict=True)]
        parts = [_tree(random, size, kinds, not series) for size in sizes]
    result: list[int] = []
    pairs: Pairs = set()
    for part, order in parts:
        start = len(result)
        if series:
            pairs |= {*product(range(start), range(start, start + len(part)))}
        pairs |= {(start + a, start + b) for a, b in order}
        result += part
    return result, pairs


def _ready(index: int, order: Pairs, sequence: Sequence[int]) -> bool:
    return index not in sequence and all(a in sequence for a, b in order if b == index)


def _edges(random: Random, order: Pairs) -> Pairs:
    """Draw edges of an order: all that no path implies, and few or many of the others."""
    share = random.choice([0, 0.25, 0.75])
    operators = {index for pair in order for index in pair}
    implied = {(a, b) for a, b in order if any((a, c) in order and (c, b) in order for c in operators)}
    return (order - implied) | {pair for pair in sorted(implied) if random.random() < share}


def _operator(random: Random) -> Operator:
    output = random.choice(OUTPUTS)
    if random.random() < 0.1:
        return Operator("costless", output=output)
    forward, backward = (Duration(random.choice([0, 0, 1, 4]), random.choice([0, 1, 2, 5])) for _ in range(2))
    return Operator("", forward, backward, random.choice([0, 1, 3, 8]), random.choice([0, 1, 3, 8]), output)


def _graph(operators: Sequence[Operator], edges: Pairs) -> OperatorGraph:
    named = tuple(replace(each, name=str(index)) for index, each in enumerate(operators))
    return OperatorGraph(named, tuple(sorted(edges)))
