"""Contention: the cores that other processes use while a run computes, and the threads that the run uses meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mspipe_triton.machine import Usage

WINDOW = 0.2  # seconds between readings, at least: the system counts CPU time in hundredths of a second
PATIENCE = 2.0  # seconds that cores must be free before a run uses them again
LONGEST = 300.0  # the same, if they never are for long
UNSEEN = 10.0  # the same, at first, if only an attempt can tell
_COST = 200  # a reading may take half a hundredth of the time
_TOLERANCE = 0.35  # cores that others may use without a run using fewer threads
_SPINNING = 0.85  # use of its threads' cores below which a run has waited for cores
_SOON = 5.0  # seconds after which a return to more threads was not too early
_FELT = 1.0  # seconds of contention before a line says so
_LINES = 6


@dataclass(frozen=True)
class Change:
    """A change of a run's number of threads, and the cores that other processes used before it."""

    old: int
    new: int
    others: float

    def to_json(self) -> dict[str, Any]:
        """Return the change's entry in `metrics.jsonl`."""
        return {"event": "threads", "threads": self.new, "others": round(self.others, 2)}


@dataclass(frozen=True)
class _Use:
    """Cores in use in a window: by other processes, by those of them that do not yield, by the run's own children.

    Args:
        measured: the numbers are the system's, and not a guess.
    """

    others: float
    firm: float
    children: float
    measured: bool


class Contention:
    """The number of threads for a run on a machine that other processes use, too.

    Threads that wait for each other spin, so a run whose threads outnumber the free cores becomes many times as slow.
    It uses fewer as soon as a reading says so, and more again once the cores have been free for a while. This while
    doubles if they are then in use again at once, so several runs do not take turns for long.

    Where the system does not tell the use of its CPUs, threads that spin and get less CPU time than there are threads
    have waited for other processes. Then only an attempt with more threads tells whether the cores are free again.

    Args:
        threads: the number to use on a free machine.
        cores: of the machine, shared by `ranks` processes of this run.
        read: reads the CPU time used so far.
        beside: further threads of each rank, which hardly wait for the others.
        ranks: processes of this run on the machine, which all use the same numbers.
        fixed: the user's setting that fixes the number of threads, as a line names it; "" if something else does, and
            None if the number may change.
        since: an earlier reading, so that the first call of `look` has something to compare with.
        note: called with each line that the user should see.
        clock: that of the readings.
    """

    def __init__(
        self, threads: int, cores: int, read: Callable[[], Usage], beside: int = 0, ranks: int = 1,
        fixed: str | None = None, since: Usage | None = None, note: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self.cores, self.ranks, self.fixed = cores, ranks, fixed
        self.read, self.note, self.clock = read, note, clock
        self.changed, self.crowded = False, False
        self.others = 0.0  # cores, at the last reading
        self.last, self.interval, self.first = since or read(), WINDOW, True
        self.patience = 0.0
        self.risen = -math.inf
        self.serve(threads, beside)
        self.felt, self.said, self.lines = 0.0, False, 0

    def serve(self, threads: int, beside: int) -> None:
        """Go on with other numbers of threads, as those in the constructor's arguments."""
        self.most, self.spare = threads, max(0.0, self.cores / self.ranks - threads - beside)
        self.threads = self.reach = threads if self.fixed is not None else self._fitting(self.others)
        self.free_since: float | None = None

    def look(self, computing: bool = True) -> Change | None:
        """Read if it is time to, and return the change of `threads` if there is one.

        Args:
            computing: the run has kept its threads busy since the last reading.
        """
        if self.clock() - self.last.time < self.interval:
            return None
        before, now = self.last, self.read()
        self.last, self.interval = now, max(WINDOW, _COST * (self.clock() - now.time))
        use, seconds = self._use(before, now, computing), now.time - before.time
        # Those that would yield to a computing run do not before it computes.
        others = use.firm if self.first else use.others
        self.first = False
        excess = self._excess(others)
        self.crowded, self.others = excess > 0, others
        self.felt = self.felt + seconds if self.crowded and self.most > 1 else 0.0
        if self.fixed is not None:
            self._say()
            return None
        least, most = (self._fitting(cores + use.children) for cores in (others, use.firm))
        new = self._next(least, most, before.time, now.time, PATIENCE if use.measured else UNSEEN)
        change = None if new == self.threads else Change(self.threads, new, others)
        self.threads, self.changed = new, self.changed or change is not None
        self._say()
        return change

    def _next(self, least: int, most: int, start: float, end: float, patience: float) -> int:
        """Return the number of threads after a window: at most `least` at once, and `most` after a while."""
        if least < self.threads:
            soon = end - self.risen < _SOON
            self.patience = min(LONGEST, 2 * self.patience) if soon else patience
            self.free_since = None
            return least
        if most <= self.threads:
            self.free_since = None
            return self.threads
        if self.free_since is None:
            self.free_since, self.reach = start, most
        self.reach = min(self.reach, most)
        if end - self.free_since < self.patience:
            return self.threads
        self.free_since, self.risen = None, end
        return self.reach

    def _use(self, before: Usage, now: Usage, computing: bool) -> _Use:
        """Return the cores in use between two readings."""
        seconds = now.time - before.time
        process = (now.process - before.process) / seconds
        relatives = max(0.0, now.relatives - before.relatives) / seconds
        children = max(0.0, relatives - (now.ended - before.ended) / seconds) if self.ranks == 1 else 0.0
        busy = None if now.busy is None or before.busy is None else (now.busy - before.busy) / seconds
        if busy is not None and busy >= process / 2:  # else the system's numbers stand still
            others = max(0.0, busy - process - relatives)
            firm = max(0.0, others - (now.yielding - before.yielding) / seconds)
            return _Use(others, firm, children, True)
        waited = now.switches == 0 or now.switches > before.switches  # 0: the system does not count them
        if computing and waited and process < _SPINNING * self.threads:
            return _Use(max(0.0, self.cores - process - relatives), 0.0, children, False)
        return _Use(self.others if self.threads < self.most else 0.0, 0.0, children, False)

    def _excess(self, others: float) -> int:
        """Return the number of threads for which no core is free."""
        return max(0, math.ceil(others / self.ranks - _TOLERANCE - self.spare))

    def _fitting(self, others: float) -> int:
        return max(1, self.most - self._excess(others))

    def _say(self) -> None:
        """Say that others use cores, once it has been felt, and that they no longer do."""
        if self.lines == _LINES:
            return
        line = ""
        if not self.said and self.felt >= _FELT and (self.fixed or self.threads < self.most):
            line = self._line()
        elif self.said and self.threads == self.most and self.last.time - self.risen >= _SOON and self.fixed is None:
            line = f"The cores are free again: this run uses {_threads(self.threads)}."
        if not line:
            return
        self.said, self.lines = not self.said, self.lines + 1
        self.note(line if self.lines < _LINES else f"{line} Further changes are not shown.")

    def _line(self) -> str:
        """Return the line on other processes."""
        fact = f"Other processes use {min(self.others, self.cores):.1f} of {self.cores} cores"
        if self.fixed:
            return (
                f"{fact}, and {self.fixed} fixes the number of threads at {self.most}; "
                "without it, a run uses fewer meanwhile."
            )
        return f"{fact}: this run uses {_threads(self.threads)}, and {self.most} again when the cores are free."


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
