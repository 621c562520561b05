"""All partitions of small models into stages, with their cost by plain arithmetic; shares no code with planners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from math import inf
from typing import NamedTuple

from hypothesis import strategies as st

from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem

Groups = tuple[frozenset[int], ...]
EIGHTHS = st.integers(0, 24).map(lambda number: number / 8)
POSITIVE = st.integers(1, 24).map(lambda number: number / 8)


class Outcome(NamedTuple):
    """The bottleneck, number of stages and number of devices of a chain."""

    bottleneck: float
    depth: int
    devices: int


@st.composite
def problems(draw: st.DrawFn, operators: int = 6, chain: bool = False, batch: int = 8) -> Problem:
    """Draw a problem on up to three devices, often with little memory, sometimes with costless joins."""
    count = draw(st.integers(1, operators))
    parts = [
        Operator(
            str(index),
            Duration(draw(EIGHTHS), draw(POSITIVE)),
            Duration(draw(EIGHTHS), draw(EIGHTHS)),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 3)),
        )
        for index in range(count)
    ]
    pairs = [(before, after) for after in range(count) for before in range(after)]
    edges = [pair for pair in pairs if (pair[1] == pair[0] + 1 if chain else draw(st.booleans()))]
    if draw(st.booleans()):
        edges += [(index, count) for index in range(count) if not any(before == index for before, _ in edges)]
        parts.append(Operator("loss"))
    cluster = Cluster(
        draw(st.integers(1, 3)), draw(st.sampled_from([30, 60, 90, inf])), draw(st.sampled_from([4, inf]))
    )
    return Problem(OperatorGraph(tuple(parts), tuple(edges)), cluster, batch, draw(st.sampled_from([1, 4])))


def real(problem: Problem) -> list[int]:
    """Operators that take time or memory, or whose output is used."""
    used = {before for before, _ in problem.graph.edges}
    using = {after for _, after in problem.graph.edges}
    ends = {
        index
        for index, each in enumerate(problem.graph.operators)
        if index in using - used
        and (each.forward, each.backward, each.parameters, each.activations) == (Duration(), Duration(), 0, 0)
    }
    return [index for index in range(len(problem.graph.operators)) if index not in ends]


def passes(problem: Problem, group: frozenset[int], size: int, devices: int) -> tuple[float, float, float]:
    """Seconds of a forward pass, of a backward pass, and of the all-reduce of a stage."""
    share = size // devices + (size % devices > 0)
    ones = [problem.graph.operators[index] for index in group]
    forward = sum(each.forward.fixed + each.forward.per_sample * share for each in ones)
    backward = sum(each.backward.fixed + each.backward.per_sample * share for each in ones)
    reduce = 2 * sum(each.parameters for each in ones) * (1 - 1 / devices) / problem.cluster.bandwidth
    return forward, backward, reduce


def pace(problem: Problem, group: frozenset[int], size: int, devices: int) -> float:
    """Seconds per sample of a stage."""
    forward, backward, reduce = passes(problem, group, size, devices)
    sources = {before for before, after in problem.graph.edges if after in group} - group
    transfer = sum(problem.graph.operators[each].output for each in sources) / problem.cluster.bandwidth
    return max((forward + backward) / size + reduce / problem.batch, transfer)


def fits(problem: Problem, group: frozenset[int], size: int, devices: int, micro_batches: int) -> bool:
    """Compare the bytes of a stage that holds a number of micro-batches with a device's memory."""
    share = size // devices + (size % devices > 0)
    ones = [problem.graph.operators[index] for index in group]
    state = sum(each.parameters for each in ones) * problem.copies
    return state + sum(each.activations for each in ones) * share * micro_batches <= problem.cluster.memory


def intervals(order: Sequence[int]) -> Iterator[Groups]:
    """Yield all ways to cut an order."""
    for cuts in product((False, True), repeat=len(order) - 1):
        ends = [*(index + 1 for index, cut in enumerate(cuts) if cut), len(order)]
        starts = [0, *ends[:-1]]
        yield tuple(frozenset(order[start:end]) for start, end in zip(starts, ends, strict=True))


