"""Planning of a model: the fastest plan whose stages form a DAG, the fastest chain, and a bound on both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log
from typing import Any

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.bound import Bound, lower_bound
from mspipe_triton.pipeline.graphpipe.choice import Choice, explore, mix
from mspipe_triton.pipeline.graphpipe.decompose import REWRITES, decompose
from mspipe_triton.pipeline.graphpipe.piper import Piper
from mspipe_triton.pipeline.graphpipe.plan import assemble
from mspipe_triton.pipeline.graphpipe.plan_file import problem_json, size_json
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import GROUPS, Rhythm, divisors
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders
from mspipe_triton.pipeline.graphpipe.shortfall import shortfall

PIPER_STAGES = 20_000  # the most candidate stages for which Piper's planner is tried
PASSES = 1024  # of a stage per mini-batch, unless the user sets the micro-batch; with more, bubbles hardly matter
MOST_PASSES = 65_536


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
        """The time of the chain over that of the plan; None without a chain, 1 if neither takes time."""
        if self.sequential is None:
            return None
        return self.sequential.seconds / self.graph.seconds if self.graph.seconds else 1.0

    def over_bound(self, choice: Choice) -> float:
        """Return the time of a plan over the lower bound; 1 if it takes none."""
        return choice.time_per_sample / self.bound.seconds if self.bound.seconds else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON, which `read_plan` reads.

        It has the best chain as "sequential", the lower bound in seconds per sample, and the costs in "problem".
        """
        problem, bound = self.problem, self.bound
        return {
            "model": problem.graph.name,
            "batch": problem.batch,
            "devices": problem.cluster.devices,
            "memory": size_json(problem.cluster.memory),
            **self.graph.to_json(),
            "lower_bound": bound.seconds,
            "bounds": {"load": bound.load, "path": bound.path, "memory": bound.memory},
            "speedup": self.speedup,
            "sequential": None if self.sequential is None else self.sequential.to_json(),
            "problem": problem_json(problem),
        }


def plan_model(
    problem: Problem, schedule: str = "1f1b", micro_batch: int | None = None, mixed: bool = False
) -> Planned:
    """Find the fastest plan whose stages form a DAG, and the fastest chain of stages.

    For every micro-batch, planners find the partitions of least bottleneck, and less deep ones of larger bottleneck; a
    simulation decides among them. Partitions into chains are also tried with only the dependencies that they need, and
    the fastest chain as it is, so the plan is never slower.

    Args:
        problem: the problem.
        schedule: 1f1b, or kfkb for groups of 1, 2 and 4 passes.
        micro_batch: samples of every pass; None: the fastest divisor of the mini-batch with at most `PASSES` passes.
        mixed: let stages differ in their micro-batch, where that is faster.

    Raises:
        ConfigError: an unknown schedule, or a micro-batch that does not divide the mini-batch, or into too many passes.
        GraphError: no plan fits into the memory of the devices.
    """
    if schedule not in GROUPS:
        raise ConfigError(f"schedule must be {' or '.join(GROUPS)}, not {schedule!r}")
    rhythms = _rhythms(problem.batch, GROUPS[schedule], micro_batch)
    bound = _bound(problem, {rhythm.micro_batch for rhythm in rhythms}, mixed)
    sequential, graph = Choice(), Choice()
    with sequential.timed():
        chains = explore(_chain_planners(problem), rhythms, sequential)
        if mixed and sequential.best is not None:
            mix(sequential, chain=True)
    with graph.timed():
        trees = dict.fromkeys(decompose(problem.graph, rewrite).tree for rewrite in REWRITES)
        explore([SeriesParallel(problem, tree) for tree in trees], rhythms, graph)
        for parts in chains:
            graph.consider(assemble(problem, parts))
        if sequential.best is not None:  # freed, it holds fewer micro-batches, and transfers can make its stages wait
            graph.consider(assemble(problem, sequential.best.parts))
            graph.consider(sequential.best)
        if graph.best is None:
            smallest = min(rhythms, key=lambda rhythm: rhythm.unit)
            raise GraphError(shortfall(problem, next(iter(trees)), smallest))
        if mixed:
            mix(graph, chain=False)
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
    if micro_batch is None:
        sizes = [size for size in divisors(batch) if batch // size <= PASSES]
    elif micro_batch < 1 or batch % micro_batch:
        raise ConfigError(f"micro-batch must divide the batch of {batch}, not {micro_batch}")
    elif batch // micro_batch > MOST_PASSES:
        raise ConfigError(
            f"micro-batch {micro_batch} cuts the batch of {batch} into {batch // micro_batch:,} passes; use a larger "
            f"one, for at most {MOST_PASSES:,} passes"
        )
    else:
        sizes = [micro_batch]
    sizes.sort(key=lambda size: abs(log(size) - log(batch) / 2))
    return [Rhythm(size, group) for group in groups for size in sizes if size * group <= batch]
