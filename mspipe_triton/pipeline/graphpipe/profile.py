"""Costs that a run has measured: an operator graph with them, and the file that takes them to the next planning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

from mspipe_triton.errors import ConfigError
from mspipe_triton.files import atomic_file
from mspipe_triton.pipeline.graphpipe.json_value import JsonValue, read_json
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.plan_file import duration_json, read_duration

FIX = "use a profile that a run of a plan for this model wrote"


def measured_costs(
    plan: PipelinePlan,
    passes: Sequence[tuple[float, float]],
    operators: Mapping[str, tuple[float, float]] | None = None,
) -> OperatorGraph:
    """Return the model with the times that its stages took.

    `Problem.seconds` of a stage becomes the measured time, at its micro-batch and on its devices: the times of all its
    operators are multiplied by one factor, one for forward and one for backward passes. Before that, each operator
    takes its own measured time, so that these give the proportions within the stage; without them, the operators keep
    their planned proportions. The fixed time of an operator and its time per sample always do.

    Where a pass should take no time, but took some, there is nothing to scale. Nobody knows then which operators it
    went to, nor how it grows with the samples: it becomes a fixed time, in equal shares, of the stage's operators that
    cost anything, or of all that need a device if none does. Costless joins stay so, and need no device.

    Args:
        plan: the plan of the run.
        passes: of every stage, the seconds of a forward and of a backward pass over one micro-batch.
        operators: the same of operators that run alone, by name. They count in stages all of whose operators are there;
            those that cost nothing need not be.

    Raises:
        ConfigError: a pair for each stage is not there, or a time is negative or not finite.
    """
    if len(passes) != len(plan.stages):
        raise ConfigError(f"the plan has {len(plan.stages)} stages, and times were measured of {len(passes)}; give all")
    graph, alone = plan.problem.graph, operators or {}
    for stage, pair in zip(plan.stages, passes, strict=True):
        _check(stage.name, pair)
    for name, pair in alone.items():
        _check(f"operator {name!r}", pair)
    result = list(graph.operators)
    for stage, measured in zip(plan.stages, passes, strict=True):
        placed = list(members(stage.operators & graph.placed))
        sharing = [index for index in placed if not graph.operators[index].costless] or placed
        share = (stage.rhythm.micro_batch, len(stage.devices))
        problem = plan.problem
        if all(result[index].name in alone for index in sharing):
            for index in sharing:
                each = result[index]
                result[index] = _scaled(each, problem.seconds(1 << index, *share), alone[each.name], 1)
            problem = replace(problem, graph=replace(graph, operators=tuple(result)))
        planned = problem.seconds(stage.operators, *share)
        for index in sharing:
            result[index] = _scaled(result[index], planned, measured, len(sharing))
    return replace(graph, operators=tuple(result))


def write_profile(path: Path, graph: OperatorGraph, bandwidth: float | None) -> None:
    """Write measured costs as a whole or not at all.

    Args:
        path: the file.
        graph: the model with its measured times.
        bandwidth: bytes per second of a link; None if no transfer was measured.

    Raises:
        ConfigError: the bandwidth is not a finite number above 0.
    """
    if bandwidth is not None and not (isfinite(bandwidth) and bandwidth > 0):
        raise ConfigError(f"bandwidth must be above 0 and finite, not {bandwidth:g}; leave it out if none was measured")
    times = {
        each.name: {"forward": duration_json(each.forward), "backward": duration_json(each.backward)}
        for each in graph.operators
    }
    record = {"model": graph.name, "bandwidth": bandwidth, "times": times}
    with atomic_file(path) as temporary:
        temporary.write_text(f"{json.dumps(record, indent=1)}\n", encoding="utf-8")


def read_profile(path: Path, graph: OperatorGraph) -> tuple[OperatorGraph, float | None]:
    """Read measured costs for a model.

    Args:
        path: the file.
        graph: the model; its times are replaced.

    Returns:
        The model with the measured times, and the bytes per second of a link, None if no transfer was measured.

    Raises:
        InputError: the file cannot be read, holds something else, or is of a model with other operators.
    """
    file = read_json(path, "a profile", FIX)
    if "times" not in file.members():
        raise file.error('has no "times", so it is no profile')
    times = file["times"].members()
    names = dict.fromkeys(each.name for each in graph.operators)
    different = next((name for name in (*names, *times) if (name in names) != (name in times)), None)
    if different is not None:
        where = f"of {graph.name}, not in it" if different in names else f"in it, not of {graph.name}"
        raise file.error(f"is of another model, {file['model'].text()}: operator {different!r} is {where}")
    operators = tuple(_with_times(each, times[each.name]) for each in graph.operators)
    bandwidth: float | None = file["bandwidth"].optional(JsonValue.number)
    if bandwidth == 0:
        raise file["bandwidth"].error("must be above 0, not 0")
    return replace(graph, operators=operators), bandwidth


def _check(name: str, passes: tuple[float, float]) -> None:
    """Refuse times that no pass takes."""
    for seconds in passes:
        if not (isfinite(seconds) and seconds >= 0):
            raise ConfigError(f"{name}: a pass cannot take {seconds} seconds; measure it again")


def _scaled(
    operator: Operator, planned: tuple[float, float], measured: tuple[float, float], operators: int
) -> Operator:
    """Return one of several operators whose passes take the measured seconds together, instead of the planned ones."""
    return replace(
        operator,
        forward=_measured(operator.forward, planned[0], measured[0], operators),
        backward=_measured(operator.backward, planned[1], measured[1], operators),
    )


def _measured(duration: Duration, planned: float, measured: float, operators: int) -> Duration:
    """Return a duration of one of several operators that take `measured` seconds instead of the planned ones."""
    factor = measured / planned if planned else None
    if factor is None or not isfinite(factor):
        return Duration(measured / operators)
    return Duration(duration.fixed * factor, duration.per_sample * factor)


def _with_times(operator: Operator, value: JsonValue) -> Operator:
    """Return an operator with the times of its entry in a profile."""
    return replace(operator, forward=read_duration(value["forward"]), backward=read_duration(value["backward"]))
