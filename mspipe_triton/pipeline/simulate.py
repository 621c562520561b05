"""A discrete-event simulation of a stage graph on its resources, in exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import Stage, StageGraph


@dataclass(frozen=True)
class Simulation:
    """What became of a number of iterations; the first of them starts at time 0.

    Args:
        graph: what was run.
        iterations: how many.
        starts: start of each stage, by iteration.
        ends: end of each stage, by iteration.
    """

    graph: StageGraph
    iterations: int
    starts: Mapping[str, tuple[Fraction, ...]]
    ends: Mapping[str, tuple[Fraction, ...]]

    @property
    def makespan(self) -> Fraction:
        """End of the last stage to end."""
        return max(ends[-1] for ends in self.ends.values())

    def period(self) -> Fraction:
        """Mean time of an iteration in steady state.

        Exact where the run has become periodic: every stage of the last iterations starts one and the same time after
        it did some iterations earlier. These last iterations are as many as a start can depend on, so that the rest of
        an endless run would repeat them. Iterations close to the end, which no longer wait for later ones, are left
        out. In a run too short for that, and where stages drift apart for want of a bound, the makespan is divided
        by the iterations.
        """
        distances = [each.distance for each in self.graph.constraints]
        ahead = -sum(min(0, distance) for distance in distances)
        stop = self.iterations - ahead
        first = stop - max(distances) - 2 * ahead
        for back in range(1, first + 1):
            shift = self.starts[self.graph.stages[0].name][first] - self.starts[self.graph.stages[0].name][first - back]
            if all(
                starts[iteration] - starts[iteration - back] == shift
                for starts in self.starts.values()
                for iteration in range(first, stop)
            ):
                return shift / back
        return self.makespan / self.iterations

    def busy(self) -> dict[str, Fraction]:
        """Time that each resource worked."""
        return {name: load * self.iterations for name, load in self.graph.loads().items()}

    def peak_held(self) -> int:
        """Most bytes held at a time: a stage's from its start until its iteration's last stage ends."""
        changes = []
        for iteration in range(self.iterations):
            done = max(ends[iteration] for ends in self.ends.values())
            for stage in self.graph.stages:
                changes += [(self.starts[stage.name][iteration], stage.held), (done, -stage.held)]
        held = peak = 0
        for _, change in sorted(changes):
            held += change
            peak = max(peak, held)
        return peak


def whole_times(graph: StageGraph) -> tuple[dict[str, int], int]:
    """Stage times as integers, and how many of their units make one of the graph's."""
    scale = lcm(*(time.denominator for time in graph.times.values()))
    return {name: int(time * scale) for name, time in graph.times.items()}, scale


def simulate(graph: StageGraph, iterations: int) -> Simulation:
    """Run `iterations` iterations: every stage starts as soon as its resource has come to it and its waits are over.

    Raises:
        GraphError: fewer than one iteration, or no stage left can start. The latter takes a graph that was never
            checked: a circle of waiting between stages of given iterations has distance 0, which `StageGraph` refuses.
    """
    if iterations < 1:
        raise GraphError(f"a simulation needs at least 1 iteration, not {iterations}")
    times, scale = whole_times(graph)
    ends: dict[str, list[int]] = {stage.name: [] for stage in graph.stages}
    free = dict.fromkeys(graph.by_resource, 0)
    left = iterations * len(graph.stages)
    while left:
        before = left
        for resource, stages in graph.by_resource.items():
            turn = sum(len(ends[stage.name]) for stage in stages)
            while turn < iterations * len(stages):
                stage = stages[turn % len(stages)]
                ready = _ready(graph, stage, turn // len(stages), iterations, ends)
                if ready is None:
                    break
                free[resource] = max(free[resource], ready) + times[stage.name]
                ends[stage.name].append(free[resource])
                turn, left = turn + 1, left - 1
        if left == before:
            raise GraphError(f"nothing can start after {iterations * len(graph.stages) - left} stages: all wait")
    return Simulation(
        graph,
        iterations,
        {name: tuple(Fraction(end - times[name], scale) for end in of) for name, of in ends.items()},
        {name: tuple(Fraction(end, scale) for end in of) for name, of in ends.items()},
    )


def _ready(
    graph: StageGraph, stage: Stage, iteration: int, iterations: int, ends: Mapping[str, list[int]]
) -> int | None:
    """When the last stage that this one waits for ends; None while that is not known."""
    ready = 0
    for each in graph.waits[stage.name]:
        other = each.awaited(iteration, iterations)
        if other is not None:
            if other >= len(ends[each.before]):
                return None
            ready = max(ready, ends[each.before][other])
    return ready