def ordered_partitions(problem: Problem) -> Iterator[Groups]:
    """Yield all sequences of stages, up to one per device, in which no stage uses the output of a later one."""
    ones = real(problem)
    for stages in range(1, min(problem.cluster.devices, len(ones)) + 1):
        for numbers in product(range(stages), repeat=len(ones)):
            place = dict(zip(ones, numbers, strict=True))
            edges = [edge for edge in problem.graph.edges if edge[1] in place]
            if len({*numbers}) == stages and all(place[before] <= place[after] for before, after in edges):
                yield tuple(frozenset(each for each in ones if place[each] == stage) for stage in range(stages))


def outcomes(problem: Problem, size: int, group: int, partitions: Iterator[Groups]) -> list[Outcome]:
    """All chains that fit into devices and memory."""
    results = []

    @cache
    def options(stage: frozenset[int], level: int) -> list[tuple[int, float]]:
        full = min(level * size * group, problem.batch) // size
        numbers = range(1, min(problem.cluster.devices, size) + 1)
        return [(each, pace(problem, stage, size, each)) for each in numbers if fits(problem, stage, size, each, full)]

    for stages in partitions:
        levels = range(len(stages), 0, -1)
        for choice in product(*(options(stage, level) for stage, level in zip(stages, levels, strict=True))):
            devices = sum(number for number, _ in choice)
            if devices <= problem.cluster.devices:
                results.append(Outcome(max(time for _, time in choice), len(stages), devices))
    return results


def makespan(
    problem: Problem, stages: Groups, sizes: Sequence[int], devices: Sequence[int], windows: Sequence[int]
) -> float:
    """Seconds of one iteration without transfers; each stage runs `windows` forward passes before it alternates."""
    owner = {each: number for number, stage in enumerate(stages) for each in stage}
    feeds = {(owner[before], owner[after]) for before, after in problem.graph.edges if after in owner}
    joined: Mapping[int, set[int]] = {
        join: {owner[before] for before, after in problem.graph.edges if after == join}
        for join in range(len(problem.graph.operators))
        if join not in owner
    }

    def micro(stage: int, samples: range) -> range:
        return range(samples.start // sizes[stage], (samples.stop - 1) // sizes[stage] + 1)

    @cache
    def end(stage: int, forward: bool, number: int) -> float:
        total, window = problem.batch // sizes[stage], windows[stage]
        samples = range(number * sizes[stage], (number + 1) * sizes[stage])
        waits = []
        if forward and number >= window:
            waits.append((stage, False, number - window))
        elif forward and number:
            waits.append((stage, True, number - 1))
        elif not forward:
            waits.append((stage, True, min(total, number + window) - 1))
            if number:
                waits.append((stage, False, number - 1))
        if forward:
            waits += [(one, True, each) for one, two in feeds if two == stage != one for each in micro(one, samples)]
        else:
            waits += [(two, False, each) for one, two in feeds if one == stage != two for each in micro(two, samples)]
            ends = {one for group in joined.values() if stage in group for one in group}
            waits += [(one, True, each) for one in ends for each in micro(one, samples)]
        seconds = passes(problem, stages[stage], sizes[stage], devices[stage])[0 if forward else 1]
        return seconds + max((end(*each) for each in waits), default=0.0)

    return max(
        end(stage, False, problem.batch // size - 1) + passes(problem, stages[stage], size, devices[stage])[2]
        for stage, size in enumerate(sizes)
    )


def critical_path(graph: OperatorGraph, weights: Sequence[float]) -> float:
    """The largest sum of weights along a path of a graph."""
    ends: list[float] = []
    for index, weight in enumerate(weights):
        ends.append(weight + max((ends[before] for before, after in graph.edges if after == index), default=0))
    return max(ends)
