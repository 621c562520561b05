"""Flights: iterations on their way through the stages, the spans of their stages, and stage times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mspipe_triton.pipeline.graph import Stage
from mspipe_triton.pipeline.lane import Lane


def no_time() -> float:
    """Return 0 seconds."""
    return 0.0


@dataclass(frozen=True)
class Span:
    """One stage of one iteration: start and end on `time.perf_counter`'s clock, and `seconds` without unpaid time."""

    stage: str
    resource: str
    iteration: int
    start: float
    end: float
    seconds: float


@dataclass
class Flight:
    """An iteration between its first and its last stage: its item, and the results and runs of its stages so far."""

    item: Any
    results: dict[str, Any] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
    runs: list[tuple[Stage, int, Lane, Any, float, float, float]] = field(default_factory=list)

    def run(
        self,
        stage: Stage,
        source: str | None,
        function: Callable[[Any], Any],
        iteration: int,
        lane: Lane,
        marks: Sequence[Any],
        unpaid: Callable[[], float],
    ) -> None:
        """Run a stage on the result of `source`, or on the item; `unpaid` seconds of this thread do not count."""
        lane.before(marks)
        before, start = unpaid(), time.perf_counter()
        self.starts.setdefault(stage.name, start)
        self.results[stage.name] = function(self.item if source is None else self.results[source])
        mark = self.marks[stage.name] = lane.after()
        self.runs.append((stage, iteration, lane, mark, start, time.perf_counter(), unpaid() - before))

    def spans(self) -> list[Span]:
        """Return the spans of all stages, which must have ended."""
        spans = []
        for stage, iteration, lane, mark, start, end, unpaid in self.runs:
            start, end = lane.interval(mark, start, end)
            spans.append(Span(stage.name, stage.resource, iteration, start, end, end - start - unpaid))
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
        """Return mean seconds per iteration, for each stage."""
        return {name: total / max(1, self.iterations) for name, total in self.seconds.items()}


@dataclass
class SpanLog(StageTimes):
    """Seconds of every stage, per iteration."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, spans: Sequence[Span]) -> None:
        """Add an iteration."""
        super().add(spans)
        for span in spans:
            self.samples.setdefault(span.stage, []).append(span.seconds)
