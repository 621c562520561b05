"""Commands on a run that exists: resuming it by its folder alone, evaluating it on moved data, and files left alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipe_triton.config_file import load_config

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--epochs", "1", "--batch-size", "100", "--dim", "8", "--fanout", "3", "--negatives", "3", "--threads", "1")


@pytest.fixture
def run(tmp_path: Path, command: Command) -> Path:
    """The folder of a run of one epoch on events.csv."""
    done = command("data", "generate", "events.csv", "--events", "600", "--users", "40", "--items", "20")
    assert done.returncode == 0, done.stderr
    done = command("train", "events.csv", *SMALL, "--deterministic", "--out", "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a command that refused its input."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr.removeprefix("mspipe-triton: ").strip()


def test_a_run_resumes_by_its_folder_alone(run: Path, command: Command) -> None:
    done = command("train", "--out", "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert "All 1 epochs are already trained; evaluating the best one again." in done.stderr
    longer = command("train", "--out", "run", "--resume", "--epochs", "2", "--json")
    assert json.loads(longer.stdout)["epochs"] == 2
    whole = command("train", "events.csv", *SMALL, "--epochs", "2", "--deterministic", "--out", "whole", "--json")
    assert json.loads(longer.stdout)["losses"] == json.loads(whole.stdout)["losses"]
    assert command("train", "--out", "run", "--resume", "--epochs", "1").returncode == 0
    assert load_config(run / "config.toml").train.epochs == 2


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (("--lr", "0.5"), "--lr (0.001 there, 0.5 here)"),
        (("--model", "jodie"), "--model (tgn there, jodie here)"),
        (("--dim", "7"), "--dim (8 there, 7 here)"),
        (("--batch-size", "50", "--seed", "3"), "--batch-size (100 there, 50 here), --seed (0 there, 3 here)"),
        (("--config", "other.toml"), "--lr (0.001 there, 0.25 here)"),
    ],
    ids=" ".join,
)
def test_other_settings_are_refused(
    flags: tuple[str, ...], difference: str, run: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "other.toml").write_text("[train]\nlr = 0.25\nepochs = 9\n")
    before = (run / "config.toml").read_bytes()
    expected = f"run: the run to resume has another {difference}; give the same, or another --out"
    assert refusal(command("train", "--out", "run", "--resume", *flags)) == expected
    assert (run / "config.toml").read_bytes() == before


def test_a_config_file_with_resume_names_only_what_it_holds(run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "more.toml").write_text("[train]\nepochs = 3\n[model]\ndim = 8\n")
    done = command("train", "--out", "run", "--resume", "--config", "more.toml", "--epochs", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 2
    assert load_config(run / "config.toml").train.batch_size == 100


def test_a_recipe_with_resume_names_its_settings(run: Path, tmp_path: Path, command: Command) -> None:
    line = refusal(command("train", "--out", "run", "--resume", "--recipe", "ranking"))
    assert "--loss (bce there, softmax here), --train-negatives (1 there, 10 here)" in line
    assert "no-such" in refusal(command("train", "--out", "run", "--resume", "--recipe", "no-such"))
    few = ("--recipe", "ranking", "--batch-size", "100", "--dim", "8", "--fanout", "3", "--threads", "1")
    done = command("train", "events.csv", *few, "--out", "other", "--deterministic")
    assert done.returncode == 0, done.stderr
    same = command("train", "--out", "other", "--resume", "--recipe", "ranking", "--batch-size", "100", "--json")
    assert json.loads(same.stdout)["epochs"] == 2
    assert "--batch-size (100 there, 200 here)" in refusal(
        command("train", "--out", "other", "--resume", "--recipe", "ranking")
    )


def test_moved_data_are_named(run: Path, tmp_path: Path, command: Command) -> None:
    result = json.loads((run / "result.json").read_text())
    (tmp_path / "events.csv").rename(tmp_path / "moved.csv")
    message = f"{tmp_path / 'events.csv'}: no such file; restore it, or name the one that run was trained on"
    again = "`mspipe-triton train FILE --out run --resume`"
    assert refusal(command("evaluate", "run")) == f"{message} with --data FILE"
    assert refusal(command("train", "--out", "run", "--resume")) == f"{message} as in {again}"
    done = command("evaluate", "run", "--data", "moved.csv", "--json")
    assert json.loads(done.stdout) == result["test"]
    typo = "typo.csv: no such file; restore it, or name the one that run was trained on with --data FILE"
    assert refusal(command("evaluate", "run", "--data", "typo.csv")) == typo
    assert command("train", "moved.csv", "--out", "run", "--resume").returncode == 0
    assert load_config(run / "config.toml").data.path == str(tmp_path / "moved.csv")
    assert command("evaluate", "run").returncode == 0


def test_other_data_are_refused(run: Path, command: Command) -> None:
    done = command("data", "generate", "events.csv", "--events", "700", "--users", "40", "--items", "20", "--force")
    assert done.returncode == 0, done.stderr
    for line in (refusal(command("evaluate", "run")), refusal(command("train", "--out", "run", "--resume"))):
        assert line.startswith("run: was trained on 600 events, ")
        assert "events.csv now holds 700 events, " in line
        assert "; restore the file, or name the one that the run was trained on" in line


def test_a_missing_table_of_features_is_named(run: Path, command: Command) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace('node_features = ""', 'node_features = "nodes.npy"'))
    line = "nodes.npy: no such file; restore it, or name the one that run was trained on as node_features in "
    assert refusal(command("evaluate", "run")) == f"{line}run/config.toml"


def test_a_new_run_leaves_the_users_config_alone(run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "exp").mkdir()
    mine = tmp_path / "exp" / "config.toml"
    mine.write_text("[train]\nepochs = 1\n")
    done = command("train", "events.csv", *SMALL, "--config", "exp/config.toml", "--out", "exp")
    assert "exp: holds another run or other files" in refusal(done)
    assert mine.read_text() == "[train]\nepochs = 1\n"
