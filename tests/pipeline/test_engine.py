"""The engine and the serial runner: order, waiting, spans, delays, lanes, changes of plan, and ends of a run."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.engine import Engine, run_serial
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph
from mspipe_triton.pipeline.lane import Lane
from mspipe_triton.pipeline.plan import Delay
from mspipe_triton.pipeline.schedules import DEPTH, RESOURCES, schedule_graph, stage_names
from tests.pipeline.standins import StandIns, no_thread_left

NAMES = ("sampler", "copy_in", "compute", "copy_out")


def graph_of(schedule: str, staleness: int = 0) -> StageGraph:
    return schedule_graph(schedule, dict.fromkeys(stage_names(schedule), 1), staleness)


def slow_training(stage: str, iteration: int) -> float:
    return {"train": 3e-3, "update": 1e-3}.get(stage, 0.0)


@st.composite
def graphs(draw: st.DrawFn) -> StageGraph:
    """Draw a chain of up to five stages on any resources, with up to four dependencies across iterations."""
    names = "abcde"[: draw(st.integers(1, 5))]
    stages = tuple(Stage(name, draw(st.sampled_from(NAMES))) for name in names)
    chain = [Dependency(before, after) for before, after in pairwise(names)]
    dependencies = st.builds(Dependency, st.sampled_from(names), st.sampled_from(names), st.integers(-2, 4))
    try:
        return StageGraph(stages, (*chain, *draw(st.lists(dependencies, max_size=4))))
    except GraphError:
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), count=st.integers(0, 8), data=st.data())
def test_every_stage_waits_for_what_its_graph_says(graph: StageGraph, count: int, data: st.DataObject) -> None:
    cells = [(stage.name, iteration) for stage in graph.stages for iteration in range(count)]
    naps = data.draw(st.lists(st.sampled_from([0.0, 2e-4, 1e-3]), min_size=len(cells), max_size=len(cells)))
    seconds = dict(zip(cells, naps, strict=True))
    stand_ins = StandIns(graph, lambda stage, iteration: seconds[stage, iteration])
    with no_thread_left():
        results = list(Engine(graph, stand_ins.functions).run(stand_ins.items(count)))
    assert results == [(iteration, stand_ins.expected) for iteration in range(count)]
    stand_ins.check(graph, count)


@pytest.mark.parametrize("schedule", ["serial", "prefetch", "mspipe", "fixed", "exact"])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_all_schedules_run_every_iteration_in_order(schedule: str, count: int) -> None:
    graph = graph_of(schedule, 0 if schedule in ("serial", "prefetch") else 2)
    stand_ins = StandIns(graph, slow_training)
    with no_thread_left():
        engine = Engine(graph, stand_ins.functions)
        for _ in range(2):  # an engine can run several epochs
            stand_ins.runs.clear()
            assert list(engine.run(stand_ins.items(count))) == [(i, stand_ins.expected) for i in range(count)]
            stand_ins.check(graph, count)
    main = threading.current_thread().name
    assert {run.thread == main for run in stand_ins.runs if run.stage in ("train", "patch")} <= {True}
    assert {run.thread == main for run in stand_ins.runs if run.stage not in ("train", "patch")} <= {False}


@pytest.mark.parametrize("staleness", [0, 1, 2, 8])
@pytest.mark.parametrize("count", [3, 14])
def test_fixed_misses_exactly_its_staleness(staleness: int, count: int) -> None:
    graph, missed, updated = graph_of("fixed", staleness), [], [0]

    def fetch(iteration: int) -> None:
        missed.append(iteration - updated[0])

    def update(iteration: int) -> None:
        updated[0] = iteration + 1

    stand_ins = StandIns(graph, slow_training, {"memory": fetch, "update": update})
    list(Engine(graph, stand_ins.functions).run(stand_ins.items(count)))
    assert missed == [min(iteration, staleness) for iteration in range(count)]
    stand_ins.check(graph, count)
    fetches, updates = stand_ins.runs_of("memory"), stand_ins.runs_of("update")
    for iteration in range(count):
        if iteration > staleness:
            assert updates[iteration - 1 - staleness].end <= fetches[iteration].start
        if iteration >= staleness:
            assert fetches[iteration].end <= updates[iteration - staleness].start


@pytest.mark.parametrize("staleness", [0, 2])
def test_queues_hold_as_many_iterations_as_the_graph_allows(staleness: int) -> None:
    graph = graph_of("mspipe", staleness)
    gate = threading.Event()
    stand_ins = StandIns(graph, actions={"features": lambda iteration: gate.wait()})
    runner = Engine(graph, stand_ins.functions, caller="none").run(stand_ins.items(50))
    first = threading.Thread(target=next, args=(runner,))
    first.start()
    full = 1 + DEPTH + staleness  # the iteration in features, and those waiting for it
    deadline = time.perf_counter() + 60
    while len(stand_ins.runs_of("sample")) < full and time.perf_counter() < deadline:
        time.sleep(1e-3)
    time.sleep(0.02)
    assert len(stand_ins.runs_of("sample")) == full
    gate.set()
    first.join()
    time.sleep(0.02)  # nothing reads the results, so that all queues fill up
    for before, after in pairwise(graph.stages):
        assert len(stand_ins.runs_of(before.name)) <= len(stand_ins.runs_of(after.name)) + full
    runner.close()


def test_a_delay_postpones_the_fetch() -> None:
    graph = graph_of("mspipe", 1)
    gaps: dict[bool, list[float]] = {}
    for delayed in (False, True):
        stand_ins = StandIns(graph, lambda stage, iteration: 0.04 if stage == "train" else 0.0)
        delay = Delay("memory", "train", 1, Fraction(3, 100)) if delayed else None
        list(Engine(graph, stand_ins.functions, delay).run(stand_ins.items(7)))
        fetches, training = stand_ins.runs_of("memory"), stand_ins.runs_of("train")
        gaps[delayed] = [fetches[i].start - training[i - 1].start for i in range(1, 7)]
        stand_ins.check(graph, 7)
    assert statistics.median(gaps[True]) >= 0.029
    assert min(gaps[False]) < 0.02, "without the delay at least one fetch starts early"


@pytest.mark.parametrize(("old", "new"), [(2, 0), (0, 2)])
def test_a_running_engine_adopts_another_staleness(old: int, new: int) -> None:
    graph, missed, updated = graph_of("mspipe", old), {}, [0]
    moments: list[float] = []  # just before and just after the change

    def fetch(iteration: int) -> None:
        missed[iteration] = iteration - updated[0]

    def update(iteration: int) -> None:
        updated[0] = iteration + 1

    def observe(spans: Sequence[Span]) -> None:
        if spans[0].iteration == 15:
            moments.append(time.perf_counter())
            engine.adopt(graph_of("mspipe", new), None)
            moments.append(time.perf_counter())

    stand_ins = StandIns(graph, slow_training, {"memory": fetch, "update": update})
    engine = Engine(graph, stand_ins.functions, observe=observe)
    assert len(list(engine.run(stand_ins.items(40)))) == 40
    fetches = stand_ins.runs_of("memory")
    earlier = [missed[i] for i in fetches if fetches[i].start < moments[0]]
    later = [missed[i] for i in fetches if fetches[i].start > moments[1]]
    assert max(earlier) == old
    assert max(later[1:]) == new  # the first fetch may have started before


def test_spans_cover_every_stage_and_exclude_unpaid_time() -> None:
    graph, observations, clock = graph_of("exact", 1), [], threading.local()

    def compile_first(iteration: int) -> None:
        time.sleep(2e-3)
        clock.passed = getattr(clock, "passed", 0.0) + 1e-3

    stand_ins = StandIns(graph, actions={"memory": compile_first, "train": compile_first})
    engine = Engine(
        graph, stand_ins.functions, observe=observations.append, unpaid=lambda: float(getattr(clock, "passed", 0.0))
    )
    for done, _ in enumerate(engine.run(stand_ins.items(5)), 1):
        assert len(observations) == done  # an iteration is observed before its result is returned
    for iteration, spans in enumerate(observations):
        assert [(s.stage, s.resource, s.iteration) for s in spans] == [
            (name, RESOURCES[name], iteration) for name in stand_ins.expected
        ]
        for span in spans:
            run = stand_ins.runs_of(span.stage)[iteration]
            assert span.start <= run.start <= run.end <= span.end
            unpaid = 1e-3 if span.stage in ("memory", "train") else 0.0
            assert span.seconds == pytest.approx(span.end - span.start - unpaid, abs=1e-9)


class LoggedLane(Lane):
    """A lane that logs the threads and marks of its calls."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []
        self.stages = 0

    def note(self, call: str, marks: Any = None) -> None:
        self.log.append((call, threading.current_thread().name, marks))

    def open(self) -> None:
        self.note("open")

    def close(self) -> None:
        self.note("close")

    def before(self, marks: Sequence[Any]) -> None:
        self.note("before", sorted(marks))

    def after(self) -> Any:
        self.stages += 1
        return self.stages


