"""Plans for small modules: partitions by hand, random ones, and those that the planner finds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf
from random import Random
from typing import NamedTuple

import torch

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import Duration, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm, divisors
from tests.pipeline.graphpipe.run.cases import BATCH, batches, build


class Share(NamedTuple):
    """A stage: the operators whose names begin with one of several words, devices, samples of a pass, and a group."""

    words: str
    devices: int
    micro_batch: int
    group: int = 1


class Layout(NamedTuple):
    """The stages of a plan by hand; in a chain each stage follows the one before."""

    shares: tuple[Share, ...]
    chain: bool = False


@cache
def graph_of(name: str, dtype: torch.dtype = torch.float64) -> OperatorGraph:
    """Capture a module; its costs are estimates."""
    (inputs,) = batches(name, dtype, 1)
    return capture(build(name, dtype), inputs, accelerator=ACCELERATORS["h200"], name=name)


def by_hand(name: str, layout: Layout, dtype: torch.dtype = torch.float64) -> PipelinePlan:
    """Assemble a plan by hand; an operator is in the first share that has a word for it."""
    graph = graph_of(name, dtype)
    sets = [0] * len(layout.shares)
    for index in members(graph.placed):
        operator = f"{graph.operators[index].name}."
        owner = next(
            number
            for number, share in enumerate(layout.shares)
            if any(operator.startswith(f"{word}.") for word in share.words.split())
        )
        sets[owner] |= 1 << index
    parts = [
        Part(operators, share.devices, Rhythm(share.micro_batch, share.group))
        for operators, share in zip(sets, layout.shares, strict=True)
    ]
    return assemble(_problem(graph, sum(part.devices for part in parts)), parts, layout.chain)


def at_random(name: str, world: int, seed: int, dtype: torch.dtype = torch.float64) -> PipelinePlan:
    """Assemble a plan with random stages, devices, micro-batches and groups, on exactly `world` devices."""
    graph, random = graph_of(name, dtype), Random(f"{name} {world} {seed}")
    operators = list(members(graph.placed))
    while True:
        count = random.randint(1, min(world, len(operators)))
        chain = random.random() < 0.3
        if chain or random.random() < 0.5:  # intervals of the topological order, which are always convex
            cuts = [0, *sorted(random.sample(range(1, len(operators)), count - 1)), len(operators)]
            groups = [operators[before:after] for before, after in pairwise(cuts)]
        else:
            labels = {index: random.randrange(count) for index in operators}
            groups = [[index for index in operators if labels[index] == number] for number in range(count)]
        devices = [1] * count
        for _ in range(world - count):
            devices[random.randrange(count)] += 1
        parts = [
            Part(
                sum(1 << index for index in group),
                number,
                Rhythm(random.choice([each for each in divisors(BATCH) if each >= number]), random.randint(1, 3)),
            )
            for group, number in zip(groups, devices, strict=True)
        ]
        if all(groups):
            with suppress(GraphError):
                return assemble(_problem(graph, world), parts, chain)


def planned(name: str, world: int, replicas: int | None, dtype: torch.dtype = torch.float64) -> list[PipelinePlan]:
    """Return the planner's DAG and chain for a module all of whose operators take equally long."""
    graph = graph_of(name, dtype)
    operators = [
        replace(each, forward=Duration(0.2, 1), backward=Duration(0.2, 2)) if graph.placed >> index & 1 else each
        for index, each in enumerate(graph.operators)
    ]
    problem = replace(_problem(replace(graph, operators=tuple(operators)), world), replicas=replicas)
    best = plan_model(problem, "kfkb", mixed=len(operators) < 12)
    assert best.sequential is not None
    return [best.graph.plan, best.sequential.plan]


def _problem(graph: OperatorGraph, devices: int) -> Problem:
    return Problem(graph, Cluster(devices, inf), BATCH)


def _layout(*shares: tuple[str, int, int] | tuple[str, int, int, int], chain: bool = False) -> Layout:
    return Layout(tuple(Share(*each) for each in shares), chain)


