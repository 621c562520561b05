"""Traces of simulated plans: threads, names, arguments and times of their events."""

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
from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan
from mspipe_triton.pipeline.graphpipe.trace import write_trace
from tests.pipeline.graphpipe.plans import operator, plan_of


def write(plan: PipelinePlan, folder: Path) -> dict[str, Any]:
    path = folder / "trace.json"
    write_trace(simulate_plan(plan), path)
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
