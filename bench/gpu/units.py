"""Pieces of the GPU scripts: a unit fails alone, a phase is the units that may run side by side within a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.setup import Row, Rows

NEVER = float("inf")  # the limit of what may take as long as it takes


@dataclass(frozen=True)
class Unit:
    """A piece of a report that fails alone.

    Args:
        part: its kind, which `--parts` names.
        function: called with the set-up and the case, gives the rows.
        checks: whether what it raises is a failed check, and not only a figure that is missing.
        traced: whether it may use the profiler, which can leave launches slower, so that a new process follows.
        seconds: after which it is taken to hang.
    """

    part: str
    function: Callable[..., Rows]
    case: tuple[Any, ...] = ()
    checks: bool = False
    traced: bool = False
    seconds: float = 60.0

    @property
    def title(self) -> str:
        """The part and the case in words."""
        return f"{self.part} {', '.join(map(str, self.case))}".strip()

    def failure(self, message: str) -> Row:
        """The row of a unit that did not come to its end: a failed check, or a figure that is missing."""
        row = {"case": self.title, "message": message}
        return ("correctness", {"check": self.part, **row, "passed": False}) if self.checks else ("failed", row)


@dataclass(frozen=True)
class Phase:
    """Units that run side by side.

    Args:
        name: in the report and on the screen. units: in their order.
        seconds: nothing begins later, and what still runs half of it later is cut off.
        workers: processes, at most one a unit; 0 takes one per core, but for two.
        environment: variables of its processes.
    """

    name: str
    units: tuple[Unit, ...]
    seconds: float
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def processes(self) -> int:
        """The number of processes to start."""
        cores = os.cpu_count() or 1
        return max(1, min(self.workers or max(2, cores - 2), len(self.units)))
