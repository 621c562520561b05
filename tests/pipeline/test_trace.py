"""The trace file: its events, the position of the plan, the limit on iterations, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.plan import Plan, make_plan
from mspipe_triton.pipeline.trace import Trace, read_spans

TIMES = {"sample": 2, "features": 3, "memory": 2, "train": 6, "update": 3}


def plan_of(schedule: str = "mspipe", scale: float = 1e-3) -> Plan:
    return make_plan(schedule, {name: time * scale for name, time in TIMES.items()})


def iteration(number: int, start: float) -> list[Span]:
    """Make spans of an iteration's five stages, one after the other from `start`, one millisecond each."""
    resources = {
        "sample": "sampler",
        "features": "copy_in",
        "memory": "copy_in",
        "train": "compute",
        "update": "copy_out",
    }
    return [
        Span(stage, resource, number, start + k * 1e-3, start + (k + 1) * 1e-3, 5e-4)
        for k, (stage, resource) in enumerate(resources.items())
    ]


def write(trace: Trace, folder: Path) -> dict[str, Any]:
    trace.write(folder / "trace.json")
    content: dict[str, Any] = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    return content


def train_starts(path: Path, process: str, epoch: int = 1) -> dict[int, float]:
    return {span.iteration: span.start for span in read_spans(path, process)[epoch] if span.stage == "train"}


def test_stages_are_complete_events_on_the_threads_of_their_resources(tmp_path: Path) -> None:
    trace = Trace()
    trace.add(3, iteration(7, 50.0))
    content = write(trace, tmp_path)
    events = content["traceEvents"]
    assert content["otherData"] == {"iterations": 1, "iterations_left_out": 0}
    stages = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["tid"], event["ts"], event["dur"]) for event in stages] == [
        ("sample", 0, 0, 1000),
        ("features", 1, 1000, 1000),
        ("memory", 1, 2000, 1000),
        ("train", 2, 3000, 1000),
        ("update", 3, 4000, 1000),
    ]
    assert all(event["args"] == {"iteration": 7, "epoch": 3} and event["pid"] == 0 for event in stages)
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["measured", "plan"]
    for process in (0, 1):
        own_events = [event for event in events if event["pid"] == process]
        assert [event["args"]["name"] for event in own_events if event["name"] == "thread_name"] == [
            "sampler",
            "copy_in",
            "compute",
            "copy_out",
        ]
        orders = [event["args"]["sort_index"] for event in own_events if event["name"] == "thread_sort_index"]
        assert orders == [0, 1, 2, 3]


def test_the_plan_starts_at_the_first_measured_training(tmp_path: Path) -> None:
    trace, plan = Trace(), plan_of()
    trace.plan(plan)
    starts = [10.0, 10.008, 10.013]
    for number, start in enumerate(starts):
        trace.add(1, iteration(number, start))
    write(trace, tmp_path)
    spans = read_spans(tmp_path / "trace.json", "plan")[1]
    measured = train_starts(tmp_path / "trace.json", "measured")
    origin = measured[0] - float(plan.starts["train"])
    assert len(spans) == 15
    for span in spans:
        assert span.start == pytest.approx(
            origin + span.iteration * float(plan.period) + float(plan.starts[span.stage]), abs=2e-9
        )
        assert span.end - span.start == pytest.approx(TIMES[span.stage] * 1e-3, abs=2e-9)
        assert span.resource == next(stage.resource for stage in plan.graph.stages if stage.name == span.stage)
    assert min(span.start for span in spans) == 0.0  # not below 0, although it is before the first measured start


def test_a_new_plan_and_a_new_epoch_start_at_measured_times(tmp_path: Path) -> None:
    trace, slow, fast = Trace(), plan_of(), plan_of(scale=5e-4)
    trace.plan(slow)
    for number in range(3):
        trace.add(1, iteration(number, 10.0 + number))
    trace.plan(fast)
    for number in range(3, 5):
        trace.add(1, iteration(number, 10.0 + number))
    trace.plan(fast)  # as at the start of an epoch
    for number in range(2):
        trace.add(2, iteration(number, 20.0 + number))
    write(trace, tmp_path)
    path = tmp_path / "trace.json"
    measured, planned = train_starts(path, "measured"), train_starts(path, "plan")
    later = train_starts(path, "measured", 2), train_starts(path, "plan", 2)
    assert sorted(planned) == [0, 1, 2, 3, 4]
    assert planned[0] == pytest.approx(measured[0], abs=2e-9)
    assert planned[2] == pytest.approx(measured[0] + 2 * 6e-3, abs=2e-9)
    assert planned[3] == pytest.approx(measured[3], abs=2e-9)
    assert planned[4] == pytest.approx(measured[3] + 3e-3, abs=2e-9)
    assert later[1] == pytest.approx({0: later[0][0], 1: later[0][0] + 3e-3}, abs=2e-9)


def test_iterations_beyond_the_limit_are_only_counted(tmp_path: Path) -> None:
    trace = Trace(limit=4)
    trace.plan(plan_of())
    for epoch in (1, 2):
        for number in range(3):
            trace.add(epoch, iteration(number, 10.0 * epoch + number))
    content = write(trace, tmp_path)
    assert content["otherData"] == {"iterations": 4, "iterations_left_out": 2}
    for process in ("measured", "plan"):
        epochs = read_spans(tmp_path / "trace.json", process)
        assert {epoch: {span.iteration for span in spans} for epoch, spans in epochs.items()} == {1: {0, 1, 2}, 2: {0}}


def test_spans_are_read_back_unchanged(tmp_path: Path) -> None:
    trace = Trace()
    spans = [Span("a", "sampler", 0, 100.0, 100.25, 0.25), Span("b", "elsewhere", 0, 100.25, 100.75, 0.5)]
    trace.add(1, spans)
    write(trace, tmp_path)
    assert read_spans(tmp_path / "trace.json") == {
        1: [Span(s.stage, s.resource, 0, s.start - 100, s.end - 100, s.seconds) for s in spans]
    }
    assert read_spans(tmp_path / "trace.json", "plan") == {}


def test_an_empty_trace_is_valid(tmp_path: Path) -> None:
    content = write(Trace(), tmp_path)
    assert all(event["ph"] == "M" for event in content["traceEvents"])


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    trace = Trace()
    trace.add(1, iteration(0, 1.0))
    before = write(trace, tmp_path)
    trace.add(1, [Span("a", "sampler", object(), 1.0, 2.0, 1.0)])
    with pytest.raises(TypeError, match="serializable"):
        trace.write(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8")) == before
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]
