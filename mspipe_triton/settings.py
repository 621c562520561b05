"""The shipped settings of a run on this machine, and what a tuning profile puts in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from mspipe_triton.config import RunConfig, RunSettings, TrainConfig
from mspipe_triton.kernels.runtime.fusion import enable_fusion
from mspipe_triton.pipeline.schedules import DEPTH, RESIDENT


@dataclass(frozen=True)
class Tuned:
    """What a tuning profile gives a run.

    Args:
        settings: found the fastest.
        stage_seconds: of every stage under them, to plan with until the run has measured its own; empty: unknown.
        profile: which one it was, for the run's records.
        seconds: what tuning has cost right before the run.
    """

    settings: RunSettings
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    profile: str = ""
    seconds: float = 0.0

    def to_json(self, measured: Mapping[str, float]) -> dict[str, object]:
        """As `result.json` holds it: the profile's stage times, and by what share of them the measured ones are off."""
        known = dict(self.stage_seconds)
        off = {name: measured[name] / seconds - 1 for name, seconds in known.items() if name in measured}
        return {"profile": self.profile, "seconds": self.seconds, "stage_seconds": known, "stage_seconds_off": off}


def run_settings(config: RunConfig) -> RunSettings:
    """How a run is carried out: by its own settings, or the shipped ones."""
    train, settings = config.train, config.settings
    if settings is None:
        return default_settings(train)
    if settings.schedule != "auto":
        return settings
    schedule = choose_schedule(train.schedule, train.device, settings.threads, train.placement)
    return replace(settings, schedule=schedule)


def default_settings(train: TrainConfig) -> RunSettings:
    """The shipped settings, as this machine and the run's own flags have them."""
    threads = train.threads or torch.get_num_threads()
    schedule = choose_schedule(train.schedule, train.device, threads, train.placement)
    host = threads if schedule in ("serial", RESIDENT) else 1
    return RunSettings(schedule, DEPTH, threads, host, fused=compiler() is not None)


def choose_schedule(schedule: str, device: str, threads: int, placement: str = "host") -> str:
    """What `auto` stands for: `resident` where everything lies on the device, else `exact`, unless training takes every
    core of the CPU, which leaves nothing to overlap on.

    Then the threads that sample and fetch hold training up by more than they spare it (docs/pipeline.md).
    """
    if schedule != "auto":
        return schedule
    if placement == "device":
        return RESIDENT
    return "exact" if device == "cuda" or threads < cores() else "serial"


def cores() -> int:
    """Logical CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler() -> str | None:
    """The C++ compiler that fusion would use, or None."""
    return shutil.which(os.environ.get("CXX") or "g++")


@contextmanager
def process_settings(config: RunConfig) -> Iterator[None]:
    """Threads, determinism, fusion and a GPU's products for the length of a run, put back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products = torch.get_float32_matmul_precision()
    settings = run_settings(config)
    torch.set_num_threads(settings.threads)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, a GPU's products are refused
    torch.use_deterministic_algorithms(config.train.deterministic or deterministic)
    enable_fusion(settings.fused and compiler() is not None)
    if config.train.device == "cuda" and config.model.precision != "full":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(products)
        enable_fusion(False)
