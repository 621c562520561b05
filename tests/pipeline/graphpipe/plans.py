"""Plans for tests: chains, stages with dependencies, and random ones; and how a run of them may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from random import Random

from hypothesis import strategies as st

from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan, Timeline


def operator(name: str, forward: float = 1.0, backward: float = 2.0, **others: int) -> Operator:
    """Make an operator from its seconds per sample."""
    return Operator(name, Duration(0, forward), Duration(0, backward), **others)


def plan_of(
    operators: Iterable[Operator],
    uses: Iterable[tuple[str, str]],
    batch: int,
    rhythms: Mapping[str, Rhythm] | Rhythm = Rhythm(1),  # noqa: B008
    bandwidth: float = inf,
    chain: bool = False,
) -> PipelinePlan:
    """Assemble a plan in which every operator that needs a device is a stage on one device."""
    graph = OperatorGraph.of(operators, uses)
    parts = [
        Part(1 << index, 1, rhythms if isinstance(rhythms, Rhythm) else rhythms[graph.operators[index].name])
        for index in members(graph.placed)
    ]
    return assemble(Problem(graph, Cluster(len(parts), inf, bandwidth), batch), parts, chain)


def chain_plan(costs: Sequence[tuple[float, float]], batch: int, units: Sequence[int] | None = None) -> PipelinePlan:
    """Assemble a chain of stages with the seconds of their passes over a sample."""
    names = [f"o{number}" for number in range(len(costs))]
    operators = [operator(name, *cost) for name, cost in zip(names, costs, strict=True)]
    rhythms = {name: Rhythm(unit) for name, unit in zip(names, units or [1] * len(names), strict=True)}
    return plan_of(operators, pairwise(names), batch, rhythms)


def with_held(plan: PipelinePlan, index: int, more: int) -> PipelinePlan:
    """Let a stage hold more micro-batches than it must, or fewer."""
    stages = list(plan.stages)
    stages[index] = replace(stages[index], in_flight=stages[index].in_flight + more)
    return replace(plan, stages=tuple(stages))


def measured(timeline: Timeline, seed: int = 0) -> Timeline:
    """Delay and stretch every pass of a simulation at random, on each device on its own."""
    random, spans = Random(seed), list[PlanSpan]()
    for device, row in timeline.passes.items():
        late = 0.0
        for span in row:
            start, seconds = span.start + late, (span.end - span.start) * random.uniform(1, 1.3)
            spans.append(span._replace(start=start, end=start + seconds, device=device))
            late = start + seconds * random.uniform(1, 1.1) - span.end
    first = min(span.start for span in spans)
    spans = [span._replace(start=span.start - first, end=span.end - first) for span in spans]
    return Timeline(timeline.plan, max(span.end for span in spans), tuple(spans))


def replicated_plan() -> PipelinePlan:
    """Assemble a fork on four devices, whose second stage is data parallel and whose transfers take time."""
    operators = [operator("a", output=1), operator("b", 2, 4, parameters=8), operator("c", parameters=8)]
    graph = OperatorGraph.of(operators, [("a", "b"), ("a", "c")], "fork")
    parts = [Part(0b001, 1, Rhythm(4)), Part(0b010, 2, Rhythm(4)), Part(0b100, 1, Rhythm(8))]
    return assemble(Problem(graph, Cluster(4, inf, bandwidth=2.0), 32), parts)


@st.composite
def random_plans(draw: st.DrawFn, bandwidths: Sequence[float] = (inf, 3.0)) -> PipelinePlan:
    """Draw a plan with any dependencies, micro-batches and groups, with or without joins and transfers."""
    count = draw(st.integers(1, 7))
    costs = st.integers(1, 9)
    sizes = st.integers(0, 4)
    operators = [
        Operator(
            f"o{index}",
            Duration(draw(st.sampled_from([0.0, 1.5])), draw(costs)),
            Duration(0, draw(costs)),
            draw(sizes),
            draw(sizes),
            draw(sizes),
        )
        for index in range(count)
    ]
    edges = [(before, after) for after in range(count) for before in range(after) if draw(st.booleans())]
    for number in range(draw(st.integers(0, 2))):
        operators.append(Operator(f"join{number}", output=1))
        users = draw(st.sets(st.integers(0, count - 1), min_size=1))
        edges += [(each, count + number) for each in users]
    graph = OperatorGraph(tuple(operators), tuple(sorted(edges)))
    labels: list[int] = []
    for index in range(count):
        lowest = max((labels[each] for each in members(graph.predecessors[index])), default=0)
        labels.append(lowest + draw(st.integers(0, 2)))
    batch = 12
    micro_batches = st.sampled_from([1, 2, 3, 4, 6, 12])
    parts = []
    for label in sorted(set(labels)):
        rhythm = Rhythm(draw(micro_batches), draw(st.integers(1, 3)))
        operators_of = sum(1 << index for index in range(count) if labels[index] == label)
        parts.append(Part(operators_of, min(draw(st.integers(1, 2)), rhythm.micro_batch), rhythm))
    cluster = Cluster(sum(part.devices for part in parts), inf, draw(st.sampled_from(bandwidths)))
    return assemble(Problem(graph, cluster, batch), parts, draw(st.booleans()))
