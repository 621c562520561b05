"""The `graphpipe run` command: what it refuses, prints and writes, and real runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mspipe_triton.cli import graphpipe_run, graphpipe_run_screen
from mspipe_triton.cli.graphpipe_run_screen import ProgressLine
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.plan_file import read_plan
from mspipe_triton.pipeline.graphpipe.profile import measured_costs, read_profile
from mspipe_triton.pipeline.graphpipe.run.result import Comparison, RunResult, StageResult
from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("--model", "towers:build", "--data", "towers:batches")
TOWERS = """
import time
import torch
from torch import nn

def tower():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = tower(), tower(), nn.Linear(128, 1)

    def forward(self, x, y):
        return self.head(torch.cat([self.left(x), self.right(y)], dim=1)).square().mean()

def build():
    return Towers(), (torch.randn(4, 64), torch.randn(4, 64))

def other():
    return nn.Sequential(nn.Linear(64, 64), nn.Flatten(0)), (torch.randn(4, 64),)

def batches():
    return [(torch.randn(32, 64), torch.randn(32, 64)) for _ in range(3)]

def slow():
    for batch in batches() * 1000:
        open("training", "w").close()
        time.sleep(0.1)
        yield batch
"""


@pytest.fixture
def plan(command: Run, tmp_path: Path) -> Path:
    """A plan of three stages, in the folder of the commands, with its model beside it."""
    (tmp_path / "towers.py").write_text(TOWERS, encoding="utf-8")
    done = command("graphpipe", "--model", "towers:build", "--devices", "3", "--batch", "32", "--json")
    (tmp_path / "plan.json").write_text(done.stdout, encoding="utf-8")
    sys.modules.pop("towers")
    assert read_plan(tmp_path / "plan.json").devices == 3
    return tmp_path / "plan.json"


def result_of(path: Path) -> RunResult:
    """A run that took twice as long as planned."""
    read = read_plan(path)
    timeline = simulate_plan(read)
    stages = []
    for stage in read.stages:
        forward, backward = read.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        memory = read.memory(stage)
        stages.append(
            StageResult(
                stage.name,
                stage.devices,
                Comparison(forward, 2 * forward),
                Comparison(backward, 2 * backward),
                Comparison(memory, memory + 1e6),
                Comparison(stage.in_flight, stage.in_flight),
            )
        )
    step = Comparison(timeline.makespan, 2 * timeline.makespan)
    return RunResult(read, 12, (3.5, 0.25), step, Comparison(1e-3, 2e-3), tuple(stages), timeline, 3e9, 5 * 10**8, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.json",), "nowhere.json: no such file"),
        (("plan.json", "--trace", "plan.json"), "PLAN and --trace both name plan.json; use two files"),
        (("plan.json", "--trace", "a", "--profile", "./a"), "--trace and --profile both name a; use two files"),
        (("plan.json", "--picture", "a.png"), "pictures are .svg files, so a.png needs that ending"),
        (("plan.json", "--profile", "no/a"), "no/a: there is no folder no"),
        (("plan.json", "--trace", ""), "--trace is empty; give a value, or omit it"),
        (("plan.json", "--resume"), "--resume goes on from a checkpoint; give its folder with --checkpoint"),
        (("plan.json", "--steps", "0"), "steps must be at least 1, not 0"),
        (("plan.json", "--checkpoint", "plan.json"), "plan.json: is a file; name a folder for checkpoints"),
        (("plan.json", "--checkpoint", "no", "--resume"), "no: there is no checkpoint; name the folder of a run"),
    ],
)
def test_wrong_input_is_refused_before_any_process_starts(
    arguments: tuple[str, ...], message: str, plan: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    done = command("graphpipe", "run", *arguments, *NAMES)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_results_are_printed_and_written(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(file=StringIO(), width=110)
    monkeypatch.setattr("mspipe_triton.cli.console.console", screen)
    result = result_of(plan)
    outputs = {"trace": "trace.json", "picture": "picture.svg", "profile": "profile.json"}
    graphpipe_run._report(result, {name: str(tmp_path / file) for name, file in outputs.items()}, as_json=True)
    assert json.loads(capsys.readouterr().out) == result.to_json()
    text = screen.file.getvalue()
    assert "towers:build: 3 processes, 12 steps" in text
    assert "loss 3.5 → 0.25" in text
    for stage in result.stages:
        assert f"{stage.forward.planned * 1e3:,.4g} / {stage.forward.measured * 1e3:,.4g}" in text
    processes = [
        each["args"]["name"]
        for each in json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
        if each["name"] == "process_name"
    ]
    assert len(processes) >= 2
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8").startswith("<svg")
    graph, bandwidth = read_profile(tmp_path / "profile.json", result.plan.problem.graph)
    assert bandwidth == 3e9
    for before, after in zip(result.plan.problem.graph.operators, graph.operators, strict=True):
        assert after.forward.per_sample == pytest.approx(2 * before.forward.per_sample)


def test_a_profile_has_the_times_of_operators(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mspipe_triton.cli.console.console", Console(file=StringIO()))
    result = result_of(plan)
    graph = result.plan.problem.graph
    times = {name: (1.0 + number, 2.0) for number, name in enumerate(graph.names(graph.placed))}
    outputs = {"trace": None, "picture": None, "profile": str(tmp_path / "profile.json")}
    graphpipe_run._report(replace(result, operators=times), outputs, as_json=False)
    passes = [(each.forward.measured, each.backward.measured) for each in result.stages]
    assert read_profile(tmp_path / "profile.json", graph)[0] == measured_costs(result.plan, passes, times)
    assert max(map(len, _factors(result.plan, tmp_path / "profile.json"))) > 1


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_line_of_a_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=StringIO(), force_terminal=terminal)
    monkeypatch.setattr(graphpipe_run_screen, "console", screen)
    with ProgressLine(1200) as line:
        line.show(3, 0.5)
    shown = "\r\x1b[2KTraining: step 3 of 1,200, loss 0.5\r\r\x1b[2K"
    assert screen.file.getvalue() == (shown if terminal else "")


@pytest.mark.slow
def test_a_run_trains_and_goes_on_from_its_checkpoint(plan: Path, tmp_path: Path, process: Run) -> None:
    first = process("graphpipe", "run", "plan.json", *NAMES, "--steps", "6", "--checkpoint", "saved", "--json")
    assert first.returncode == 0, first.stderr
    more = ("--steps", "8", "--checkpoint", "saved", "--resume", "--json", "--picture", "p.svg", "--profile", "p.json")
    second = process("graphpipe", "run", "plan.json", *NAMES, *more)
    whole = process("graphpipe", "run", "plan.json", *NAMES, "--steps", "8", "--json")
    new = process("graphpipe", "run", "plan.json", *NAMES, "--checkpoint", "saved")
    assert (new.returncode, "saved: holds a checkpoint already (step-00008)" in new.stderr) == (2, True)
    done = process("graphpipe", "run", "plan.json", *NAMES, "--steps", "8", "--checkpoint", "saved", "--resume")
    assert (done.returncode, "saved: nothing to do: the checkpoint is after 8 steps" in done.stderr) == (2, True)
    results = [json.loads(each.stdout) for each in (first, second, whole)]
    assert [each["steps"] for each in results] == [6, 8, 8]
    assert results[0]["losses"] + results[1]["losses"] == pytest.approx(results[2]["losses"], rel=1e-6)
    again = ("--model", "towers:build", "--devices", "3", "--batch", "32", "--profile", "p.json", "--json")
    assert json.loads(process("graphpipe", *again).stdout)["batch"] == 32
    assert [each.get("operators") is None for each in results] == [True, False, True]
    assert max(map(len, _factors(read_plan(plan), tmp_path / "p.json"))) > 1
    assert (tmp_path / "p.svg").exists()


def _factors(plan: PipelinePlan, profile: Path) -> list[set[float]]:
    """Return, by stage, by how much longer its operators' forward passes took than planned."""
    before, (after, _) = plan.problem.graph, read_profile(profile, plan.problem.graph)
    return [
        {
            round(after.operators[index].forward.per_sample / before.operators[index].forward.per_sample, 6)
            for index in members(stage.operators)
            if before.operators[index].forward.per_sample
        }
        for stage in plan.stages
    ]


