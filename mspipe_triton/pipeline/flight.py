"""An iteration on its way through the stages, the lane that a resource's stages run on, and the spans they leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mspipe_triton.pipeline.graph import Stage


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


class Lane:
    """Where a resource's stages run: this one is the thread itself, others order work on a device behind it.

    `open` and `close` are called in the resource's thread, around all its stages.
    """

    def open(self) -> None:
        """Set the thread up."""

    def close(self) -> None:
        """Put back what `open` changed."""

    def before(self, marks: Sequence[Any]) -> None:
        """A stage is about to start that has to come after these marks of earlier stages."""

    def after(self) -> Any:
        """The stage's function has returned: a mark for those that wait for it, or None if all its work is done."""
        return None

    def measured(self, mark: Any, start: float, end: float) -> tuple[float, float]:
        """Start and end of a stage whose work is done, given those of its function."""
        return start, end


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
