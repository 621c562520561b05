"""The search space of a run's settings, and the settings at its points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mspipe_triton.config import TrainConfig
from mspipe_triton.execution import WITHOUT_STALENESS, RunSettings
from mspipe_triton.tuning.study.space import Point, Space, Value


def run_space(default: RunSettings, train: TrainConfig, device: str, cores: int, layers: int = 1) -> Space:
    """Return the search space of a run: fields of `RunSettings` with several choices that compute the same function.

    A resident run only has the choice of how an iteration is launched, or of threads and fusion on the CPU.

    The space leaves out what the run's flags fix: the schedule, and with `threads` the threads of the compute stages,
    which then limit the threads of the other stages.

    Args:
        default: the shipped settings of this run.
        device: "cpu" or "cuda".
        cores: logical CPUs that the run may use.
        layers: of the model's embedding; a model with none reads no neighbours.
    """
    free = train.schedule == "auto"
    choices: dict[str, tuple[Value, ...]] = {
        "threads": (default.threads,) if train.threads else _thread_counts(cores, default.threads),
        "host_threads": _thread_counts(train.threads or cores, default.host_threads),
        "schedule": WITHOUT_STALENESS if free else (default.schedule,),
        "prefetch": tuple(sorted({1, 2, 3, 4, 6, default.prefetch})) if free or default.schedule != "serial" else (),
        "deduplicate": ("all", "roots") if layers and train.mitigation == "none" else (),
        "fused": (True, False) if default.fused else (),
        "features": ("host", "device") if device == "cuda" else (),
        "gather": ("copy", "kernel") if device == "cuda" else (),
    }
    if default.resident:
        graph: dict[str, tuple[Value, ...]] = {"captured": (True, False), "branch": (True, False)}
        choices = graph if device == "cuda" else {name: choices[name] for name in ("threads", "fused")}
        free = False
    choices = {name: values for name, values in choices.items() if len(values) > 1}
    applies = {"prefetch": ("schedule", ("prefetch", "exact"))} if free else {}
    point: Point = {name: getattr(default, name) for name in choices}
    if free and default.schedule == "serial":
        del point["prefetch"]
    return Space(choices, point, applies)


def settings_at(default: RunSettings, point: Mapping[str, Value]) -> RunSettings:
    """Return the settings at a point of `run_space`; fields that it leaves out keep their default."""
    fields: dict[str, object] = dict(point)
    return replace(default, **fields)  # type: ignore[arg-type]  # the space's choices have the fields' types


def _thread_counts(limit: int, default: int) -> tuple[int, ...]:
    return tuple(sorted({1 << i for i in range(limit.bit_length()) if 1 << i <= limit} | {limit, default}))
