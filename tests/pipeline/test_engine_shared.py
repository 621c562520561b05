"""The engine where stages fork and join: forward passes on to backward and exchange, and update waits for both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mspipe_triton.pipeline.engine import Engine, run_serial
from mspipe_triton.pipeline.graph import StageGraph
from mspipe_triton.pipeline.schedules import DEPTH, SCHEDULES, schedule_graph, stage_names
from tests.pipeline.standins import StandIns, no_thread_left

FETCHING = SCHEDULES[1:]


def graph_of(schedule: str, staleness: int = 0) -> StageGraph:
    return schedule_graph(schedule, dict.fromkeys(stage_names(schedule, shared=True), 1), staleness)


def slow(stage: str, iteration: int) -> float:
    return {"backward": 2e-3, "exchange": 3e-3, "update": 1e-3}.get(stage, 0.0)


@pytest.mark.parametrize("schedule", FETCHING)
@pytest.mark.parametrize("count", [0, 1, 9])
def test_stages_get_the_result_of_the_stage_before_them(schedule: str, count: int) -> None:
    graph, inputs = graph_of(schedule, 0 if schedule == "prefetch" else 2), dict[str, Any]()
    stand_ins = StandIns(graph, slow)

    def noting(name: str) -> Callable[[Any], Any]:
        def run(item: Any) -> Any:
            inputs[name] = item
            return stand_ins.functions[name](item)

        return run

    functions = {name: noting(name) for name in stand_ins.functions}
    fetch = stage_names(schedule, shared=True)[: -len(("forward", "backward", "exchange", "update"))]
    with no_thread_left():
        results = list(Engine(graph, functions).run(stand_ins.items(count)))
    assert results == [(i, (*fetch, "forward", "exchange", "update")) for i in range(count)]
    stand_ins.check(graph, count)
    if count:
        last = count - 1
        assert inputs["backward"] == inputs["exchange"] == (last, (*fetch, "forward"))
        assert inputs["update"] == (last, (*fetch, "forward", "exchange"))
    main = threading.current_thread().name
    for run in stand_ins.runs:
        assert (run.thread == main) == (run.stage in ("patch", "forward", "backward"))


def test_serially_the_exchange_follows_the_backward_pass() -> None:
    stand_ins = StandIns(graph_of("serial"))
    assert list(run_serial(stand_ins.graph, stand_ins.functions, stand_ins.items(3))) == [
        (iteration, stage_names("serial", shared=True)) for iteration in range(3)
    ]


def test_the_exchange_runs_during_the_backward_pass_of_its_iteration() -> None:
    graph, both = graph_of("exact", 1), threading.Barrier(2)

    def meet(iteration: int) -> None:
        both.wait(timeout=60)  # passes only if both stages run at the same time

    stand_ins = StandIns(graph, actions={"backward": meet, "exchange": meet})
    assert len(list(Engine(graph, stand_ins.functions).run(stand_ins.items(6)))) == 6


def test_under_exact_a_patch_waits_for_the_exchange_and_the_fetch_does_not() -> None:
    graph, overlaps = graph_of("exact", 2), 0
    stand_ins = StandIns(graph, lambda stage, iteration: 5e-3 if stage == "exchange" else 0.0)
    list(Engine(graph, stand_ins.functions).run(stand_ins.items(10)))
    exchanges, patches, fetches = (stand_ins.runs_of(name) for name in ("exchange", "patch", "memory"))
    for iteration in range(1, 10):
        assert exchanges[iteration - 1].end <= patches[iteration].start
        overlaps += fetches[iteration].start < exchanges[iteration - 1].end
    assert overlaps > 5


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("longer", ["backward", "exchange"])
def test_fixed_misses_exactly_its_staleness(staleness: int, longer: str) -> None:
    graph, missed, updated = graph_of("fixed", staleness), list[int](), [0]

    def fetch(iteration: int) -> None:
        missed.append(iteration - updated[0])

    def update(iteration: int) -> None:
        updated[0] = iteration + 1

    actions = {"memory": fetch, "update": update}
    stand_ins = StandIns(graph, lambda stage, iteration: 3e-3 if stage == longer else 0.0, actions)
    list(Engine(graph, stand_ins.functions).run(stand_ins.items(12)))
    assert missed == [min(iteration, staleness) for iteration in range(12)]
    stand_ins.check(graph, 12)


def test_queues_between_resources_hold_the_same_number_where_stages_fork() -> None:
    for schedule in ("mspipe", "exact", "fixed"):
        graph = graph_of(schedule, 2)
        queues = {(each.after, each.before) for each in graph.dependencies if each.distance == 1 + DEPTH + 2}
        fetch = "patch" if schedule == "exact" else "forward"
        pairs = {("sample", "features"), ("memory", fetch), ("forward", "exchange"), ("backward", "update")}
        assert queues == pairs | {("exchange", "update")}


@pytest.mark.parametrize("stage", ["backward", "exchange"])
def test_no_more_updates_are_missed_than_the_bound_while_a_stage_is_stuck(stage: str) -> None:
    graph, gate, staleness = graph_of("mspipe", 2), threading.Event(), 2
    stand_ins = StandIns(graph, actions={stage: lambda iteration: gate.wait()})
    runner = Engine(graph, stand_ins.functions, caller="none").run(stand_ins.items(20))
    first = threading.Thread(target=lambda: next(runner))
    first.start()
    deadline = time.perf_counter() + 60
    while len(stand_ins.runs_of("memory")) < 1 + staleness and time.perf_counter() < deadline:
        time.sleep(1e-3)
    time.sleep(0.02)
    assert len(stand_ins.runs_of("memory")) == 1 + staleness
    assert not stand_ins.runs_of("update")
    gate.set()
    first.join()
    runner.close()
