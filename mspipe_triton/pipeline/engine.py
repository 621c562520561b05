"""The engine that runs an iteration's stages: one after the other, for the `serial` schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A named step of an iteration: a function from what the step before returned to what the next one takes."""

    name: str
    run: Callable[[Any], Any]


@dataclass
class StageTimes:
    """Seconds spent in each stage over a number of iterations."""

    seconds: dict[str, float] = field(default_factory=dict)
    iterations: int = 0

    def per_iteration(self) -> dict[str, float]:
        """Mean seconds of each stage an iteration."""
        return {name: total / max(1, self.iterations) for name, total in self.seconds.items()}


def run_serial(
    stages: list[Stage], items: Iterable[Any], times: StageTimes, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Any]:
    """Take every item through all stages before the next one starts; yields it when its last stage is done.

    Every stage sees everything that earlier iterations wrote: staleness 0. `times` is filled, by `clock`, as the run
    goes on.
    """
    for item in items:
        work = item
        for stage in stages:
            start = clock()
            work = stage.run(work)
            times.seconds[stage.name] = times.seconds.get(stage.name, 0.0) + clock() - start
        times.iterations += 1
        yield work
