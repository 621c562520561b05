"""`train --seeds` from the command line: the table, JSON, runs that resume, and what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.cli import train as command_module

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--model", "jodie", "--epochs", "1", "--batch-size", "100", "--dim", "4", "--negatives", "3", "--threads", "1")


@pytest.fixture(autouse=True)
def _events(tmp_path: Path, command: Command) -> None:
    done = command("data", "generate", "events.csv", "--events", "400", "--users", "40", "--items", "20")
    assert done.returncode == 0, done.stderr


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a command that refused its input."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr.removeprefix("mspipe-triton: ").strip()


def test_seeds_print_a_table_of_means_and_one_object(tmp_path: Path, command: Command) -> None:
    done = command("train", "events.csv", *SMALL, "--seeds", "2", "--seed", "3", "--out", "all", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert [result["seed"] for result in summary["seeds"]] == [3, 4]
    assert "Seed 3, run 1 of 2" in done.stderr
    assert "Seed 4, run 2 of 2" in done.stderr
    mean, deviation = (summary[name]["test"] for name in ("mean", "deviation"))
    cells = [f"{mean[name]:.4f} ± {deviation[name]:.4f}" for name in ("ap", "auc", "mrr")]
    row = next(line for line in done.stderr.splitlines() if line.startswith("│ test  "))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["test", *cells]
    assert max(map(len, done.stderr.splitlines())) <= 80
    again = command("train", "--seeds", "3", "--out", "all", "--resume", "--json")
    assert [result["seed"] for result in json.loads(again.stdout)["seeds"]] == [3, 4, 5]
    assert "2 of 3 runs are finished already" in again.stderr
    assert again.stderr.count("Training jodie") == 1


def test_an_interruption_says_how_to_go_on(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "_carry_out", interrupt)
    done = command("train", "events.csv", *SMALL, "--seeds", "2", "--out", "all")
    assert done.returncode == 1
    assert "interrupted; to continue, use `mspipe-triton train --out all --seeds 2 --resume`" in done.stderr


def test_one_seed_is_a_single_run(tmp_path: Path, command: Command) -> None:
    done = command("train", "events.csv", *SMALL, "--seeds", "1", "--out", "one")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "result.json").exists()
    assert "Seed 0" not in done.stderr


def test_arguments_that_do_not_fit_are_refused(command: Command) -> None:
    seeds = ("train", "events.csv", *SMALL, "--seeds")
    assert refusal(command(*seeds, "0")) == "--seeds must be at least 1, not 0"
    ranks = (
        "--seeds 2 trains one run after the other in one process; omit --nproc and torchrun, or start a run per seed "
        "with --seed"
    )
    assert refusal(command(*seeds, "2", "--nproc", "2")) == ranks
    assert refusal(command(*seeds, "2", RANK="0", WORLD_SIZE="2")) == ranks
    assert refusal(command("train", "--seeds", "2", "--resume")) == (
        "--resume needs --out OUT, the folder of the runs to continue"
    )
    assert "none: has no run of a seed to resume" in refusal(
        command("train", "--seeds", "2", "--resume", "--out", "none")
    )
    line = refusal(command("train", "events.csv", "--warmup", "9", *SMALL, "--seeds", "2", "--out", "all"))
    assert line.startswith("warmup 9 is not below the run's 3 iterations")
