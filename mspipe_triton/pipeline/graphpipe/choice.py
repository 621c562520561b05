"""The choice of the fastest plan among those that planners find: sweeps over their limits, and mixed micro-batches."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.plan_file import in_flight_json, stages_json
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm, divisors
from mspipe_triton.pipeline.graphpipe.timeline import makespan, simulate_plan

HALVINGS = 4  # of the range of limits, even where plans are equally deep


@dataclass
class Choice:
    """The fastest plan so far.

    Args:
        best: the plan; None before the first one.
        seconds: its makespan, the time of one mini-batch.
        search_seconds: time spent on finding it.
        states: states that the planners have visited.
    """

    best: PipelinePlan | None = None
    seconds: float = inf
    search_seconds: float = 0.0
    states: int = 0

    @property
    def plan(self) -> PipelinePlan:
        """The fastest plan.

        Raises:
            GraphError: there is none.
        """
        if self.best is None:
            raise GraphError("no plan has been considered")
        return self.best

    @property
    def time_per_sample(self) -> float:
        """Seconds per sample, with the time in which the pipeline fills and drains."""
        return self.seconds / self.plan.problem.batch

    @property
    def bubble(self) -> float:
        """Share of the time in which the devices of the cluster are idle, 0 to 1; those without a stage always are."""
        devices = self.plan.problem.cluster.devices
        return (sum(simulate_plan(self.plan).bubble.values()) + devices - self.plan.devices) / devices

    def consider(self, plan: PipelinePlan) -> float:
        """Take a plan if it is faster, or as fast and less deep; return its makespan."""
        seconds = makespan(plan)
        if self.best is None or (seconds, plan.depth) < (self.seconds, self.best.depth):
            self.best, self.seconds = plan, seconds
        return seconds

    def to_json(self) -> dict[str, Any]:
        """Return the plan and the search for it as JSON; times are in seconds, memory is in bytes."""
        plan = self.plan
        return {
            "depth": plan.depth,
            "time_per_sample": self.time_per_sample,
            "bottleneck": plan.bottleneck,
            "devices_used": plan.devices,
            "bubble": self.bubble,
            "in_flight": in_flight_json(plan),
            "stages": stages_json(plan),
            "search_seconds": self.search_seconds,
            "states": self.states,
        }

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a block as time of the search."""
        start = time.perf_counter()
        yield
        self.search_seconds += time.perf_counter() - start


def explore(planners: Sequence[Planner], rhythms: Iterable[Rhythm], choice: Choice) -> list[tuple[Part, ...]]:
    """Consider each planner's plans of least bottleneck, and less deep ones of larger bottleneck.

    Args:
        planners: the planners, of one problem.
        rhythms: all stages of a plan have one of them.
        choice: considers the plans.

    Returns:
        The partitions.
    """
    partitions: dict[tuple[Part, ...], None] = {}
    for rhythm, planner in product(rhythms, planners):
        _Sweep(planner, rhythm, choice, partitions).run()
    choice.states += sum(planner.states for planner in planners)
    return list(partitions)


class _Sweep:
    """The plans of one planner with one rhythm, over its limits of time per sample.

    Args:
        planner: the planner.
        rhythm: of all stages.
        choice: considers the plans.
        partitions: receives those that it has considered.
    """

    def __init__(
        self, planner: Planner, rhythm: Rhythm, choice: Choice, partitions: dict[tuple[Part, ...], None]
    ) -> None:
        self.planner, self.rhythm, self.choice, self.partitions = planner, rhythm, choice, partitions
        self.limits = planner.limits(rhythm)
        self.depths: dict[int, int] = {}
        self.seconds = inf

    def run(self) -> None:
        """Find the least limit with a plan, every larger one from which on a plan is less deep, and some between.

        Which limits are tried does not depend on other rhythms, so that trying more rhythms never leads to a slower
        plan; a rhythm is only left out if none of its plans can be faster.
        """
        rivals = self.below(self.choice.seconds)
        if not rivals or not self.planner.parts(self.rhythm, self.limits[rivals - 1]):
            return
        first = bisect_left(range(len(self.limits)), True, key=self.fits)
        last = self.below(self.seconds) - 1
        pairs = [(first, last, HALVINGS)] if first < last and self.fits(last) else []
        while pairs:
            low, high, halvings = pairs.pop()
            middle = (low + high) // 2
            promising = halvings > 0 or self.depths[low] > self.depths[high]
            if promising and low < middle < self.below(self.seconds) and self.fits(middle):
                pairs += [(low, middle, halvings - 1), (middle, high, halvings - 1)]

    def below(self, seconds: float) -> int:
        """Return how many limits allow a faster plan: a mini-batch takes at least its samples times the limit."""
        return bisect_left(self.limits, seconds / self.planner.problem.batch)

    def fits(self, index: int) -> bool:
        """Consider the plan within a limit, and return whether there is one."""
        parts = self.planner.parts(self.rhythm, self.limits[index])
        if parts is None:
            return False
        plan = assemble(self.planner.problem, parts, self.planner.chain)
        self.depths[index] = plan.depth
        if parts not in self.partitions:
            self.partitions[parts] = None
            self.seconds = min(self.seconds, self.choice.consider(plan))
        return True


def mix(choice: Choice, chain: bool) -> None:
    """Change the micro-batch of a stage, or of all up to it or from it on, as long as that makes the plan faster.

    Args:
        choice: starts with its plan, and considers the others.
        chain: the plans are chains.
    """
    problem = choice.plan.problem
    sizes = divisors(problem.batch)
    before = inf
    while choice.seconds < before:
        before = choice.seconds
        for index, forward in product(range(len(choice.plan.stages)), (1, -1)):
            for first, last in ((index, index + 1), (0, index + 1), (index, len(choice.plan.stages))):
                parts = list(choice.plan.parts)
                for place in range(first, last):
                    rhythm = parts[place].rhythm
                    step = max(0, sizes.index(rhythm.micro_batch) + forward)
                    size = sizes[min(step, len(sizes) - 1)]
                    parts[place] = parts[place]._replace(rhythm=Rhythm(size, rhythm.group))
                with suppress(GraphError):  # too little memory
                    choice.consider(assemble(problem, parts, chain))