def test_a_lane_opens_gets_marks_and_closes_on_its_own_thread() -> None:
    graph = StageGraph((Stage("a", "copy"), Stage("b", "main")), (Dependency("a", "b"), Dependency("b", "a", 1)))
    copy, main = LoggedLane(), LoggedLane()
    stand_ins = StandIns(graph)
    list(Engine(graph, stand_ins.functions, caller="main", lanes={"copy": copy, "main": main}).run(stand_ins.items(3)))
    assert [call for call, _, _ in copy.log] == ["open", "before", "before", "before", "close"]
    assert {thread for _, thread, _ in copy.log} == {"copy"}
    assert {thread for _, thread, _ in main.log} == {threading.current_thread().name}
    # A returned iteration has no marks any more, since all its work is done.
    assert [marks for call, _, marks in main.log if call == "before"] == [[1], [2], [3]]


def test_a_stage_must_wait_for_one_listed_before_it() -> None:
    with pytest.raises(GraphError, match="'b' uses no result; make it depend on 'a'"):
        Engine(StageGraph((Stage("a", "x"), Stage("b", "y"))), {})


def serial_graph(*names: str) -> StageGraph:
    return StageGraph(tuple(Stage(name, "cpu") for name in names))


def test_serially_an_item_passes_all_stages_before_the_next_one_starts() -> None:
    stand_ins = StandIns(serial_graph("a", "b"))
    assert list(run_serial(stand_ins.graph, stand_ins.functions, stand_ins.items(2))) == [
        (0, ("a", "b")),
        (1, ("a", "b")),
    ]
    assert [(run.stage, run.iteration) for run in stand_ins.runs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_serial_stage_times_exclude_other_work() -> None:
    unpaid: list[float] = []
    observations: list[list[Span]] = []
    lane = LoggedLane()

    def stage(item: int) -> int:
        time.sleep(1e-3)
        unpaid.append(-5.0)
        return item

    runner = run_serial(
        serial_graph("a"), {"a": stage}, range(3), observations.append, lambda: sum(unpaid), {"cpu": lane}
    )
    for _ in runner:
        unpaid.append(100.0)  # the caller's work between iterations belongs to no stage
    for iteration, (span,) in enumerate(observations):
        assert (span.stage, span.resource, span.iteration) == ("a", "cpu", iteration)
        assert span.seconds == pytest.approx(span.end - span.start + 5.0, abs=1e-9)
        assert span.end - span.start >= 1e-3
    assert [call for call, _, _ in lane.log] == ["open", "before", "before", "before", "close"]


def test_serially_an_error_ends_the_run_at_once() -> None:
    def fail(item: int) -> Any:
        raise ZeroDivisionError(item)

    done: list[int] = []
    lane = LoggedLane()
    with pytest.raises(ZeroDivisionError, match="7"):
        done.extend(run_serial(serial_graph("fail"), {"fail": fail}, [7, 8], lanes={"cpu": lane}))
    assert done == []
    assert lane.log[-1][0] == "close"


def test_serially_every_resource_has_its_lane_and_a_shared_lane_opens_once() -> None:
    graph = StageGraph((Stage("a", "host"), Stage("b", "gpu"), Stage("c", "host"), Stage("d", "disk")))
    host, shared = LoggedLane(), LoggedLane()
    functions = {name: lambda item, name=name: item + name for name in "abcd"}
    lanes = {"host": host, "gpu": shared, "disk": shared}
    assert list(run_serial(graph, functions, ["1", "2"], lanes=lanes)) == ["1abcd", "2abcd"]
    assert [call for call, _, _ in host.log] == ["open", *["before"] * 4, "close"]
    assert [call for call, _, _ in shared.log] == ["open", *["before"] * 4, "close"]


def test_a_serial_run_can_be_closed_early() -> None:
    stand_ins = StandIns(serial_graph("a"))

    def items() -> Iterator[Any]:
        yield from stand_ins.items(2)
        raise AssertionError("a third item was requested")

    runner = run_serial(stand_ins.graph, stand_ins.functions, items())
    assert next(runner)[0] == 0
    runner.close()
    assert len(stand_ins.runs) == 1
