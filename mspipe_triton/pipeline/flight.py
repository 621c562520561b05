"""An iteration on its way through the stages, the spans that its stages leave, and their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mspipe_triton.pipeline.graph import Stage
from mspipe_triton.pipeline.lane import Lane


def no_time() -> float:
    """No seconds at all."""
    return 0.0


@dataclass(frozen=True)
class Span:
    """One stage of one iteration: start and end on `time.perf_counter`'s clock, and the seconds that were its own."""

    stage: str
    resource: str
    iteration: int
    start: float
    end: float
    seconds: float


@dataclass
class Flight:
    """An iteration between its first and its last stage: its value, and what its stages have left so far."""

    value: Any
    begun: dict[str, float] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
    records: list[tuple[Stage, int, Lane, Any, float, float, float]] = field(default_factory=list)

    def run(
        self,
        stage: Stage,
        function: Callable[[Any], Any],
        iteration: int,
        lane: Lane,
        marks: Sequence[Any],
        unpaid: Callable[[], float],
    ) -> None:
        """Run a stage on the present value; `unpaid` seconds of this thread are nobody's."""
        lane.before(marks)
        skipped, start = unpaid(), time.perf_counter()
        self.begun.setdefault(stage.name, start)
        self.value = function(self.value)
        mark = self.marks[stage.name] = lane.after()
        self.records.append((stage, iteration, lane, mark, start, time.perf_counter(), unpaid() - skipped))

    def spans(self) -> list[Span]:
        """The spans of all stages, which must have ended."""
        spans = []
        for stage, iteration, lane, mark, start, end, skipped in self.records:
            start, end = lane.measured(mark, start, end)
            spans.append(Span(stage.name, stage.resource, iteration, start, end, end - start - skipped))
        return spans


@dataclass
class StageTimes:
    """Seconds spent in each stage over a number of iterations."""

    seconds: dict[str, float] = field(default_factory=dict)
    iterations: int = 0

    def add(self, spans: Sequence[Span]) -> None:
        """Count an iteration."""
        self.iterations += 1
        for span in spans:
            self.seconds[span.stage] = self.seconds.get(span.stage, 0.0) + span.seconds

    def per_iteration(self) -> dict[str, float]:
        """Mean seconds of each stage an iteration."""
        return {name: total / max(1, self.iterations) for name, total in self.seconds.items()}
