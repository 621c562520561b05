"""Threads of a run: the setting that fixes their number, notes on it, and the contention that changes it."""

from __future__ import annotations

from collections.abc import Callable

from mspipe_triton.config import TrainConfig
from mspipe_triton.errors import ConfigError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.machine import Usage, cores, cpus, local_ranks, thread_variable, usage
from mspipe_triton.pipeline.contention import Contention
from mspipe_triton.pipeline.schedules import RESIDENT

_PER_CORE = 4  # threads, at most: each waits for all others


def fixed_by(train: TrainConfig, device: str) -> str | None:
    """Return the setting that fixes the number of threads, as a user would type it; None if a run may change it.

    On a GPU nothing changes it either, and the result is "".
    """
    if device != "cpu":
        return ""
    if train.deterministic:
        return "--deterministic"
    return f"--threads {train.threads}" if train.threads else thread_variable()


def contention_of(session: Session, note: Callable[[str], object], since: Usage | None = None) -> Contention:
    """Return the contention of a session's run, which has used no thread yet; see `Contention`."""
    threads, beside = threads_of(session.settings)
    fixed = fixed_by(session.config.train, session.device.type)
    return Contention(threads, len(cpus()), usage, beside, local_ranks(), fixed, since, note)


def threads_of(settings: RunSettings) -> tuple[int, int]:
    """Return the number of threads that wait for each other under settings, and that of others beside them."""
    if settings.schedule in ("serial", RESIDENT):
        return max(settings.threads, settings.host_threads), 0
    return settings.threads, settings.host_threads


def check_threads(train: TrainConfig) -> None:
    """Refuse a number of threads with which a run would mostly wait for cores.

    Raises:
        ConfigError: it is far above the cores that this process may use.
    """
    if train.threads > _PER_CORE * cores():
        raise ConfigError(
            f"--threads {train.threads} is far above the {_counted_cores()} that this process may use; use at most "
            f"{cores()}, or omit it"
        )


def thread_notes(train: TrainConfig) -> list[str]:
    """Say that a run has more threads than cores, if the user has set such a number."""
    if train.threads <= cores():
        return []
    return [
        f"--threads {train.threads} is more than the {_counted_cores()} that this process may use, so threads wait "
        "for cores; omit it to use as many as there are."
    ]


def _counted_cores() -> str:
    """Return the number of cores that this process may use, in words."""
    return "1 core" if cores() == 1 else f"{cores()} cores"
