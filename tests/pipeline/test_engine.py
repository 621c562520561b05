"""The engine and the serial runner: order, waiting, spans, delays, new plans at work, and how a run ends."""

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

PLACES = ("sampler", "copy_in", "compute", "copy_out")


def graph_of(schedule: str, staleness: int = 0) -> StageGraph:
    return schedule_graph(schedule, dict.fromkeys(stage_names(schedule), 1), staleness)


def slow_training(stage: str, iteration: int) -> float:
    return {"train": 3e-3, "update": 1e-3}.get(stage, 0.0)


@st.composite
def graphs(draw: st.DrawFn) -> StageGraph:
    """A chain of up to five stages on any resources, with up to four dependencies across iterations."""
    names = "abcde"[: draw(st.integers(1, 5))]
    stages = tuple(Stage(name, draw(st.sampled_from(PLACES))) for name in names)
    chain = [Dependency(before, after) for before, after in pairwise(names)]
    further = st.builds(Dependency, st.sampled_from(names), st.sampled_from(names), st.integers(-2, 4))
    try:
        return StageGraph(stages, (*chain, *draw(st.lists(further, max_size=4))))
    except GraphError:
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), count=st.integers(0, 8), data=st.data())
def test_every_stage_waits_for_what_its_graph_says(graph: StageGraph, count: int, data: st.DataObject) -> None:
    cells = [(stage.name, iteration) for stage in graph.stages for iteration in range(count)]
    naps = data.draw(st.lists(st.sampled_from([0.0, 2e-4, 1e-3]), min_size=len(cells), max_size=len(cells)))
    taken = dict(zip(cells, naps, strict=True))
    stand_ins = StandIns(graph, lambda stage, iteration: taken[stage, iteration])
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
        for _ in range(2):  # an engine serves epoch after epoch
            stand_ins.ran.clear()
            assert list(engine.run(stand_ins.items(count))) == [(i, stand_ins.expected) for i in range(count)]
            stand_ins.check(graph, count)
    main = threading.current_thread().name
    assert {each.thread == main for each in stand_ins.ran if each.stage in ("train", "patch")} <= {True}
    assert {each.thread == main for each in stand_ins.ran if each.stage not in ("train", "patch")} <= {False}


@pytest.mark.parametrize("staleness", [0, 1, 2, 8])
@pytest.mark.parametrize("count", [3, 14])
def test_fixed_misses_exactly_its_updates(staleness: int, count: int) -> None:
    graph, missed, updated = graph_of("fixed", staleness), [], [0]

    def fetch(iteration: int) -> None:
        missed.append(iteration - updated[0])

    def update(iteration: int) -> None:
        updated[0] = iteration + 1

    stand_ins = StandIns(graph, slow_training, {"memory": fetch, "update": update})
    list(Engine(graph, stand_ins.functions).run(stand_ins.items(count)))
    assert missed == [min(iteration, staleness) for iteration in range(count)]
    stand_ins.check(graph, count)
    fetches, updates = stand_ins.of("memory"), stand_ins.of("update")
    for iteration in range(count):
        if iteration > staleness:
            assert updates[iteration - 1 - staleness].end <= fetches[iteration].start
        if iteration >= staleness:
            assert fetches[iteration].end <= updates[iteration - staleness].start


@pytest.mark.parametrize("staleness", [0, 2])
def test_queues_hold_as_much_as_the_graph_says_and_no_more(staleness: int) -> None:
    graph = graph_of("mspipe", staleness)
    gate = threading.Event()
    stand_ins = StandIns(graph, instead={"features": lambda iteration: gate.wait()})
    runner = Engine(graph, stand_ins.functions, caller="none").run(stand_ins.items(50))
    first = threading.Thread(target=next, args=(runner,))
    first.start()
    full = 1 + DEPTH + staleness  # the one that features works on, and those behind it
    deadline = time.perf_counter() + 60
    while len(stand_ins.of("sample")) < full and time.perf_counter() < deadline:
        time.sleep(1e-3)
    time.sleep(0.02)
    assert len(stand_ins.of("sample")) == full
    gate.set()
    first.join()
    time.sleep(0.02)  # nobody takes the results, so that everything fills up
    for before, after in pairwise(graph.stages):
        assert len(stand_ins.of(before.name)) <= len(stand_ins.of(after.name)) + full
    runner.close()


