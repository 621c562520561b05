"""Costs that a run has measured: an operator graph with them, and the file that takes them to the next planning."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def measured_costs(plan: PipelinePlan, passes: Sequence[tuple[float, float]]) -> OperatorGraph:
    """Return the model with the times that its stages took.

    A run measures stages, not operators. So all operators of a stage get the same factor, one for forward and one for
    backward passes, with which `Problem.seconds` of the stage is the measured time, at its micro-batch and on its
    devices. Within a stage the operators keep their planned proportions, and so do the fixed time of a pass and the
    time per sample.

    Where a pass should take no time, but took some, there is nothing to scale. Nobody knows then which operators it
    went to, nor how it grows with the samples: it becomes a fixed time, in equal shares, of the stage's operators that
    cost anything, or of all that need a device if none does. Costless joins stay so, and need no device.

    Args:
        plan: the plan of the run.
        passes: of every stage, the seconds of a forward and of a backward pass over one micro-batch.

    Raises:
        ConfigError: a pair for each stage is not there, or a time is negative or not finite.
    """
    if len(passes) != len(plan.stages):
        raise ConfigError(f"the plan has {len(plan.stages)} stages, and times were measured of {len(passes)}; give all")
    operators, graph = list(plan.problem.graph.operators), plan.problem.graph
    for stage, measured in zip(plan.stages, passes, strict=True):
        for seconds in measured:
            if not (isfinite(seconds) and seconds >= 0):
                raise ConfigError(f"{stage.name}: a pass cannot take {seconds} seconds; measure it again")
        planned = plan.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        placed = list(members(stage.operators & graph.placed))
        sharing = [index for index in placed if not graph.operators[index].costless] or placed
        for index in sharing:
            each = operators[index]
            operators[index] = replace(
                each,
                forward=_measured(each.forward, planned[0], measured[0], len(sharing)),
                backward=_measured(each.backward, planned[1], measured[1], len(sharing)),
            )
    return replace(graph, operators=tuple(operators))


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


def _measured(duration: Duration, planned: float, measured: float, operators: int) -> Duration:
    """Return a duration of a stage that takes `measured` seconds instead of the planned ones."""
    factor = measured / planned if planned else None
    if factor is None or not isfinite(factor):
        return Duration(measured / operators)
    return Duration(duration.fixed * factor, duration.per_sample * factor)


def _with_times(operator: Operator, value: JsonValue) -> Operator:
    """Return an operator with the times of its entry in a profile."""
    return replace(operator, forward=read_duration(value["forward"]), backward=read_duration(value["backward"]))
