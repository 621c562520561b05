"""The `graphpipe` command as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipe_triton.cli.app import graphpipe_app
from mspipe_triton.cli.graphpipe import parse_bytes
from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan_file import read_plan
from mspipe_triton.pipeline.graphpipe.profile import measured_costs, write_profile
from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan

Run = Callable[..., subprocess.CompletedProcess[str]]
CASE = ("--model", "two-branch", "--devices", "8", "--batch", "128", "--memory", "16GB")
TOWERS = """
import torch
from torch import nn

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        self.right = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        self.head = nn.Linear(128, 8)

    def forward(self, x, y):
        return self.head(torch.cat([self.left(x), self.right(y)], dim=1))

def build():
    return Towers(), (torch.randn(4, 64), torch.randn(4, 64))

def broken():
    raise RuntimeError("no weights here")

def narrow():
    return nn.Linear(8, 8), (torch.randn(2, 4),)

value = 3
"""


def test_json_of_the_case_study(command: Run) -> None:
    done = command("graphpipe", *CASE, "--json")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    plan = json.loads(done.stdout)
    assert (plan["depth"], plan["sequential"]["depth"]) == (4, 8)
    assert (max(plan["in_flight"].values()), max(plan["sequential"]["in_flight"].values())) == (4, 8)
    assert plan["sequential"]["time_per_sample"] / plan["time_per_sample"] == pytest.approx(plan["speedup"])
    assert plan["lower_bound"] <= plan["time_per_sample"] < plan["sequential"]["time_per_sample"] / 1.2
    assert plan["lower_bound"] == max(plan["bounds"].values())
    operators = [name for stage in plan["stages"] for name in stage["operators"]]
    assert sorted(operators) == sorted(["a.0", "a.1", "a.2", "a.3", "b.0", "b.1", "b.2", "b.3", "loss"])
    assert sorted(device for stage in plan["stages"] for device in stage["devices"]) == list(range(8))
    assert {name: plan["in_flight"][name] for name in ("stage 0", "stage 3")} == {"stage 0": 4, "stage 3": 1}
    assert plan["stages"][1]["after"] == ["stage 0"]
    assert plan["stages"][7]["joins"] == ["stage 3"]
    assert plan["search_seconds"] > 0 < plan["states"]


def test_screen_shows_plan_chain_and_bound(command: Run) -> None:
    done = command("graphpipe", *CASE)
    assert (done.returncode, done.stdout) == (0, "")
    for words in (
        "two-branch: batch 128 on 8 devices",
        "1.23 times as fast as the best chain",
        "lower bound",
        "joins 3",
    ):
        assert words in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_picture_and_trace(command: Run, tmp_path: Path) -> None:
    done = command("graphpipe", *CASE, "--picture", "plan.svg", "--trace", "plan.json")
    assert done.returncode == 0
    assert "stage 7" in (tmp_path / "plan.svg").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_module_of_the_users_own(command: Run, tmp_path: Path) -> None:
    (tmp_path / "towers_of_mine.py").write_text(TOWERS, encoding="utf-8")
    done = command("graphpipe", "--model", "towers_of_mine:build", "--devices", "2", "--batch", "8", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    operators = {name for stage in plan["stages"] for name in stage["operators"]}
    assert {"left.0", "left.1", "right.0", "right.1", "head"} == operators
    (tmp_path / "plan.json").write_text(done.stdout, encoding="utf-8")
    read = read_plan(tmp_path / "plan.json")
    assert [list(read.problem.graph.names(each.operators)) for each in read.stages] == [
        each["operators"] for each in plan["stages"]
    ]


def test_plan_measure_plan_again(command: Run, tmp_path: Path) -> None:
    """Branch b took three times as long as planned: with its measured costs, that is what the plan is for."""
    (tmp_path / "plan.json").write_text(command("graphpipe", *CASE, "--json").stdout, encoding="utf-8")
    plan = read_plan(tmp_path / "plan.json")
    passes = []
    for stage in plan.stages:
        slower = 3 if plan.problem.graph.names(stage.operators)[0].startswith("b") else 1
        forward, backward = plan.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        passes.append((slower * forward, slower * backward))
    graph = measured_costs(plan, passes)
    write_profile(tmp_path / "costs.json", graph, 5e9)
    done = command("graphpipe", *CASE, "--profile", "costs.json", "--json")
    assert done.returncode == 0, done.stderr
    (tmp_path / "again.json").write_text(done.stdout, encoding="utf-8")
    again = read_plan(tmp_path / "again.json")
    assert (again.problem.graph, again.problem.cluster.bandwidth) == (graph, 5e9)
    assert simulate_plan(again).time_per_sample > 2 * simulate_plan(plan).time_per_sample
    done = command("graphpipe", *CASE, "--profile", "costs.json", "--bandwidth", "7GB", "--json")
    assert json.loads(done.stdout)["problem"]["cluster"]["bandwidth"] == 7e9
    write_profile(tmp_path / "costs.json", graph, None)
    done = command("graphpipe", *CASE, "--profile", "costs.json", "--json")
    assert json.loads(done.stdout)["problem"]["cluster"]["bandwidth"] == plan.problem.cluster.bandwidth


@pytest.fixture
def subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    """`graphpipe show PLAN --model NAME`, which prints both."""
    monkeypatch.setattr(graphpipe_app, "registered_commands", [])

    @graphpipe_app.command("show")
    def show(plan: str, model: str = "none") -> None:
        print(plan, model)


@pytest.mark.usefixtures("subcommand")
def test_a_subcommand_runs_without_planning(command: Run) -> None:
    done = command("graphpipe", "show", "plan.json", "--model", "towers:build")
    assert (done.returncode, done.stdout, done.stderr) == (0, "plan.json towers:build\n", "")


@pytest.mark.usefixtures("subcommand")
@pytest.mark.parametrize("flag", [("--model", "dlrm"), ("--devices", "8"), ("--json",)], ids=" ".join)
def test_flags_of_planning_before_a_subcommand_are_refused(command: Run, flag: tuple[str, ...]) -> None:
    done = command("graphpipe", *flag, "show", "plan.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{flag[0]} stands before show, and there it is for planning" in done.stderr


@pytest.mark.usefixtures("subcommand")
def test_help_shows_flags_and_subcommands(command: Run) -> None:
    done = command("graphpipe", "--help", COLUMNS="200", TERM="dumb")
    assert done.returncode == 0
    for words in ("[OPTIONS] [COMMAND ...]", "--model", "required", "--devices", "show"):
        assert words in done.stdout


WRONG = {
    "no model": ((), "Missing option '--model'. See `mspipe-triton graphpipe --help`."),
    "no such command": ((*CASE, "runs"), "No such command 'runs'"),
    "no such model": (
        ("--model", "mmd"),
        "candle-uno or module:attr, not 'mmd'",
    ),
    "no such module": (("--model", "nowhere_at_all:build"), "there is no module nowhere_at_all"),
    "no such attribute": (("--model", "towers_of_mine:missing"), "missing"),
    "not callable": (("--model", "towers_of_mine:value"), "of type int"),
    "call that fails": (("--model", "towers_of_mine:broken"), "no weights here"),
    "no devices": ((*CASE, "--devices", "0"), "devices must be at least 1, not 0"),
    "no batch": ((*CASE, "--batch", "0"), "batch must be at least 1, not 0"),
    "no memory": (
        (*CASE, "--memory", "0"),
        "must be a number of bytes of at least 1, as in 16GB or 16GiB, not '0'",
    ),
    "memory in words": ((*CASE, "--memory", "plenty"), "--memory must be"),
    "batch that is not divisible": ((*CASE, "--micro-batch", "3"), "must divide the batch of 128, not 3"),
    "too little memory": ((*CASE, "--memory", "8GB"), "operator 'a.0' needs"),
    "memory for no schedule": ((*CASE, "--memory", "10.5GB"), "needs 10.72 GB on each device"),
    "too few devices": ((*CASE, "--devices", "7"), "8 operators need a device each"),
    "no such schedule": ((*CASE, "--schedule", "gpipe"), "not one of 1f1b, kfkb"),
    "no such accelerator": ((*CASE, "--accelerator", "v1000"), "not one of v100, a100, h100, h200"),
    "no such costs": ((*CASE, "--costs", "guessed"), "not one of analytic, profile"),
    "picture of another kind": ((*CASE, "--picture", "plan.png"), "pictures are .svg files"),
    "pictures in no folder": ((*CASE, "--picture", "nowhere/plan.svg"), "there is no folder nowhere; create it"),
    "trace into a folder": ((*CASE, "--trace", "."), ". is a folder"),
    "trace into a device": ((*CASE, "--trace", "/dev/null"), "/dev/null is no regular file"),
    "one file for two": ((*CASE, "--picture", "a.svg", "--trace", "a.svg"), "--picture and --trace both name a.svg"),
    "empty memory": ((*CASE, "--memory", ""), "--memory is empty"),
    "costs of a built-in model": ((*CASE, "--costs", "profile"), "--costs is for module:attr"),
    "too many devices": ((*CASE, "--devices", "1000000000000"), "devices must be at most 4,096"),
    "too many passes": ((*CASE, "--batch", "1000000", "--micro-batch", "1"), "1,000,000 passes"),
    "path for a module": (
        ("--model", "./towers_of_mine.py:build"),
        "in its folder, with towers_of_mine:build",
    ),
    "forward pass that fails": (("--model", "towers_of_mine:narrow"), "Linear's forward pass raised"),
    "no such profile": ((*CASE, "--profile", "no.json"), "no.json: no such file; name the file of a profile"),
    "profile of another model": ((*CASE, "--profile", "costs.json"), "operator 'a.0' is of two-branch, not in it"),
    "empty profile": ((*CASE, "--profile", ""), "--profile is empty; give a value, or omit it"),
    "two sources of times": (
        ("--model", "towers_of_mine:build", "--costs", "profile", "--profile", "costs.json"),
        "--costs profile measures times, and --profile costs.json has some; omit one of them",
    ),
    "negative bandwidth": ((*CASE, "--bandwidth", "-5GB"), "--bandwidth must be"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(command: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "towers_of_mine.py").write_text(TOWERS, encoding="utf-8")
    write_profile(tmp_path / "costs.json", OperatorGraph((Operator("x"),), (), "other"), None)
    done = command("graphpipe", "--json", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GB", 16e9), ("16 GiB", 16 * 2**30), ("1.5e3", 1500), ("80g", 80e9), ("512MB", 512e6), ("", None)],
)
def test_bytes_in_common_forms(text: str, size: float | None) -> None:
    assert parse_bytes("--memory", text) == size
