"""The trace of a run: measured stages by resource and the plan in force beside them, in Chrome's trace format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.pipeline.schedules import RESOURCES

MEASURED, PLANNED = "measured", "plan"
_ANCHOR = "train"


@dataclass
class _Reign:
    """Iterations of one epoch under one plan: the first of them, how many, and the start of an iteration numbered 0."""

    plan: Plan
    epoch: int
    first: int
    origin: float
    iterations: int = 1

    def spans(self) -> Iterator[Span]:
        """Every stage where the plan has it."""
        stages = [(stage, float(self.plan.starts[stage.name]), float(stage.time)) for stage in self.plan.graph.stages]
        for iteration in range(self.first, self.first + self.iterations):
            begin = self.origin + iteration * float(self.plan.period)
            for stage, start, time in stages:
                yield Span(stage.name, stage.resource, iteration, begin + start, begin + start + time, time)


class Trace:
    """Collects the spans of a run's first iterations; the ones beyond `limit` are counted only.

    The plan is drawn as it would have gone on from the measured start of `train` in the first iteration that it rules,
    and again from there at every new plan and every epoch.
    """

    def __init__(self, limit: int = 2000) -> None:
        self.limit = limit
        self.kept = self.left_out = 0
        self._spans: list[tuple[int, Span]] = []
        self._plan: Plan | None = None
        self._reigns: list[_Reign] = []

    def plan(self, plan: Plan) -> None:
        """The plan, in seconds, that the iterations added from now on are under."""
        self._plan = plan

    def add(self, epoch: int, spans: Sequence[Span]) -> None:
        """The spans of one iteration; an epoch's iterations come in order."""
        if self.kept == self.limit:
            self.left_out += 1
            return
        self.kept += 1
        self._spans += [(epoch, span) for span in spans]
        start = next((span for span in spans if span.stage == _ANCHOR), None)
        if self._plan is None or start is None:
            return
        last = self._reigns[-1] if self._reigns else None
        if last is not None and last.plan is self._plan and last.epoch == epoch:
            last.iterations += 1
            return
        ahead = float(self._plan.starts[_ANCHOR] + start.iteration * self._plan.period)
        self._reigns.append(_Reign(self._plan, epoch, start.iteration, start.start - ahead))

    def write(self, path: Path) -> None:
        """Write the trace, whole or not at all; Perfetto and chrome://tracing open it.

        Times count in microseconds from the first start. `otherData` says how many iterations the limit has left out.
        """
        planned = self._planned()
        both = {MEASURED: self._spans, PLANNED: planned}
        zero = min((span.start for spans in both.values() for _, span in spans), default=0.0)
        used = [span.resource for spans in both.values() for _, span in spans]
        threads = {name: thread for thread, name in enumerate(dict.fromkeys([*RESOURCES.values(), *used]))}
        events = [
            event
            for process, (name, spans) in enumerate(both.items())
            for event in (*_names(process, name, threads), *_complete(process, spans, threads, zero))
        ]
        other = {"iterations": self.kept, "iterations_left_out": self.left_out}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write('{"displayTimeUnit": "ms", "otherData": ' + json.dumps(other) + ', "traceEvents": [\n')
                file.write(",\n".join(map(json.dumps, events)))
                file.write("\n]}\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _planned(self) -> list[tuple[int, Span]]:
        """The plans' spans by epoch; what of a plan would run into the next one's first on a resource is left out."""
        planned: list[tuple[int, Span]] = []
        following: dict[str, float] = {}
        for reign in reversed(self._reigns):
            own = [span for span in reign.spans() if span.end <= following.get(span.resource, inf)]
            for span in own:
                following[span.resource] = min(span.start, following.get(span.resource, inf))
            planned[:0] = [(reign.epoch, span) for span in own]
        return planned


def read_spans(path: Path, process: str = MEASURED) -> dict[int, list[Span]]:
    """The measured spans of a written trace by epoch, or the planned ones; seconds from the trace's first start.

    A trace holds whole durations, so a span's own seconds come back as those.
    """
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    found = next(each["pid"] for each in events if each["name"] == "process_name" and each["args"]["name"] == process)
    threads = {
        each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name" and each["pid"] == found
    }
    epochs: dict[int, list[Span]] = {}
    for each in events:
        if each["ph"] == "X" and each["pid"] == found:
            start, seconds, of = each["ts"] / 1e6, each["dur"] / 1e6, each["args"]
            span = Span(each["name"], threads[each["tid"]], of["iteration"], start, start + seconds, seconds)
            epochs.setdefault(of["epoch"], []).append(span)
    return epochs


def _names(process: int, name: str, threads: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The metadata that name a process and its threads, and put them in order."""

    def metadata(kind: str, thread: int, **of: str | int) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": of}

    yield metadata("process_name", 0, name=name)
    yield metadata("process_sort_index", 0, sort_index=process)
    for resource, thread in threads.items():
        yield metadata("thread_name", thread, name=resource)
        yield metadata("thread_sort_index", thread, sort_index=thread)


def _complete(
    process: int, spans: Sequence[tuple[int, Span]], threads: dict[str, int], zero: float
) -> Iterator[dict[str, Any]]:
    for epoch, span in spans:
        start, end = (round((moment - zero) * 1e6, 3) for moment in (span.start, span.end))
        yield {
            "ph": "X",
            "name": span.stage,
            "pid": process,
            "tid": threads[span.resource],
            "ts": start,
            "dur": round(end - start, 3),
            "args": {"iteration": span.iteration, "epoch": epoch},
        }
