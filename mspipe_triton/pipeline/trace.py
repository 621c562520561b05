"""Traces: a run's measured stages and its current plan, by resource, in Chrome's trace format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from mspipe_triton.files import atomic_file
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.pipeline.schedules import RESOURCES

MEASURED, PLANNED = "measured", "plan"
_ANCHORS = ("train", "forward")


@dataclass
class _Segment:
    """Iterations of one epoch under one plan: the first one, their number, and the start of a virtual iteration 0."""

    plan: Plan
    epoch: int
    first: int
    origin: float
    iterations: int = 1

    def spans(self) -> Iterator[Span]:
        """Yield every stage at its planned time."""
        stages = [(stage, float(self.plan.starts[stage.name]), float(stage.time)) for stage in self.plan.graph.stages]
        for iteration in range(self.first, self.first + self.iterations):
            offset = self.origin + iteration * float(self.plan.period)
            for stage, start, time in stages:
                yield Span(stage.name, stage.resource, iteration, offset + start, offset + start + time, time)


class Trace:
    """Collect the spans of a run's first `limit` iterations, and count the others.

    Each plan's stages are placed relative to the measured start of `train` in the first iteration under that plan, and
    again in the first iteration of every epoch.
    """

    def __init__(self, limit: int = 2000) -> None:
        self.limit = limit
        self.iterations = self.omissions = 0
        self._spans: list[tuple[int, Span]] = []
        self._plan: Plan | None = None
        self._segments: list[_Segment] = []

    def plan(self, plan: Plan) -> None:
        """Set the plan, in seconds, of the iterations added from now on."""
        self._plan = plan

    def add(self, epoch: int, spans: Sequence[Span]) -> None:
        """Add the spans of one iteration; the iterations of an epoch come in order."""
        if self.iterations == self.limit:
            self.omissions += 1
            return
        self.iterations += 1
        self._spans += [(epoch, span) for span in spans]
        start = next((span for span in spans if span.stage in _ANCHORS), None)
        if self._plan is None or start is None:
            return
        last = self._segments[-1] if self._segments else None
        if last is not None and last.plan is self._plan and last.epoch == epoch:
            last.iterations += 1
            return
        ahead = float(self._plan.starts[start.stage] + start.iteration * self._plan.period)
        self._segments.append(_Segment(self._plan, epoch, start.iteration, start.start - ahead))

    def write(self, path: Path) -> None:
        """Write the trace as a whole or not at all, for Perfetto or chrome://tracing.

        Times are microseconds from the first start. `otherData` gives the number of iterations beyond the limit.
        """
        processes = {MEASURED: self._spans, PLANNED: self._plan_spans()}
        zero = min((span.start for spans in processes.values() for _, span in spans), default=0.0)
        resources = dict.fromkeys(span.resource for spans in processes.values() for _, span in spans)
        ordered = dict.fromkeys(name for name in (*RESOURCES.values(), *resources) if name in resources)
        threads = {name: thread for thread, name in enumerate(ordered)}
        events = [
            event
            for process, (name, spans) in enumerate(processes.items())
            for event in (*name_events(process, name, threads), *_span_events(process, spans, threads, zero))
        ]
        other = {"iterations": self.iterations, "iterations_left_out": self.omissions}
        write_events(path, events, other)

    def _plan_spans(self) -> list[tuple[int, Span]]:
        """Return the plans' spans by epoch, without those that overlap the next plan's first span on their resource."""
        result: list[tuple[int, Span]] = []
        next_starts: dict[str, float] = {}
        for segment in reversed(self._segments):
            spans = [span for span in segment.spans() if span.end <= next_starts.get(span.resource, inf)]
            for span in spans:
                next_starts[span.resource] = min(span.start, next_starts.get(span.resource, inf))
            result[:0] = [(segment.epoch, span) for span in spans]
        return result


def read_spans(path: Path, process: str = MEASURED) -> dict[int, list[Span]]:
    """Read the measured spans of a trace file by epoch, or the planned ones, in seconds from the trace's first start.

    A trace stores only durations from start to end, which also become the spans' `seconds`.
    """
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    pid = next(each["pid"] for each in events if each["name"] == "process_name" and each["args"]["name"] == process)
    threads = {
        each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name" and each["pid"] == pid
    }
    epochs: dict[int, list[Span]] = {}
    for each in events:
        if each["ph"] == "X" and each["pid"] == pid:
            start, seconds, arguments = each["ts"] / 1e6, each["dur"] / 1e6, each["args"]
            span = Span(each["name"], threads[each["tid"]], arguments["iteration"], start, start + seconds, seconds)
            epochs.setdefault(arguments["epoch"], []).append(span)
    return epochs


def name_events(
    process: int, name: str, threads: Mapping[str, int], place: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield metadata events that name a process and its threads, and order them.

    Processes come by `place`, by default their number, and threads by their number.
    """

    def metadata(kind: str, thread: int, **arguments: str | int) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": arguments}

    yield metadata("process_name", 0, name=name)
    yield metadata("process_sort_index", 0, sort_index=process if place is None else place)
    for resource, thread in threads.items():
        yield metadata("thread_name", thread, name=resource)
        yield metadata("thread_sort_index", thread, sort_index=thread)


def span_event(
    process: int, thread: int, name: str, start: float, end: float, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the event of a span from `start` to `end`, in seconds from the trace's first start."""
    first, last = round(start * 1e6, 3), round(end * 1e6, 3)
    duration = round(last - first, 3)
    return {"ph": "X", "name": name, "pid": process, "tid": thread, "ts": first, "dur": duration, "args": arguments}


def write_events(path: Path, events: Iterable[Mapping[str, Any]], other: Mapping[str, Any]) -> None:
    """Write a trace file as a whole or not at all, with further data about the run."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "otherData": ' + json.dumps(other) + ', "traceEvents": [\n')
        file.write(",\n".join(map(json.dumps, events)))
        file.write("\n]}\n")


def _span_events(
    process: int, spans: Sequence[tuple[int, Span]], threads: Mapping[str, int], zero: float
) -> Iterator[dict[str, Any]]:
    for epoch, span in spans:
        arguments = {"iteration": span.iteration, "epoch": epoch}
        yield span_event(process, threads[span.resource], span.stage, span.start - zero, span.end - zero, arguments)
