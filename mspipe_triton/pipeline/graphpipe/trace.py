"""Traces of simulated and measured plans, by device, in Chrome's trace format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mspipe_triton.pipeline.graphpipe import problem
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan, Timeline
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, GRADIENTS, OUTPUTS, SYNC
from mspipe_triton.pipeline.trace import name_events, span_event, write_events

# Perfetto shows the thread that has the number of its process above all others, so no device may have it but the first.
DEVICES, LINKS, MEASURED = 0, 1, problem.DEVICES
COLOURS = {
    FORWARD: "rail_response",
    BACKWARD: "thread_state_iowait",
    SYNC: "grey",
    OUTPUTS: "thread_state_running",
    GRADIENTS: "thread_state_runnable",
}


def write_trace(timeline: Timeline, path: Path, measured: Timeline | None = None) -> None:
    """Write a simulated mini-batch as a whole or not at all, for Perfetto or chrome://tracing.

    One process has a thread per device: "F 5" and "B 5" are its passes over micro-batch 5. If transfers take time, a
    second process has two threads per stage: the outputs that it receives, and the gradients that it sends back.
    Colours differ by kind in chrome://tracing; Perfetto colours by name, and its `category` is the kind.

    Args:
        timeline: the simulation.
        path: the file.
        measured: the same mini-batch as a run measured it. Its devices are a process of their own, above that of the
            simulated ones. Both start at 0.
    """
    name = timeline.plan.problem.graph.name
    links: dict[tuple[int, str], int] = {}
    for span in timeline.spans:
        if span.other is not None:
            links.setdefault((span.stage, span.kind), len(links))
    other = {
        "makespan": timeline.makespan,
        "batch": timeline.plan.problem.batch,
        "time_per_sample": timeline.time_per_sample,
    }
    if measured is None:
        events = [*_devices(timeline, DEVICES, f"{name}: devices")]
    else:
        events = [*_devices(measured, MEASURED, f"{name}: measured", DEVICES - 1)]
        events += _devices(timeline, DEVICES, f"{name}: simulated")
        other |= {"measured_makespan": measured.makespan, "measured_time_per_sample": measured.time_per_sample}
    if links:
        threads = {f"{timeline.plan.stages[stage].name} {kind}": thread for (stage, kind), thread in links.items()}
        events += name_events(LINKS, f"{name}: {'links' if measured is None else 'simulated links'}", threads)
    for span in timeline.spans:
        if span.other is not None:
            events.append(_event(timeline, span, LINKS, links[span.stage, span.kind]))
    write_events(path, events, other)


def _devices(timeline: Timeline, process: int, name: str, place: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield a process with the passes of all devices."""
    yield from name_events(process, name, {f"device {device}": device for device in timeline.passes}, place)
    for device, spans in timeline.passes.items():
        for span in spans:
            yield _event(timeline, span, process, device)


def _event(timeline: Timeline, span: PlanSpan, process: int, thread: int) -> dict[str, Any]:
    stages = timeline.plan.stages
    arguments: dict[str, Any] = {"stage": stages[span.stage].name}
    name = SYNC
    if span.kind != SYNC:
        arguments["micro_batch"] = span.micro_batch
        name = f"{span.kind[0].upper() if span.other is None else span.kind} {span.micro_batch}"
    if span.other is None:
        arguments["operators"] = timeline.plan.problem.graph.summary(stages[span.stage].operators)
    else:
        arguments["to" if span.kind == GRADIENTS else "from"] = stages[span.other].name
    event = span_event(process, thread, name, span.start, span.end, arguments)
    return {**event, "cat": span.kind, "cname": COLOURS[span.kind]}
