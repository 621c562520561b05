"""The process that compiles beside a run: what the run does if it loses its files, and what is left when it ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime import fusion
from mspipe_triton.settings import default_settings
from mspipe_triton.training import loops as module
from mspipe_triton.training.loops import DECIDING, Costs, Loops, subject
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.precompile import Compiled, CompilerProcess

CONFIG = RunConfig(model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, negatives=3, threads=1))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_process_whose_files_somebody_removes_costs_one_line(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("true"))
    process = CompilerProcess(replace(CONFIG, settings=default_settings(CONFIG.train)), small_stream)
    shutil.rmtree(process.folder.name)
    process.process.wait(20)
    assert process.poll() == Compiled(0.0, "the compiling process has ended early: exit status 0")
    process.close()


PARENT = """
import subprocess, sys
code = "import sys, threading, time; from pathlib import Path; from mspipe_triton.training import precompile as p; " \\
    "threading.Thread(target=p._end_with_parent, args=[Path(sys.argv[1])], daemon=True).start(); " \\
    "print('up', flush=True); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         start_new_session=True)
child.stdout.readline()
print("up", flush=True)
child.wait()
"""


def test_a_killed_run_leaves_no_files_of_the_process() -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "run").write_bytes(b"events")
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.kill()
    deadline = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Beside:
    """A compiling process that never ends by itself."""

    closed = False

    def poll(self) -> Compiled | None:
        return None

    def close(self) -> None:
        self.closed = True


def test_a_run_that_stops_early_ends_the_process_before_it_evaluates(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr("mspipe_triton.settings.compiler", lambda: "c++")
    monkeypatch.setattr(Loops, "_remaining", lambda self: 1e6)
    monkeypatch.setattr("mspipe_triton.training.trainer.stops", lambda scores, patience: len(scores) == 2)
    beside, closed = Beside(), list[bool]()
    monkeypatch.setattr(module, "CompilerProcess", lambda *_: beside)

    class Watching(Observer):
        def evaluation(self, split: str, events: int, total: int) -> None:
            if split == "test":
                closed.append(beside.closed)

    train(CONFIG.with_flags({"epochs": 9}), small_stream, out=str(tmp_path / "run"), observer=Watching())
    assert closed
    assert all(closed)


@pytest.mark.parametrize("disturbed", [False, True])
def test_a_gain_that_other_work_distorts_is_not_kept(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch, disturbed: bool
) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    config: RunConfig = replace(CONFIG, settings=default_settings(CONFIG.train))
    session, now = Session.create(config, small_stream), [0.0]
    monkeypatch.setattr(module, "compile_seconds", lambda: 30.0)  # of an earlier run of this process
    fusion.enable_fusion(True)
    try:
        loops = Loops(session, small_stream, 9, lambda line: None, lambda: Beside(), lambda: now[0])
        monkeypatch.setattr(module, "compile_seconds", lambda: 34.0)
        steps: list[Any] = [1.0] * (DECIDING + 1)
        for seconds in steps:
            now[0] += seconds
            loops.iteration()
        loops._finish(Compiled(20.0))
        for _ in range(DECIDING):
            now[0] += 0.5
            loops.iteration()
        loops.remember(disturbed)
    finally:
        fusion.enable_fusion(False)
    assert Costs.load().gains == {subject(session): 0.2 if disturbed else 1.0}
    assert Costs.load().warm == pytest.approx(4.0)
