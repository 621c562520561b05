"""Commands that repeat a run: `train` reads them as the run's settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

import mspipe_triton.cli.train  # noqa: F401  # adds the command
from mspipe_triton.cli.app import app
from mspipe_triton.cli.options import run_config
from mspipe_triton.config import RunConfig
from mspipe_triton.report.runs import Run
from mspipe_triton.report.settings import commands
from tests.report.written import result, write_run


def parse(line: str) -> dict[str, Any]:
    """The parameters of `train` on a command line."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("mspipe-triton", "train")
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]  # it is a group
    with command.make_context(name, words) as context:
        parameters: dict[str, Any] = context.params
    return parameters


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"path": "my events.csv", "columns": {"src": "user id", "dst": "item", "features": "a,b"}},
        {"model": "tgat", "fanout": 5, "layers": 1, "dropout": 0.1, "pair_features": False},
        {"model": "apan", "slots": 4, "lr": 3e-4, "epochs": 9, "schedule": "fixed", "staleness": 2},
        {"sort": True, "split_at": "0.5,0.75", "deterministic": True, "protocol": "default", "seed": 7},
        {"recipe": "ranking", "task": "node", "time_format": "%d.%m.%Y"},
        {"protocol": "tgb"},
    ],
)
def test_the_command_has_the_settings_of_the_run(flags: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / flags.get("path", "unused.csv")
    table.touch()  # parsing flags looks for it
    config = RunConfig().with_flags({**flags, **({"path": str(table)} if "path" in flags else {})})
    lines = commands(Run.read(write_run(tmp_path / "run", config, end=result(3))))
    parameters = parse(next(iter(lines.values())))
    repeated = run_config({name: value for name, value in parameters.items() if name not in ("out", "past")})
    assert repeated.to_toml() == config.to_toml()
    assert parameters["autotune"] == config.train.deterministic, "the run used the shipped settings"


def test_the_file_of_a_tuned_run_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", end=result(3, tuning={"profile": "ab12", "seconds": 20.0}))
    lines = commands(Run.read(folder))
    line = lines["With every setting from the run's file, those of tuning included"]
    assert line == f"mspipe-triton train --config {folder / 'config.toml'}"
    assert "--no-autotune" not in next(iter(lines.values()))


def test_runs_in_several_processes_and_after_another_run(tmp_path: Path) -> None:
    config = RunConfig().with_flags({"path": "/later.csv", "history": "/runs/first"})
    (line,) = commands(Run.read(write_run(tmp_path / "run", config, end=result(3, ranks=2)))).values()
    parameters = parse(line)
    assert (parameters["data"], parameters["past"], parameters["nproc"]) == ("/later.csv", "/runs/first", 2)


def test_events_from_python_are_a_file_to_name(tmp_path: Path) -> None:
    (line,) = commands(Run.read(write_run(tmp_path / "run", RunConfig().with_flags({"path": ""})))).values()
    assert parse(line)["data"] == "FILE"
