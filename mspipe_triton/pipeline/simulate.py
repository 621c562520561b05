"""A discrete-event simulation of a stage graph on its resources, in exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import StageGraph
from mspipe_triton.pipeline.tasks import run_in_order


@dataclass(frozen=True)
class Simulation:
    """The result of simulating a number of iterations, the first of which starts at time 0.

    Args:
        graph: the simulated graph.
        iterations: their number.
        starts: start of each stage, by iteration.
        ends: end of each stage, by iteration.
    """

    graph: StageGraph
    iterations: int
    starts: Mapping[str, tuple[Fraction, ...]]
    ends: Mapping[str, tuple[Fraction, ...]]

    @property
    def makespan(self) -> Fraction:
        """Time when the last stage ends."""
        return max(ends[-1] for ends in self.ends.values())

    def period(self) -> Fraction:
        """Return the mean time per iteration in steady state.

        The result is exact once the run is periodic: in a window of last iterations, all stages start the same time
        later than they did some iterations earlier. The window is as long as a start can depend on, so an endless run
        would repeat it. It leaves out iterations close to the end, which no longer wait for later ones. If the run is
        too short, or unbounded stages drift apart, the result is the makespan divided by the iterations.
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
        """Return the time that each resource worked."""
        return {name: load * self.iterations for name, load in self.graph.loads().items()}

    def peak_size(self) -> int:
        """Return the most bytes in use at a time: each stage's, from its start to the end of its iteration."""
        changes = []
        for iteration in range(self.iterations):
            end = max(ends[iteration] for ends in self.ends.values())
            for stage in self.graph.stages:
                changes += [(self.starts[stage.name][iteration], stage.size), (end, -stage.size)]
        size = peak = 0
        for _, change in sorted(changes):
            size += change
            peak = max(peak, size)
        return peak


def whole_times(graph: StageGraph) -> tuple[dict[str, int], int]:
    """Return stage times as integers, and the number of their units per unit of the graph."""
    scale = lcm(*(time.denominator for time in graph.times.values()))
    return {name: int(time * scale) for name, time in graph.times.items()}, scale


def simulate(graph: StageGraph, iterations: int) -> Simulation:
    """Simulate iterations: every stage starts as soon as it is its resource's turn and its dependencies have ended.

    Raises:
        GraphError: fewer than one iteration, or no remaining stage can start. The latter needs an unchecked graph:
            stages that wait for each other form a cycle of distance 0, which `StageGraph` refuses.
    """
    if iterations < 1:
        raise GraphError(f"a simulation needs at least 1 iteration, not {iterations}")
    times, scale = whole_times(graph)
    first = {stage.name: number * iterations for number, stage in enumerate(graph.stages)}
    orders = [
        [first[stage.name] + iteration for iteration in range(iterations) for stage in stages]
        for stages in graph.by_resource.values()
    ]
    waits: list[list[int]] = [[] for _ in range(iterations * len(graph.stages))]
    for each in graph.dependencies:
        before, after = first[each.before], first[each.after]
        for iteration in range(iterations):
            if (other := each.target(iteration, iterations)) is not None:
                waits[after + iteration].append(before + other)
    durations = [times[stage.name] for stage in graph.stages for _ in range(iterations)]

    def name_of(task: int) -> str:
        return f"{graph.stages[task // iterations].name!r} of iteration {task % iterations}"

    starts, ends = (
        {
            name: tuple(Fraction(moment, scale) for moment in moments[task : task + iterations])
            for name, task in first.items()
        }
        for moments in run_in_order(orders, waits, durations, name_of)
    )
    return Simulation(graph, iterations, starts, ends)