def test_a_delay_holds_the_fetch_back() -> None:
    graph = graph_of("mspipe", 1)
    late: dict[bool, list[float]] = {}
    for delayed in (False, True):
        stand_ins = StandIns(graph, lambda stage, iteration: 0.04 if stage == "train" else 0.0)
        delay = Delay("memory", "train", 1, Fraction(3, 100)) if delayed else None
        list(Engine(graph, stand_ins.functions, delay).run(stand_ins.items(7)))
        fetches, trained = stand_ins.of("memory"), stand_ins.of("train")
        late[delayed] = [fetches[i].start - trained[i - 1].start for i in range(1, 7)]
        stand_ins.check(graph, 7)
    assert statistics.median(late[True]) >= 0.029
    assert min(late[False]) < 0.02, "without the delay it need not wait, though a busy machine may make it"


@pytest.mark.parametrize(("first", "then"), [(2, 0), (0, 2)])
def test_a_running_engine_adopts_another_staleness(first: int, then: int) -> None:
    graph, missed, updated = graph_of("mspipe", first), {}, [0]
    adopted: list[float] = []  # just before and just after

    def fetch(iteration: int) -> None:
        missed[iteration] = iteration - updated[0]

    def update(iteration: int) -> None:
        updated[0] = iteration + 1

    def observe(spans: Sequence[Span]) -> None:
        if spans[0].iteration == 15:
            adopted.append(time.perf_counter())
            engine.adopt(graph_of("mspipe", then), None)
            adopted.append(time.perf_counter())

    stand_ins = StandIns(graph, slow_training, {"memory": fetch, "update": update})
    engine = Engine(graph, stand_ins.functions, observe=observe)
    assert len(list(engine.run(stand_ins.items(40)))) == 40
    fetches = stand_ins.of("memory")
    earlier = [missed[i] for i in fetches if fetches[i].start < adopted[0]]
    later = [missed[i] for i in fetches if fetches[i].start > adopted[1]]
    assert max(earlier) == first
    assert max(later[1:]) == then  # the first may have been on its way


def test_spans_hold_every_stage_and_leave_out_what_nobody_pays() -> None:
    graph, seen, mine = graph_of("exact", 1), [], threading.local()

    def compile_first(iteration: int) -> None:
        time.sleep(2e-3)
        mine.passed = getattr(mine, "passed", 0.0) + 1e-3

    stand_ins = StandIns(graph, instead={"memory": compile_first, "train": compile_first})
    engine = Engine(graph, stand_ins.functions, observe=seen.append, unpaid=lambda: float(getattr(mine, "passed", 0.0)))
    for done, _ in enumerate(engine.run(stand_ins.items(5)), 1):
        assert len(seen) == done  # told of an iteration before it is handed out
    for iteration, spans in enumerate(seen):
        assert [(s.stage, s.resource, s.iteration) for s in spans] == [
            (name, RESOURCES[name], iteration) for name in stand_ins.expected
        ]
        for span in spans:
            ran = stand_ins.of(span.stage)[iteration]
            assert span.start <= ran.start <= ran.end <= span.end
            unpaid = 1e-3 if span.stage in ("memory", "train") else 0.0
            assert span.seconds == pytest.approx(span.end - span.start - unpaid, abs=1e-9)


