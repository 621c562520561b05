"""The choice of a plan: the fastest one in simulation, among those that the planners find."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from math import inf, log
from typing import Any

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.bound import Bound, lower_bound
from mspipe_triton.pipeline.graphpipe.decompose import REWRITES, decompose
from mspipe_triton.pipeline.graphpipe.piper import Piper
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import GROUPS, Rhythm
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders
from mspipe_triton.pipeline.graphpipe.shortfall import shortfall
from mspipe_triton.pipeline.graphpipe.timeline import makespan, simulate_plan

PIPER_STAGES = 20_000


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

    def consider(self, plan: PipelinePlan) -> bool:
        """Take a plan if it is faster, or as fast and less deep; return whether it was taken."""
        seconds = makespan(plan)
        better = self.best is None or (seconds, plan.depth) < (self.seconds, self.best.depth)
        if better:
            self.best, self.seconds = plan, seconds
        return better

    def to_json(self) -> dict[str, Any]:
        """Return the plan and the search for it as JSON; times are in seconds, memory is in bytes."""
        plan = self.plan
        names, idle = [stage.name for stage in plan.stages], simulate_plan(plan).bubble.values()
        return {
            "depth": plan.depth,
            "time_per_sample": self.time_per_sample,
            "bottleneck": plan.bottleneck,
            "bubble": sum(idle) / len(idle),
            "in_flight": {stage.name: stage.in_flight for stage in plan.stages},
            "stages": [
                {
                    "name": stage.name,
                    "operators": list(plan.problem.graph.names(stage.operators)),
                    "devices": list(stage.devices),
                    "micro_batch": stage.rhythm.micro_batch,
                    "group": stage.rhythm.group,
                    "after": [names[each] for each in stage.after],
                    "joins": [names[each] for each in stage.joins],
                    "memory": plan.memory(stage),
                }
                for stage in plan.stages
            ],
            "search_seconds": self.search_seconds,
            "states": self.states,
        }

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a block as time of the search."""
        start = time.perf_counter()
        yield
        self.search_seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Planned:
    """The result of planning a model.

    Args:
        problem: the problem.
        graph: the fastest plan whose stages form a DAG.
        sequential: the fastest chain of stages; None if no chain fits into the memory.
        bound: no plan is faster, among those whose stages have one micro-batch unless they may be mixed.
    """

    problem: Problem
    graph: Choice
    sequential: Choice | None
    bound: Bound

    @property
    def speedup(self) -> float | None:
        """The time of the chain over that of the plan; None without a chain."""
        return None if self.sequential is None else self.sequential.seconds / self.graph.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON, with the best chain as "sequential", and the lower bound in seconds per sample."""
        problem, bound = self.problem, self.bound
        return {
            "model": problem.graph.name,
            "batch": problem.batch,
            "devices": problem.cluster.devices,
            "memory": problem.cluster.memory,
            **self.graph.to_json(),
            "lower_bound": bound.seconds,
            "bounds": {"load": bound.load, "path": bound.path, "memory": bound.memory},
            "speedup": self.speedup,
            "sequential": None if self.sequential is None else self.sequential.to_json(),
        }


def plan_model(
    problem: Problem, schedule: str = "1f1b", micro_batch: int | None = None, mixed: bool = False
) -> Planned:
    """Find the fastest plan whose stages form a DAG, and the fastest chain of stages.

    For every micro-batch, planners find the partitions of least bottleneck, and less deep ones of larger bottleneck; a
    simulation decides among them. The DAG is never slower than the chain: partitions into chains are also tried with
    only the dependencies that they need.

    Args:
        problem: the problem.
        schedule: 1f1b, or kfkb for groups of 1, 2 and 4 passes.
        micro_batch: samples of every pass; None: the fastest divisor of the mini-batch.
        mixed: let stages differ in their micro-batch, where that is faster.

    Raises:
        ConfigError: an unknown schedule, or a micro-batch that does not divide the mini-batch.
        GraphError: no plan fits into the memory of the devices.
    """
    if schedule not in GROUPS:
        raise ConfigError(f"schedule must be {' or '.join(GROUPS)}, not {schedule!r}")
    rhythms = _rhythms(problem.batch, GROUPS[schedule], micro_batch)
    bound = _bound(problem, {rhythm.micro_batch for rhythm in rhythms}, mixed)
    sequential, graph = Choice(), Choice()
    with sequential.timed():
        chains = _explore(_chain_planners(problem), rhythms, sequential)
        if mixed and sequential.best is not None:
            _mix(sequential, chain=True)
    with graph.timed():
        trees = dict.fromkeys(decompose(problem.graph, rewrite).tree for rewrite in REWRITES)
        _explore([SeriesParallel(problem, tree) for tree in trees], rhythms, graph)
        for parts in chains if sequential.best is None else (*chains, _parts(sequential.best)):
            graph.consider(assemble(problem, parts))
        if graph.best is None:
            smallest = min(rhythms, key=lambda rhythm: rhythm.unit)
            raise GraphError(shortfall(problem, next(iter(trees)), smallest))
        if mixed:
            _mix(graph, chain=False)
    return Planned(problem, graph, None if sequential.best is None else sequential, bound)


def _bound(problem: Problem, sizes: Collection[int], mixed: bool) -> Bound:
    """Return the lower bound of plans whose stages may differ in their micro-batch, or have all the same one."""
    joint = lower_bound(problem, sizes)
    if mixed:
        return joint
    single = []
    for size in sizes:
        with suppress(GraphError):  # too little memory for this micro-batch
            single.append(lower_bound(problem, [size]))
    return min(single, key=lambda bound: bound.seconds, default=joint)


def _chain_planners(problem: Problem) -> list[Planner]:
    """Return PipeDream's planner on each linear order, and Piper's if the model is small enough for it."""
    orders = dict.fromkeys(linear_orders(problem.graph).values())
    planners: list[Planner] = [Sequential(problem, order) for order in orders]
    with suppress(GraphError):
        planners.append(Piper(problem, limit_stages=PIPER_STAGES))
    return planners


def _rhythms(batch: int, groups: Sequence[int], micro_batch: int | None) -> list[Rhythm]:
    """Return the rhythms that divide a mini-batch, those of medium size first."""
    if micro_batch is not None and (micro_batch < 1 or batch % micro_batch):
        raise ConfigError(f"micro-batch must divide the batch of {batch}, not {micro_batch}")
    sizes = [micro_batch] if micro_batch else [each for each in range(1, batch + 1) if not batch % each]
    sizes.sort(key=lambda size: abs(log(size) - log(batch) / 2))
    return [Rhythm(size, group) for group in groups for size in sizes if size * group <= batch]


def _explore(planners: Sequence[Planner], rhythms: Iterable[Rhythm], choice: Choice) -> list[tuple[Part, ...]]:
    """Consider each planner's plans of least bottleneck, and less deep ones of larger bottleneck.

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

    def run(self) -> None:
        """Find the least limit with a plan, and then every larger one from which on a plan is less deep."""
        first = bisect_left(range(self.end()), True, key=self.fits)
        last = self.end() - 1
        pairs = [(first, last)] if first < last and self.fits(last) else []
        while pairs:
            low, high = pairs.pop()
            middle = (low + high) // 2
            if low < middle < self.end() and self.depths[low] > self.depths[high] and self.fits(middle):
                pairs += [(low, middle), (middle, high)]

    def end(self) -> int:
        """Return how many limits allow a faster plan: a mini-batch takes at least its samples times the limit."""
        return bisect_left(self.limits, self.choice.seconds / self.planner.problem.batch)

    def fits(self, index: int) -> bool:
        """Consider the plan within a limit, and return whether there is one."""
        parts = self.planner.parts(self.rhythm, self.limits[index])
        if parts is None:
            return False
        plan = assemble(self.planner.problem, parts, self.planner.chain)
        self.depths[index] = plan.depth
        if parts not in self.partitions:
            self.partitions[parts] = None
            self.choice.consider(plan)
        return True


def _mix(choice: Choice, chain: bool) -> None:
    """Change the micro-batch of a stage, or of all up to it or from it on, as long as that makes the plan faster."""
    problem = choice.plan.problem
    sizes = [each for each in range(1, problem.batch + 1) if not problem.batch % each]
    improved = True
    while improved:
        improved = False
        for index, forward in product(range(len(choice.plan.stages)), (1, -1)):
            for first, last in ((index, index + 1), (0, index + 1), (index, len(choice.plan.stages))):
                parts = list(_parts(choice.plan))
                for place in range(first, last):
                    rhythm = parts[place].rhythm
                    step = max(0, sizes.index(rhythm.micro_batch) + forward)
                    size = sizes[min(step, len(sizes) - 1)]
                    parts[place] = parts[place]._replace(rhythm=Rhythm(size, rhythm.group))
                with suppress(GraphError):  # too little memory
                    improved |= choice.consider(assemble(problem, parts, chain))


def _parts(plan: PipelinePlan) -> tuple[Part, ...]:
    """Return the partition of a plan."""
    placed = plan.problem.graph.placed
    return tuple(Part(each.operators & placed, len(each.devices), each.rhythm) for each in plan.stages)
