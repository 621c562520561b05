"""Traces of simulated and measured plans: threads, names, arguments and times of their events."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.timeline import Timeline, simulate_plan
from mspipe_triton.pipeline.graphpipe.trace import write_trace
from tests.pipeline.graphpipe.plans import measured, operator, plan_of, replicated_plan


def write(plan: PipelinePlan, folder: Path, run: Timeline | None = None) -> dict[str, Any]:
    path = folder / "trace.json"
    write_trace(simulate_plan(plan), path, run)
    assert [file.name for file in folder.iterdir()] == ["trace.json"]
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def threads(content: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Process and thread numbers by their names."""
    events = content["traceEvents"]
    names = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    return {
        (names[each["pid"]], each["args"]["name"]): (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name"
    }


def test_passes_and_transfers_by_hand(tmp_path: Path) -> None:
    plan = plan_of([operator("a", 1e-3, 2e-3, output=2), operator("b", 3e-3, 4e-3)], [("a", "b")], 2, bandwidth=1e3)
    content = write(plan, tmp_path)
    assert content["otherData"] == {
        "makespan": pytest.approx(0.021),
        "batch": 2,
        "time_per_sample": pytest.approx(0.0105),
    }
    places = threads(content)
    assert places == {
        ("model: devices", "device 0"): (0, 0),
        ("model: devices", "device 1"): (0, 1),
        ("model: links", "stage 1 outputs"): (1, 0),
        ("model: links", "stage 1 gradients"): (1, 1),
    }
    spans = [each for each in content["traceEvents"] if each["ph"] == "X"]

    def spans_of(process: str, thread: str) -> list[tuple[str, float, float]]:
        place = places[process, thread]
        return [(each["name"], each["ts"], each["dur"]) for each in spans if (each["pid"], each["tid"]) == place]

    assert spans_of("model: devices", "device 1") == [
        ("F 0", 3000, 3000),
        ("B 0", 6000, 4000),
        ("F 1", 10000, 3000),
        ("B 1", 13000, 4000),
    ]
    assert spans_of("model: links", "stage 1 outputs") == [("outputs 0", 1000, 2000), ("outputs 1", 3000, 2000)]
    assert spans_of("model: links", "stage 1 gradients") == [("gradients 0", 10000, 2000), ("gradients 1", 17000, 2000)]
    first, transfer = spans[0], next(each for each in spans if each["name"] == "gradients 0")
    assert first["args"] == {"stage": "stage 0", "micro_batch": 0, "operators": "a"}
    assert transfer["args"] == {"stage": "stage 1", "micro_batch": 0, "to": "stage 0"}
    assert {each["name"][0]: each["cat"] for each in spans} == {
        "F": "forward",
        "B": "backward",
        "o": "outputs",
        "g": "gradients",
    }
    colours = {(each["cat"], each["cname"]) for each in spans}
    assert len(colours) == len(dict(colours)) == len({colour for _, colour in colours}) == 4


def test_all_devices_of_a_stage_have_its_passes_and_its_sync(tmp_path: Path) -> None:
    graph = OperatorGraph((operator("a", 1, 2, parameters=8),), (), "small")
    plan = assemble(Problem(graph, Cluster(2, inf, bandwidth=4.0), 4), [Part(1, 2, Rhythm(2))])
    content = write(plan, tmp_path)
    assert set(threads(content)) == {("small: devices", "device 0"), ("small: devices", "device 1")}
    spans = [(each["name"], each["tid"]) for each in content["traceEvents"] if each["ph"] == "X"]
    assert sorted(spans) == [(name, device) for name in ("B 0", "B 1", "F 0", "F 1", "sync") for device in (0, 1)]
    sync = next(each for each in content["traceEvents"] if each["name"] == "sync")
    assert (sync["ts"], sync["dur"], sync["args"]) == (6e6, 2e6, {"stage": "stage 0", "operators": "a"})


def test_measured_devices_above_simulated_ones(tmp_path: Path) -> None:
    plan = replicated_plan()
    run = measured(simulate_plan(plan))
    content = write(plan, tmp_path, run)
    assert content["otherData"] == {
        "makespan": simulate_plan(plan).makespan,
        "batch": 32,
        "time_per_sample": simulate_plan(plan).time_per_sample,
        "measured_makespan": run.makespan,
        "measured_time_per_sample": run.makespan / 32,
    }
    events = content["traceEvents"]
    order = {each["pid"]: each["args"]["sort_index"] for each in events if each["name"] == "process_sort_index"}
    places = threads(content)
    processes: dict[str, list[str]] = {}
    # Perfetto puts a thread with the number of its process first, and then goes by number; chrome://tracing by index.
    for name, thread in sorted(places, key=lambda each: (order[(place := places[each])[0]], len(set(place)), place[1])):
        processes.setdefault(name, []).append(thread)
    devices = [f"device {number}" for number in range(4)]
    assert list(processes) == ["fork: measured", "fork: simulated", "fork: simulated links"]
    assert processes["fork: measured"] == processes["fork: simulated"] == devices
    indices = {(each["pid"], each["tid"]): each["args"] for each in events if each["name"] == "thread_sort_index"}
    assert all(indices[place] == {"sort_index": place[1]} for place in places.values())
    for name, timeline in (("fork: measured", run), ("fork: simulated", simulate_plan(plan))):
        for device, spans in timeline.passes.items():
            place = places[name, f"device {device}"]
            row = [each for each in events if each["ph"] == "X" and (each["pid"], each["tid"]) == place]
            assert [each["cat"] for each in row] == [span.kind for span in spans]
            assert [each["ts"] for each in row] == pytest.approx([span.start * 1e6 for span in spans], abs=2e-3)
            assert [each["dur"] for each in row] == pytest.approx([(s.end - s.start) * 1e6 for s in spans], abs=2e-3)
    links = [each for each in events if each["ph"] == "X" and each["cat"] in ("outputs", "gradients")]
    assert {each["pid"] for each in links} == {places["fork: simulated links", "stage 1 outputs"][0]}
    assert len(links) == sum(span.other is not None for span in simulate_plan(plan).spans)


def test_a_measured_timeline_alone_and_without_links(tmp_path: Path) -> None:
    plan = plan_of([operator("a")], [], 2)
    run = measured(simulate_plan(plan))
    assert {name for name, _ in threads(write(plan, tmp_path, run))} == {"model: measured", "model: simulated"}
    write_trace(run, tmp_path / "trace.json")
    alone = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert threads(alone) == {("model: devices", "device 0"): (0, 0)}
    assert alone["otherData"]["makespan"] == run.makespan
