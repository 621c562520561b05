"""Units and phases of the GPU scripts: a unit fails alone; a phase runs its units in parallel within a time limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.setup import Row, Rows

NO_LIMIT = float("inf")  # seconds of a unit or phase that is never cut off


@dataclass(frozen=True)
class Unit:
    """A part of a report that fails alone.

    Args:
        part: its kind, as named by `--parts`.
        function: called with the setup and the case; yields the rows.
        checks: whether an exception is a failed check, rather than a missing figure.
        traced: whether it may use the profiler, which can slow later launches; a new process follows.
        seconds: time limit, at which it counts as hanging.
    """

    part: str
    function: Callable[..., Rows]
    case: tuple[Any, ...] = ()
    checks: bool = False
    traced: bool = False
    seconds: float = 60.0

    @property
    def title(self) -> str:
        """The part and the case, as text."""
        return f"{self.part} {', '.join(map(str, self.case))}".strip()

    def failure(self, message: str) -> Row:
        """Return the row of a unit that did not finish: a failed check or a missing figure."""
        row = {"case": self.title, "message": message}
        return ("correctness", {"check": self.part, **row, "passed": False}) if self.checks else ("failed", row)


@dataclass(frozen=True)
class Phase:
    """Units that run in parallel.

    Args:
        name: in the report and on the screen. units: in order.
        seconds: time limit, after which no unit starts; units still running at 1.5 times the limit are cut off.
        workers: processes, at most one per unit; 0: all cores but two.
        environment: environment variables of the processes.
    """

    name: str
    units: tuple[Unit, ...]
    seconds: float
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def processes(self) -> int:
        """Return the number of processes to start."""
        cores = os.cpu_count() or 1
        return max(1, min(self.workers or max(2, cores - 2), len(self.units)))
