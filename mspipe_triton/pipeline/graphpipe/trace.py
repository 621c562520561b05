"""Traces of simulated plans, by device, in Chrome's trace format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan, Timeline
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, GRADIENTS, OUTPUTS, SYNC
from mspipe_triton.pipeline.trace import name_events, span_event, write_events

DEVICES, LINKS = 0, 1
COLOURS = {
    FORWARD: "rail_response",
    BACKWARD: "thread_state_iowait",
    SYNC: "grey",
    OUTPUTS: "thread_state_running",
    GRADIENTS: "thread_state_runnable",
}


def write_trace(timeline: Timeline, path: Path) -> None:
    """Write a simulated mini-batch as a whole or not at all, for Perfetto or chrome://tracing.

    One process has a thread per device: "F 5" and "B 5" are its passes over micro-batch 5. If transfers take time, a
    second process has two threads per stage: the outputs that it receives, and the gradients that it sends back.
    Colours differ by kind in chrome://tracing; Perfetto colours by name, and its `category` is the kind.
    """
    plan = timeline.plan
    devices = {f"device {device}": device for stage in plan.stages for device in stage.devices}
    links: dict[tuple[int, str], int] = {}
    for span in timeline.spans:
        if span.other is not None:
            links.setdefault((span.stage, span.kind), len(links))
    processes = [name_events(DEVICES, f"{plan.problem.graph.name}: devices", devices)]
    if links:
        threads = {f"{plan.stages[stage].name} {kind}": thread for (stage, kind), thread in links.items()}
        processes.append(name_events(LINKS, f"{plan.problem.graph.name}: links", threads))
    events = [event for each in processes for event in each]
    events += [event for span in timeline.spans for event in _events(timeline, span, links)]
    other = {"makespan": timeline.makespan, "batch": plan.problem.batch, "time_per_sample": timeline.time_per_sample}
    write_events(path, events, other)


def _events(timeline: Timeline, span: PlanSpan, links: dict[tuple[int, str], int]) -> Iterator[dict[str, Any]]:
    """Yield the event of a span on every device of its stage, or on its link."""
    stages = timeline.plan.stages
    stage = stages[span.stage]
    arguments: dict[str, Any] = {"stage": stage.name}
    if span.kind != SYNC:
        arguments["micro_batch"] = span.micro_batch
    if span.other is None:
        arguments["operators"] = timeline.plan.problem.graph.summary(stage.operators)
        name = SYNC if span.kind == SYNC else f"{span.kind[0].upper()} {span.micro_batch}"
        places = [(DEVICES, device) for device in stage.devices]
    else:
        arguments["to" if span.kind == GRADIENTS else "from"] = stages[span.other].name
        name = f"{span.kind} {span.micro_batch}"
        places = [(LINKS, links[span.stage, span.kind])]
    for process, thread in places:
        event = span_event(process, thread, name, span.start, span.end, arguments)
        yield {**event, "cat": span.kind, "cname": COLOURS[span.kind]}
