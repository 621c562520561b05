"""Ends of a pipelined run: by an error, by closing it, by Ctrl-C or by the watchdog, and never by hanging."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipe_triton.errors import StuckError
from mspipe_triton.pipeline.engine import Engine
from mspipe_triton.pipeline.lane import Lane
from mspipe_triton.pipeline.schedules import schedule_graph, stage_names
from tests.pipeline.standins import StandIns, no_thread_left

ROOT = Path(__file__).resolve().parent.parent.parent
GRAPH = schedule_graph("exact", dict.fromkeys(stage_names("exact"), 1), 1)


def fail_at_5(iteration: int) -> None:
    if iteration == 5:
        raise ZeroDivisionError("bad item")


@pytest.mark.parametrize("stage", stage_names("exact"))
def test_an_error_in_any_stage_ends_the_run_with_its_traceback(stage: str) -> None:
    stand_ins = StandIns(GRAPH, actions={stage: fail_at_5})
    done = []
    with no_thread_left():
        with pytest.raises(ZeroDivisionError, match="bad item") as error:
            done.extend(Engine(GRAPH, stand_ins.functions).run(stand_ins.items(10_000)))
        text = "".join(traceback.format_exception(error.value))
        assert "in fail_at_5" in text
        assert f"In stage {stage} of iteration 5." in text
    assert max(stand_ins.runs_of(stage)) == 4
    assert max(run.iteration for run in stand_ins.runs) < 5 + len(GRAPH.stages) * 5  # no more than the queues hold


def test_an_error_does_not_wait_for_other_iterations() -> None:
    gate = threading.Event()
    stand_ins = StandIns(GRAPH, actions={"sample": fail_at_5, "update": lambda iteration: gate.wait(60)})
    start = time.perf_counter()
    with no_thread_left():
        timer = threading.Timer(0.2, gate.set)  # the run waits at most a few seconds for a running stage
        timer.start()
        with pytest.raises(ZeroDivisionError):
            list(Engine(GRAPH, stand_ins.functions).run(stand_ins.items(100)))
    assert time.perf_counter() - start < 30


def test_an_error_in_the_items_ends_the_run() -> None:
    stand_ins = StandIns(GRAPH)

    def items() -> Iterator[object]:
        yield from stand_ins.items(3)
        raise OSError("no fourth item")

    with no_thread_left():
        with pytest.raises(OSError, match="no fourth item") as error:
            list(Engine(GRAPH, stand_ins.functions).run(items()))
        assert "in items" in "".join(traceback.format_exception(error.value))


def test_a_lane_that_fails_to_open_ends_the_run() -> None:
    class ShutLane(Lane):
        def open(self) -> None:
            raise PermissionError("shut")

    stand_ins = StandIns(GRAPH)
    for resource in GRAPH.by_resource:
        with no_thread_left(), pytest.raises(PermissionError, match="shut"):
            list(Engine(GRAPH, stand_ins.functions, lanes={resource: ShutLane()}).run(stand_ins.items(3)))
    assert not stand_ins.runs_of("update")


def test_a_run_can_be_closed_early_and_an_observer_may_raise() -> None:
    stand_ins = StandIns(GRAPH, lambda stage, iteration: 1e-3)
    with no_thread_left():
        runner = Engine(GRAPH, stand_ins.functions).run(stand_ins.items(10_000))
        assert [next(runner)[0] for _ in range(3)] == [0, 1, 2]
        runner.close()

    def observe(spans: object) -> None:
        raise KeyError("unseen")

    with no_thread_left(), pytest.raises(KeyError, match="unseen"):
        list(Engine(GRAPH, stand_ins.functions, observe=observe).run(stand_ins.items(10_000)))


def hang(iteration: int) -> None:
    """Block iteration 2 until the gate opens."""
    if iteration == 2:
        GATE.wait(60)


GATE = threading.Event()


@pytest.mark.parametrize("stage", ["sample", "memory", "update"])
def test_the_watchdog_names_a_stage_that_is_stuck(stage: str) -> None:
    GATE.clear()
    stand_ins = StandIns(GRAPH, actions={stage: hang})
    start = time.perf_counter()
    with no_thread_left():
        with pytest.raises(StuckError) as error:
            list(Engine(GRAPH, stand_ins.functions, patience=1.0).run(stand_ins.items(100)))
        assert 1.0 <= time.perf_counter() - start < 30
        GATE.set()
    message = str(error.value)
    assert message.startswith("nothing has ended for 1 s: ")
    assert f"stage {stage} of iteration 2 has been running for" in message
    assert message.count("has been running") == 1
    assert "threading.py" in message  # the place where it hangs
    assert "\n" not in message


def test_the_watchdog_names_a_stage_that_waits_for_an_item() -> None:
    GATE.clear()
    stand_ins = StandIns(GRAPH)

    def items() -> Iterator[object]:
        for item in stand_ins.items(100):
            hang(item[0])
            yield item

    with no_thread_left():
        with pytest.raises(StuckError, match="stage sample of iteration 2 has been running for"):
            list(Engine(GRAPH, stand_ins.functions, patience=1.0).run(items()))
        GATE.set()


def test_a_slow_consumer_is_not_a_stuck_stage() -> None:
    stand_ins = StandIns(GRAPH)
    with no_thread_left():
        for iteration, _ in Engine(GRAPH, stand_ins.functions, patience=1.0).run(stand_ins.items(6)):
            time.sleep(1.5 if iteration == 2 else 0.0)
    assert len(stand_ins.runs_of("update")) == 6


SCRIPT = """
import signal, sys, time
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
from mspipe_triton.pipeline import engine
from tests.pipeline.standins import StandIns
from tests.pipeline.test_engine_ends import GRAPH

engine._GRACE = 0.5

def block(iteration):
    if iteration == 2:
        print("here", flush=True)
        time.sleep(60)

stand_ins = StandIns(GRAPH, lambda stage, iteration: 1e-3, {{{stage!r}: block}})
for iteration, _ in engine.Engine(GRAPH, stand_ins.functions, patience={patience}).run(stand_ins.items(10_000)):
    if {stage!r} == "consumer":
        block(iteration)
"""


def start_run(stage: str, patience: float) -> subprocess.Popen[str]:
    code = SCRIPT.format(root=str(ROOT), stage=stage, patience=patience)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_a_run_at_any_point() -> None:
    # On the calling thread, on a worker while the calling thread waits, and between two iterations.
    processes = [start_run(stage, 300) for stage in ("train", "memory", "consumer")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
    for process in processes:
        _, error = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGINT
        assert re.search(r"\nKeyboardInterrupt(\nIn stage \w+ of iteration \d\.)?$", error.rstrip())


def test_a_stuck_stage_on_the_main_thread_is_interrupted() -> None:
    process = start_run("train", 1.0)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    last = error.splitlines()[-1]
    assert last.startswith("mspipe_triton.errors.StuckError: nothing has ended for 1 s: stage train of iteration 2 ")
    assert "(block)" in last