NAMED: dict[str, dict[int, Layout]] = {
    "two-branch": {
        2: _layout(("a head", 1, 4), ("b", 1, 4)),
        3: _layout(("a", 1, 2), ("b", 1, 2), ("head", 1, 4)),
        4: _layout(("a", 1, 4), ("b", 2, 4), ("head", 1, 6)),
    },
    "diamond": {
        2: _layout(("stem a", 1, 3), ("b head", 1, 3), chain=True),
        3: _layout(("stem", 1, 6), ("a b", 1, 4), ("head", 1, 3)),
        4: _layout(("stem", 1, 2, 2), ("a", 1, 2, 2), ("b", 1, 4), ("head", 1, 4)),
    },
    "fan-out": {
        2: _layout(("stem branches.0 branches.1", 1, 4), ("branches.2 head", 1, 2)),
        3: _layout(("stem branches.0", 1, 2, 2), ("branches.1 branches.2", 1, 2, 2), ("head", 1, 2, 2)),
        4: _layout(("stem", 1, 3), ("branches", 2, 3), ("head", 1, 3)),
    },
    "dlrm": {
        2: _layout(("dense", 1, 4), ("bags interaction top", 1, 4)),
        3: _layout(("bags", 1, 6), ("dense", 1, 6), ("interaction top", 1, 4)),
        4: _layout(("bags", 1, 4), ("dense", 1, 4), ("interaction", 1, 2), ("top", 1, 6)),
    },
    "mmt": {
        2: _layout(("modalities.0", 1, 4), ("modalities.1 head", 1, 4)),
        3: _layout(("modalities head", 3, 4)),
        4: _layout(
            ("modalities.0.0", 1, 3), ("modalities.0.1", 1, 3), ("modalities.1", 1, 6), ("head", 1, 6), chain=True
        ),
    },
}
"""The models and numbers of processes that a pipelined run must be right for, and a plan for each."""

FURTHER: dict[str, tuple[str, Layout]] = {
    "a join of losses": ("two-losses", _layout(("a", 1, 4), ("b", 1, 4))),
    "a join of stages with other micro-batches": ("two-losses", _layout(("a", 1, 4), ("b", 2, 3))),
    "a join over deep branches": ("two-losses", _layout(("a.0", 1, 2), ("a.2", 1, 4), ("b", 1, 6, 2))),
    "a join in a chain": ("two-losses", _layout(("a", 1, 4), ("b.0", 1, 4), ("b.2", 1, 4), chain=True)),
    "sums of losses": ("summed", _layout(("a", 1, 4), ("b", 2, 3))),
    "two losses": ("separate-losses", _layout(("a", 1, 4), ("b", 1, 3))),
    "a skip over two stages": (
        "skip",
        _layout(("first gate", 1, 2), ("second", 1, 2), ("third", 1, 2), ("last", 1, 2)),
    ),
    "a relayed skip": (
        "skip",
        _layout(("first gate", 1, 6), ("second", 1, 4), ("third", 1, 4), ("last", 1, 3), chain=True),
    ),
    "a relayed skip through replicas": (
        "skip",
        _layout(("first gate", 1, 4), ("second third", 2, 3), ("last", 1, 4), chain=True),
    ),
    "a skip to replicas": ("skip", _layout(("first gate second", 1, 6), ("third last", 3, 4))),
    "values from three replicas": ("two-branch", _layout(("a b", 3, 4), ("head", 1, 6))),
    "from replicas to replicas": ("two-branch", _layout(("a b", 2, 3), ("head", 2, 4))),
    "a frozen stem": ("frozen", _layout(("table stem", 1, 4), ("hidden", 1, 4), ("head", 1, 4))),
    "a frozen stem on replicas": ("frozen", _layout(("table stem", 2, 3), ("hidden head", 2, 6))),
    "a frozen stem in a chain": (
        "frozen",
        _layout(("table", 1, 4), ("stem", 1, 2), ("hidden", 1, 6), ("head", 1, 6), chain=True),
    ),
    "no parameters on replicas": ("dlrm", _layout(("bags dense", 1, 3), ("interaction", 2, 3), ("top", 1, 12))),
    "one pass": ("fan-out", _layout(("stem branches", 1, 12), ("head", 1, 12))),
    "a pass per sample": ("diamond", _layout(("stem", 1, 1), ("a b", 1, 1), ("head", 1, 1))),
    "large groups": ("diamond", _layout(("stem", 1, 1, 3), ("a b", 1, 2, 2), ("head", 1, 1, 4))),
}
"""Further kinds of plans, with the model of each."""
