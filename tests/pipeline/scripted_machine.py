"""A machine whose use is scripted, and a run on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mspipe_triton.machine import Usage
from mspipe_triton.pipeline.contention import Change, Contention

STEP = 0.25  # seconds between two calls of `look`


@dataclass
class Machine:
    """Cores that threads share equally, and a clock; programs other than runs of `Contention` have one thread each.

    Args:
        busy: number of other programs; nice: of those of lower priority, which get what remains.
        children: of those that the runs have started.
        tells: the system tells the use of its CPUs. switches: waits of this process for a CPU in each step.
    """

    cores: int
    busy: float = 0
    nice: float = 0
    children: float = 0
    tells: bool = True
    switches: int = 3
    now: float = 100.0
    runs: list[Contention] = field(default_factory=list)
    used: dict[str, list[float]] = field(default_factory=dict)
    waits: int = 0
    reading: float = 0.0  # seconds
    computes: bool = False

    def run(self, threads: int, **options: Any) -> Contention:
        """Start a run on this machine."""
        number = len(self.runs)
        contention = Contention(threads, self.cores, lambda: self.usage(number), clock=lambda: self.now, **options)
        self.runs.append(contention)
        return contention

    def usage(self, run: int) -> Usage:
        """Read the CPU time as a run does."""
        total = {name: sum(used) for name, used in self.used.items()}
        process, children = self.used.get("runs", [0.0] * 9)[run], total.get("children", 0.0)
        time = self.now
        self.now += self.reading
        busy = sum(total.values()) if self.tells else None
        return Usage(time, busy, total.get("nice", 0.0), process, children, 0.0, self.waits)

    def step(self) -> list[Change | None]:
        """Let all programs compute for a step, and all runs look."""
        wishes = {
            "runs": [float(run.threads) if self.computes else 0.0 for run in self.runs], "busy": [self.busy],
            "children": [self.children],
        }  # fmt: skip
        total = sum(map(sum, wishes.values()))
        share = min(1.0, self.cores / total) if total else 1.0
        wishes["nice"] = [min(self.nice, self.cores - total * share) / share]
        for name, each in wishes.items():
            used = self.used.setdefault(name, [0.0] * 9)
            for number, wish in enumerate(each):
                used[number] += wish * share * STEP
        self.waits += self.switches
        self.now += STEP
        return [run.look() for run in self.runs]

    def steps(self, seconds: float) -> list[Change]:
        """Let some seconds pass, and return the changes."""
        changes = [self.step() for _ in range(round(seconds / STEP))]
        return [change for each in changes for change in each if change is not None]


def started(machine: Machine, threads: int, **options: Any) -> Contention:
    """A run that computes, after its first look."""
    run = machine.run(threads, **options)
    machine.computes = True
    machine.step()
    return run
