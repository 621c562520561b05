"""Plans: stages that form a DAG, with their devices, micro-batches and schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import Held, Rhythm, held


class Part(NamedTuple):
    """A stage as a planner finds it: a set of operators, a number of devices, and a rhythm."""

    operators: int
    devices: int
    rhythm: Rhythm


@dataclass(frozen=True)
class PipelineStage:
    """One stage of a plan.

    Args:
        name: unique in its plan.
        operators: the set of its operators, with the costless ones that it computes (`OperatorGraph.joins`).
        devices: the devices that hold it, data parallel.
        rhythm: micro-batch and group size.
        in_flight: micro-batches that it holds between their passes.
        after: indices of the stages whose outputs it receives; they come before it in the plan.
        joins: indices of other stages whose outputs its costless operators wait for.
    """

    name: str
    operators: int
    devices: tuple[int, ...]
    rhythm: Rhythm
    in_flight: int
    after: tuple[int, ...]
    joins: tuple[int, ...] = ()


@dataclass(frozen=True)
class PipelinePlan:
    """A partition of a model into stages, in topological order, for a problem.

    Args:
        problem: the model, the devices and the mini-batch.
        stages: a stage comes after those whose outputs it receives.
    """

    problem: Problem
    stages: tuple[PipelineStage, ...]

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """Of every stage, the indices of the stages that receive its output."""
        return tuple(
            tuple(number for number, other in enumerate(self.stages) if index in other.after)
            for index in range(len(self.stages))
        )

    @cached_property
    def depth(self) -> int:
        """The number of stages on the longest path."""
        depths: list[int] = []
        for stage in self.stages:
            depths.append(1 + max((depths[each] for each in stage.after), default=0))
        return max(depths)

    @property
    def devices(self) -> int:
        """The number of devices that have a stage."""
        return sum(len(stage.devices) for stage in self.stages)

    @cached_property
    def bottleneck(self) -> float:
        """Seconds per sample of the slowest stage, in steady state."""
        return max(
            self.problem.time_per_sample(each.operators, each.rhythm.micro_batch, len(each.devices))
            for each in self.stages
        )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The partition that the plan was made from."""
        placed = self.problem.graph.placed
        return tuple(Part(each.operators & placed, len(each.devices), each.rhythm) for each in self.stages)

    def memory(self, stage: PipelineStage) -> float:
        """Return the bytes that a stage needs on each of its devices."""
        return self.problem.memory(stage.operators, stage.rhythm.micro_batch, len(stage.devices), stage.in_flight)


def assemble(problem: Problem, parts: Sequence[Part], chain: bool = False) -> PipelinePlan:
    """Build the plan of a partition: order, names, devices, dependencies, and micro-batches in flight.

    Args:
        problem: the model, the devices and the mini-batch.
        parts: disjoint sets that cover the operators of `problem.graph.placed`.
        chain: each stage depends on the one before it, in the order of `parts`, as in sequential pipelines. Otherwise
            stages depend on those whose outputs they use.

    Raises:
        GraphError: an operator is in no part or in two, the parts use one another in a cycle (one is not convex), they
            need more devices than there are, a stage has more than `Problem.most_devices` or needs more memory than a
            device has, or a micro-batch does not divide the mini-batch.
    """
    graph, covered = problem.graph, 0
    for part in parts:
        if problem.batch % part.rhythm.micro_batch:
            raise GraphError(f"micro-batch {part.rhythm.micro_batch} does not divide the batch of {problem.batch}")
        if covered & part.operators:
            raise GraphError(f"operator {graph.names(covered & part.operators)[0]!r} is in two stages")
        covered |= part.operators
    if covered != graph.placed:
        raise GraphError(f"operator {graph.names(covered ^ graph.placed)[0]!r} is not in exactly one stage")
    if sum(part.devices for part in parts) > problem.cluster.devices:
        raise GraphError(f"the stages need {sum(p.devices for p in parts)} devices of {problem.cluster.devices}")
    for part in parts:
        size, most = part.rhythm.micro_batch, problem.most_devices(part.rhythm.micro_batch)
        if part.devices > most:
            raise GraphError(f"a stage on {part.devices} devices may have at most {most}, with micro-batches of {size}")
    after = _dependencies(problem, parts)
    if chain:
        order = list(range(len(parts)))
        if any(before > index for index in order for before in after[index]):
            raise GraphError("a stage of the chain uses the output of a later one")
        after = [(index - 1,) if index else () for index in order]
    else:
        order = _sorted(after)
    place = {index: number for number, index in enumerate(order)}
    after = [tuple(sorted(place[each] for each in after[index])) for index in order]
    parts = [parts[index] for index in order]
    holdings = _holdings(problem, parts, after)
    sets, joins = _with_joins(problem, parts, after)
    stages, device = [], 0
    for index, part in enumerate(parts):
        devices = tuple(range(device, device + part.devices))
        device += part.devices
        in_flight = holdings[index].samples // part.rhythm.micro_batch
        name = f"stage {index}"
        stages.append(PipelineStage(name, sets[index], devices, part.rhythm, in_flight, after[index], joins[index]))
    plan = PipelinePlan(problem, tuple(stages))
    for stage in plan.stages:
        if plan.memory(stage) > problem.cluster.memory:
            raise GraphError(
                f"{stage.name} needs {plan.memory(stage) / 1e9:,.4g} GB on each device; devices have "
                f"{problem.cluster.memory / 1e9:,.4g} GB"
            )
    return plan


def _dependencies(problem: Problem, parts: Sequence[Part]) -> list[tuple[int, ...]]:
    """Return the parts whose outputs each part uses."""
    graph = problem.graph
    owner = {index: number for number, part in enumerate(parts) for index in members(part.operators)}
    result = []
    for number, part in enumerate(parts):
        sources = {owner[each] for index in members(part.operators) for each in members(graph.predecessors[index])}
        result.append(tuple(sorted(sources - {number})))
    return result


def _sorted(after: Sequence[Iterable[int]]) -> list[int]:
    """Sort stages topologically, each as early as possible among those that are ready."""
    order: list[int] = []
    waiting = list(range(len(after)))
    while waiting:
        ready = next((each for each in waiting if set(after[each]) <= set(order)), None)
        if ready is None:
            raise GraphError("the stages use one another in a cycle; a stage must be convex")
        order.append(ready)
        waiting.remove(ready)
    return order


def _holdings(problem: Problem, parts: Sequence[Part], after: Sequence[Iterable[int]]) -> list[Held]:
    """Return what every stage holds, from the last one backwards."""
    result: dict[int, Held] = {}
    for index in reversed(range(len(parts))):
        following = [result[other] for other in range(index + 1, len(parts)) if index in after[other]]
        result[index] = held(parts[index].rhythm.unit, following, problem.batch)
    return [result[index] for index in range(len(parts))]


def _with_joins(
    problem: Problem, parts: Sequence[Part], after: Sequence[Iterable[int]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Add every costless operator to the last stage that it uses, and return which other stages it waits for."""
    sets, joins = [part.operators for part in parts], [set[int]() for _ in parts]
    before: list[set[int]] = []
    for each in after:
        before.append({*each, *(far for near in each for far in before[near])})
    for operator in problem.graph.joins:
        used = problem.graph.predecessors[operator]
        stages = [index for index, part in enumerate(parts) if part.operators & used]
        sets[stages[-1]] |= 1 << operator
        joins[stages[-1]] |= {*stages[:-1]} - before[stages[-1]]
    return sets, [tuple(sorted(each)) for each in joins]
