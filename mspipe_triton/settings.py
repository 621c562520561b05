"""Settings of a run on this machine: its own or the shipped ones, in force in the process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from mspipe_triton.config import RunConfig, TrainConfig
from mspipe_triton.execution import RunSettings
from mspipe_triton.kernels.runtime.fusion import enable_fusion
from mspipe_triton.machine import cores, thread_variable
from mspipe_triton.pipeline.schedules import DEPTH, RESIDENT


def run_settings(config: RunConfig) -> RunSettings:
    """Execution settings of a run: its own, or the shipped ones."""
    train, settings = config.train, config.settings
    if settings is None:
        return default_settings(train)
    if settings.schedule != "auto":
        return settings
    schedule = choose_schedule(train.schedule, train.device, settings.threads, train.placement)
    return replace(settings, schedule=schedule)


def default_settings(train: TrainConfig) -> RunSettings:
    """Shipped settings, fitted to this machine and the run's flags.

    The number of threads is the user's, if a flag or the environment has one; else at most that of the cores that this
    process may use, of which torch counts the machine's.
    """
    threads = torch.get_num_threads()
    threads = train.threads or (threads if thread_variable() else min(threads, cores()))
    schedule = choose_schedule(train.schedule, train.device, threads, train.placement)
    host = threads if schedule in ("serial", RESIDENT) else 1
    return RunSettings(schedule, DEPTH, threads, host, fused=compiler() is not None)


def choose_schedule(schedule: str, device: str, threads: int, placement: str = "host") -> str:
    """Resolve `auto`: `resident` if all tables are on the device, `serial` if training uses all CPU cores, or `exact`.

    With all cores busy, the threads that sample and fetch slow training down by more than they save
    (docs/measured/schedules.md).
    """
    if schedule != "auto":
        return schedule
    if placement == "device":
        return RESIDENT
    return "exact" if device == "cuda" or threads < cores() else "serial"


def compiler() -> str | None:
    """Path of the C++ compiler that fusion would use, or None."""
    return shutil.which(os.environ.get("CXX") or "g++")


@contextmanager
def process_settings(config: RunConfig) -> Iterator[None]:
    """Set threads, determinism, fusion and matrix product precision for a run, and restore them afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    settings = run_settings(config)
    torch.set_num_threads(settings.threads)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses cuBLAS products without it
    _set_determinism(config.train.deterministic or deterministic)
    enable_fusion(settings.fused and compiler() is not None)
    if config.train.device == "cuda" and config.model.precision != "full":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _set_determinism(deterministic)
        torch.set_float32_matmul_precision(precision)
        enable_fusion(False)


def _set_determinism(deterministic: bool) -> None:
    """Set torch's determinism if it is another: the call imports torch's compiler, which takes most of a second."""
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
