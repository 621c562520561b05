"""Compiled loops of a run: compiled beside it if that pays, left out if not, and never a reason to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime import fusion
from mspipe_triton.settings import default_settings
from mspipe_triton.training.loops import DECIDING, Costs, Loops, subject
from mspipe_triton.training.precompile import Compiled, CompilerProcess, compile_run
from mspipe_triton.training.precompile import small_stream as small
from mspipe_triton.training.trainer import Observer

CONFIG = RunConfig(model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, negatives=3, threads=1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fusion on, as in a run with a compiler; functions are called eagerly all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    fusion.enable_fusion(True)
    yield
    fusion.enable_fusion(False)


class Beside:
    """A compiling process that ends when `result` is set."""

    def __init__(self) -> None:
        self.result: Compiled | None = None
        self.closed = False

    def poll(self) -> Compiled | None:
        return self.result

    def close(self) -> None:
        self.closed = True


class Case:
    """Loops of a run whose iterations take `second` seconds each."""

    def __init__(self, stream: EventStream, second: float, epochs: int = 3, **train: Any) -> None:
        config = CONFIG.with_flags({**train, "epochs": epochs})
        self.session = Session.create(replace(config, settings=default_settings(config.train)), stream)
        self.second, self.now, self.notes, self.beside = second, 0.0, list[str](), Beside()
        self.started = 0
        self.loops = Loops(self.session, stream, epochs, self.notes.append, self.start, lambda: self.now)

    def start(self) -> Beside:
        self.started += 1
        return self.beside

    def iterations(self, count: int) -> None:
        for _ in range(count):
            self.now += self.second
            self.loops.looked = 0.0
            self.loops.iteration()


def test_a_long_run_compiles_beside_training_and_then_switches(small_stream: EventStream) -> None:
    case = Case(small_stream, 5.0)
    assert (case.loops.ready, fusion.fusion_enabled()) == (False, False), "training starts without the loops"
    case.iterations(DECIDING)
    assert not case.started
    case.iterations(1)
    assert (case.started, case.loops.busy, fusion.fusion_enabled()) == (1, True, False)
    case.iterations(5)
    case.beside.result = Compiled(17.0)
    case.iterations(1)
    assert (case.loops.busy, case.loops.ready, fusion.fusion_enabled()) == (False, True, True)
    assert case.beside.closed
    assert case.notes == ["Loops are compiled beside training, in a process of low priority."]
    case.second = 4.0
    case.iterations(DECIDING)
    case.loops.use(False)
    assert not fusion.fusion_enabled()
    case.loops.remember()
    costs = Costs.load()
    assert (costs.cold, costs.gains[subject(case.session)]) == (17.0, pytest.approx(0.25))


def test_the_next_run_of_that_kind_needs_no_process(small_stream: EventStream) -> None:
    case = Case(small_stream, 5.0)
    Costs(20.0, 4.0, {subject(case.session): 0.2}).save()
    fusion.enable_fusion(True)  # the first case has turned it off
    case = Case(small_stream, 5.0)
    case.iterations(DECIDING + 1)
    assert (case.started, case.loops.ready, case.notes) == (0, True, [])


def test_a_short_run_leaves_loops_out_and_says_so_once(small_stream: EventStream) -> None:
    case = Case(small_stream, 0.1)
    case.iterations(51)
    assert (case.started, case.loops.ready, fusion.fusion_enabled()) == (0, False, False)
    (line,) = case.notes
    seconds = round(0.1 * 3 * -(-case.session.training_events // 50))
    assert line == f"Training takes about {seconds} s, too short to gain from compiling."


def test_one_line_says_that_a_run_is_not_tuned_either(small_stream: EventStream) -> None:
    case, estimates = Case(small_stream, 0.01), list[float]()
    case.loops.declines = lambda seconds: not estimates.append(seconds)  # type: ignore[func-returns-value]
    case.iterations(51)
    assert case.notes == ["Training takes about 1 s, too short to gain from compiling or tuning."]
    assert estimates == [pytest.approx(0.01 * 3 * -(-case.session.training_events // 50))]


def test_time_between_epochs_does_not_count(small_stream: EventStream) -> None:
    case = Case(small_stream, 0.01)
    for _ in range(3):
        case.loops.pause()
        case.iterations(10)
        case.now += 1000.0
    assert case.notes[0].startswith("Training takes about ")


@pytest.mark.parametrize("flags", [{"deterministic": True}, {"threads": 1}], ids=["deterministic", "usual"])
def test_deterministic_runs_decide_before_the_first_iteration(small_stream: EventStream, flags: dict[str, Any]) -> None:
    case = Case(small_stream, 5.0, **flags)
    assert case.loops.ready == fusion.fusion_enabled() == flags.get("deterministic", False)


def test_a_process_that_fails_costs_one_line(small_stream: EventStream) -> None:
    case = Case(small_stream, 5.0)
    case.iterations(DECIDING + 1)
    case.beside.result = Compiled(0.0, "the compiling process has ended early: exit status -9")
    case.iterations(20)
    assert (case.loops.busy, case.loops.ready, fusion.fusion_enabled()) == (False, False, False)
    case.loops.tell()
    assert case.notes[1:] == ["Running without fused loops: the compiling process has ended early: exit status -9."]


def test_a_process_that_cannot_start_costs_one_line(small_stream: EventStream) -> None:
    case = Case(small_stream, 5.0)

    def fail() -> Beside:
        raise OSError(12, "Cannot allocate memory")

    case.loops.start = fail
    case.iterations(40)
    assert case.notes == ["Loops are not compiled: no process can be started (Cannot allocate memory)."]


def test_a_run_that_ends_first_ends_the_process(small_stream: EventStream) -> None:
    case = Case(small_stream, 5.0, epochs=2)
    case.iterations(DECIDING + 1)
    case.iterations(34 - DECIDING - 1)
    assert case.beside.closed


@pytest.mark.parametrize("content", ["", "{}", '{"cold": "x", "warm": 1, "gains": {}}', "[1]"])
def test_a_damaged_file_of_costs_is_ignored(tmp_path: Path, content: str) -> None:
    Costs.path().parent.mkdir(parents=True)
    Costs.path().write_text(content)
    assert Costs.load() == Costs()


def test_costs_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Costs(1.0, 1.0).save()
    assert Costs.load() == Costs()


@pytest.mark.parametrize(("size", "split"), [(50, (150, 200)), (600, (600, 900)), (1000, (1000, 1100))])
def test_the_small_stream_has_whole_batches_and_both_splits(
    small_stream: EventStream, size: int, split: tuple[int, int]
) -> None:
    stream = small(CONFIG.with_flags({"batch_size": size}), small_stream)
    assert tuple(stream.split()) == split
    assert (stream.dim_edge, stream.t.dtype) == (small_stream.dim_edge, small_stream.t.dtype)
    assert len(stream) > split[1]


@pytest.mark.parametrize("flags", [{}, {"model": "apan"}, {"protocol": "tgb", "batch_size": 200, "negatives": 49}])
def test_compiling_runs_training_and_evaluation(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    config = CONFIG.with_flags(flags)
    assert compile_run(replace(config, settings=default_settings(config.train)), small_stream).failure is None


def test_the_process_reports_and_a_broken_one_explains(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    config = replace(CONFIG, settings=default_settings(CONFIG.train))
    good, broken = CompilerProcess(config, small_stream), CompilerProcess(config, small_stream)
    (Path(broken.folder.name) / "run").write_bytes(b"damaged")
    result = finish(good)
    assert result.failure is None
    assert result.seconds > 0
    assert (finish(broken).failure or "").startswith("the compiling process has ended early: ")
    for process in (good, broken):
        process.close()
        assert not Path(process.folder.name).exists()


def finish(process: CompilerProcess) -> Compiled:
    deadline = time.monotonic() + 120
    while (result := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


SLEEPER = """
import subprocess, sys, time
code = "import threading, time; from mspipe_triton.training import precompile as p; " \\
    "threading.Thread(target=p._end_with_parent, args=['none'], daemon=True).start(); " \\
    "print('up', flush=True); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""


def test_the_process_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 20
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Return True while a process runs; one that nobody waits for may remain as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.slow
def test_a_run_switches_to_loops_that_a_process_has_compiled(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(Loops, "_remaining", lambda self: 1e4)
    notes, config = Notes(), CONFIG.with_flags({"epochs": 400})

    class Enough(Exception):
        pass

    def epoch(metrics: dict[str, Any]) -> None:
        if fusion.fusion_enabled() and metrics["epoch"] > 1 and metrics["compile_seconds"] == 0:
            raise Enough

    notes.epoch = epoch  # type: ignore[method-assign]
    with pytest.raises(Enough):
        train(config, small_stream, out=str(tmp_path / "run"), observer=notes)
    assert "Loops are compiled beside training, in a process of low priority." in notes.notes
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "event" not in line]
    assert any(epoch["compile_seconds"] > 0 for epoch in epochs)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