@pytest.mark.slow
def test_the_best_chain_runs(plan: Path, process: Run) -> None:
    done = process("graphpipe", "run", "plan.json", *NAMES, "--steps", "2", "--sequential", "--json")
    chain = json.loads(plan.read_text(encoding="utf-8"))["sequential"]
    assert len(json.loads(done.stdout)["stages"]) == len(chain["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "torchrun"])
def test_a_plan_of_another_model_is_refused_once(way: str, plan: Path, tmp_path: Path) -> None:
    with _started(way, tmp_path, "towers:other", "towers:batches") as process:
        errors = process.communicate(timeout=120)[1].splitlines()
    lines = [line for line in errors if line.startswith("mspipe-triton: ")]
    assert len(lines) == 1
    assert "the plan is for another model, towers:build" in lines[0]
    if way == "alone":
        assert errors == lines


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "torchrun"])
def test_a_process_that_is_killed_while_training_is_named(way: str, plan: Path, tmp_path: Path) -> None:
    with _started(way, tmp_path, "towers:build", "towers:slow", "--steps", "1000") as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "training").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        assert len(children) == 3
        os.kill(int(children[1]), signal.SIGKILL)
        errors = process.communicate(timeout=60)[1].splitlines()
    lines = [line for line in errors if line.startswith("mspipe-triton: ")]
    end = "was killed by SIGKILL, as the system does if memory runs out" if way == "alone" else "died"
    assert lines == [f"mspipe-triton: process 1 (stage 1, pid {children[1]}) {end}"]
    if way == "alone":
        assert (process.returncode, errors) == (1, lines)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@contextmanager
def _started(way: str, folder: Path, model: str, data: str, *others: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run of the plan with or without torchrun, and end what a failing test leaves of it."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "3") if way == "torchrun" else ()
    command = ("-m", "mspipe_triton", "graphpipe", "run", "plan.json", "--model", model, "--data", data, *others)
    process = subprocess.Popen(
        [sys.executable, *torchrun, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