class Noting(Lane):
    """A lane that writes down on which thread it is used, and with which marks."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []
        self.stages = 0

    def note(self, what: str, of: Any = None) -> None:
        self.log.append((what, threading.current_thread().name, of))

    def open(self) -> None:
        self.note("open")

    def close(self) -> None:
        self.note("close")

    def before(self, marks: Sequence[Any]) -> None:
        self.note("before", sorted(marks))

    def after(self) -> Any:
        self.stages += 1
        return self.stages


def test_a_lane_is_opened_told_of_marks_and_closed_on_its_own_thread() -> None:
    graph = StageGraph((Stage("a", "left"), Stage("b", "right")), (Dependency("a", "b"), Dependency("b", "a", 1)))
    left, right = Noting(), Noting()
    stand_ins = StandIns(graph)
    list(
        Engine(graph, stand_ins.functions, caller="right", lanes={"left": left, "right": right}).run(stand_ins.items(3))
    )
    assert [what for what, _, _ in left.log] == ["open", "before", "before", "before", "close"]
    assert {thread for _, thread, _ in left.log} == {"left"}
    assert {thread for _, thread, _ in right.log} == {threading.current_thread().name}
    # An iteration that was handed out has no marks left, since all its work is done.
    assert [marks for what, _, marks in right.log if what == "before"] == [[1], [2], [3]]


def test_a_stage_has_to_wait_for_the_one_listed_before_it() -> None:
    with pytest.raises(GraphError, match="'b' uses the result of 'a'"):
        Engine(StageGraph((Stage("a", "x"), Stage("b", "y"))), {})


def serial_graph(*names: str) -> StageGraph:
    return StageGraph(tuple(Stage(name, "cpu") for name in names))


def test_serially_every_item_passes_all_stages_before_the_next_starts() -> None:
    stand_ins = StandIns(serial_graph("a", "b"))
    assert list(run_serial(stand_ins.graph, stand_ins.functions, stand_ins.items(2))) == [
        (0, ("a", "b")),
        (1, ("a", "b")),
    ]
    assert [(each.stage, each.iteration) for each in stand_ins.ran] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_serial_stage_times_are_the_stages_own() -> None:
    passed: list[float] = []
    seen: list[list[Span]] = []
    lane = Noting()

    def stage(item: int) -> int:
        time.sleep(1e-3)
        passed.append(-5.0)
        return item

    runner = run_serial(serial_graph("a"), {"a": stage}, range(3), seen.append, lambda: sum(passed), {"cpu": lane})
    for _ in runner:
        passed.append(100.0)  # what the caller does between iterations is nobody's stage
    for iteration, (span,) in enumerate(seen):
        assert (span.stage, span.resource, span.iteration) == ("a", "cpu", iteration)
        assert span.seconds == pytest.approx(span.end - span.start + 5.0, abs=1e-9)
        assert span.end - span.start >= 1e-3
    assert [what for what, _, _ in lane.log] == ["open", "before", "before", "before", "close"]


def test_serially_an_error_ends_the_run_where_it_happened() -> None:
    def fail(item: int) -> Any:
        raise ZeroDivisionError(item)

    done: list[int] = []
    lane = Noting()
    with pytest.raises(ZeroDivisionError, match="7"):
        done.extend(run_serial(serial_graph("fail"), {"fail": fail}, [7, 8], lanes={"cpu": lane}))
    assert done == []
    assert lane.log[-1][0] == "close"


def test_serially_every_resource_has_its_lane_and_a_lane_of_several_is_opened_once() -> None:
    graph = StageGraph((Stage("a", "host"), Stage("b", "gpu"), Stage("c", "host"), Stage("d", "disk")))
    host, shared = Noting(), Noting()
    functions = {name: lambda item, name=name: item + name for name in "abcd"}
    lanes = {"host": host, "gpu": shared, "disk": shared}
    assert list(run_serial(graph, functions, ["1", "2"], lanes=lanes)) == ["1abcd", "2abcd"]
    assert [what for what, _, _ in host.log] == ["open", *["before"] * 4, "close"]
    assert [what for what, _, _ in shared.log] == ["open", *["before"] * 4, "close"]


def test_a_serial_run_can_be_left() -> None:
    stand_ins = StandIns(serial_graph("a"))

    def items() -> Iterator[Any]:
        yield from stand_ins.items(2)
        raise AssertionError("nobody asked for a third one")

    runner = run_serial(stand_ins.graph, stand_ins.functions, items())
    assert next(runner)[0] == 0
    runner.close()
    assert len(stand_ins.ran) == 1
