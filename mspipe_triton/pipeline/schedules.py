"""Schedules of a memory-based iteration as stage graphs: their stages and dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from mspipe_triton.errors import GraphError, suggestion
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph, Time

SCHEDULES = ("serial", "prefetch", "mspipe", "fixed", "exact")
RESIDENT = "resident"  # one stage for the whole iteration, with nothing to schedule
STAGES = ("sample", "features", "memory", "patch", "train", "update")
SHARED = ("forward", "backward", "exchange")  # instead of train, if several ranks share each iteration
RESOURCES = {
    "sample": "sampler",
    "features": "copy_in",
    "memory": "copy_in",
    "patch": "compute",
    "train": "compute",
    "forward": "compute",
    "backward": "compute",
    "update": "copy_out",
    "iteration": "compute",
    "exchange": "network",
}
DEPTH = 3


def stage_names(schedule: str, shared: bool = False) -> tuple[str, ...]:
    """Return the stages of an iteration under a schedule; only `exact` has `patch`.

    Args:
        shared: whether several ranks share each iteration.
    """
    if schedule == RESIDENT:
        return ("iteration",)
    names = [name for name in STAGES if name != "patch" or schedule == "exact"]
    return tuple(part for name in names for part in (SHARED if shared and name == "train" else (name,)))


def schedule_graph(
    schedule: str,
    times: Mapping[str, Time],
    staleness: int = 0,
    resources: Mapping[str, str] = RESOURCES,
    depth: int = DEPTH,
    sizes: Mapping[str, int] | None = None,
) -> StageGraph:
    """Build the stage graph of a schedule.

    * `serial`: an iteration starts when the previous one has ended.
    * `prefetch`: the memory fetch waits for the previous update; everything else overlaps.
    * `mspipe`, `exact`: the memory fetch waits for the update of 1 + `staleness` iterations before.
    * `fixed`: likewise, and the update after that one waits for the fetch, which thus misses exactly `staleness`
      updates.
    * `resident`: one stage, the iteration.

    If ranks share each iteration, they exchange what its update needs while the backward pass runs, and under `exact`
    the patch waits for the exchange of the previous iteration.

    Args:
        times: time of every stage of the schedule; of `exchange` only if ranks share each iteration.
        staleness: the bound s of mspipe, fixed and exact; serial and prefetch have 0.
        resources: the resource that each stage occupies.
        depth: finished iterations that may wait between two stages on different resources.
        sizes: bytes of each stage's output.

    Raises:
        GraphError: an unknown schedule, a stage without time or resource, a negative number, or a graph that
            `StageGraph` refuses.
    """
    if schedule not in (*SCHEDULES, RESIDENT):
        raise GraphError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}{suggestion(schedule, SCHEDULES)}")
    shared = any(name in times for name in SHARED)
    names = stage_names(schedule, shared)
    if shared and "train" in times:
        part = next(name for name in SHARED if name in times)
        raise GraphError(
            f"stages train and {part} exclude each other: several ranks have {', '.join(SHARED)} instead of train"
        )
    unknown = [name for name in times if name not in names]
    if unknown:
        hint = suggestion(unknown[0], names)
        raise GraphError(f"schedule {schedule} has no stage {unknown[0]!r}; it has {', '.join(names)}{hint}")
    missing = [name for name in names if name not in times]
    if missing:
        raise GraphError(f"schedule {schedule} needs a time for {', '.join(missing)}, as in {missing[0]}=2")
    if staleness < 0:
        raise GraphError(f"staleness must be at least 0, not {staleness}")
    if depth < 0:
        raise GraphError(f"depth must be at least 0, not {depth}")
    for name in names:
        if name not in resources:
            raise GraphError(f"stage {name!r} has no resource; resources name {', '.join(resources)}")
    stages = tuple(Stage(name, resources[name], times[name], (sizes or {}).get(name, 0)) for name in names)
    chain = list(pairwise(names))
    if schedule == RESIDENT:
        return StageGraph(stages, ())
    if schedule == "serial":
        dependencies = [Dependency(before, after) for before, after in chain]
        return StageGraph(stages, (*dependencies, Dependency("update", "sample", 1)))
    if shared:
        chain = [pair for pair in chain if pair != ("backward", "exchange")]
        chain += [("forward", "exchange"), ("backward", "update")]
    dependencies = [Dependency(before, after) for before, after in chain]
    bound = 0 if schedule == "prefetch" else staleness
    dependencies.append(Dependency("update", "memory", 1 + bound))
    if schedule == "fixed":
        dependencies.append(Dependency("memory", "update", -bound))
    if shared and schedule == "exact":
        dependencies.append(Dependency("exchange", "patch", 1))
    for before, after in chain:
        if resources[before] != resources[after]:
            # A full queue holds `depth` iterations, besides the one that the next stage works on, and the fetches that
            # run `staleness` iterations ahead of the updates.
            dependencies.append(Dependency(after, before, 1 + depth + bound))
    return StageGraph(stages, tuple(dependencies))
