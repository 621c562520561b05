"""Tuning on the command line: `autotune`, `train` with and without a profile, and messages when tuning fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.tuning.profile.profile import Profile

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--batch-size", "50", "--dim", "8", "--fanout", "3", "--threads", "1")
RUN = ("--epochs", "1", "--negatives", "3", "--autotune")


@pytest.fixture(autouse=True)
def events(tmp_path: Path) -> None:
    write_stream(synthetic_stream(SyntheticConfig(events=900, users=40, items=20)), tmp_path / "events.csv")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `autotune` finish what it has begun, however busy the machine is."""
    monkeypatch.setattr("mspipe_triton.tuning.tuner._GRACE", 100.0)


@pytest.mark.usefixtures("patient")
def test_autotune_writes_a_profile_that_train_uses(command: Command, tmp_path: Path) -> None:
    done = command("autotune", "events.csv", *SMALL, "--budget", "3", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    profile = Profile.from_json(document)
    assert profile.settings["threads"] == 1
    assert "shipped: " in done.stderr
    assert "shipped settings" in " ".join(done.stderr.split())
    assert "Chosen: " in done.stderr
    (file,) = (tmp_path / "cache" / "mspipe-triton" / "profiles").glob("*.json")
    assert file.name.startswith("tgn-events-")
    assert json.loads(file.read_text()) == document
    training = command("train", "events.csv", *SMALL, *RUN, "--out", "run", "--json")
    assert training.returncode == 0, training.stderr
    assert f"Settings from {file.name}:" in training.stderr
    result = json.loads(training.stdout)
    assert result["tuning"]["profile"] == file.name
    assert result["settings"] == document["settings"]
    assert result["tuning"]["stage_seconds_off"].keys() == document["stage_seconds"].keys()
    other = command("train", "events.csv", *SMALL, *RUN[:-1], "--no-autotune", "--out", "other", "--json")
    assert json.loads(other.stdout)["tuning"] is None
    assert "Settings from" not in other.stderr


def test_a_short_run_starts_at_once_and_says_that_it_is_not_tuned(command: Command, tmp_path: Path) -> None:
    done = command("train", "events.csv", *SMALL, *RUN, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    messages = " ".join(done.stderr.split())
    assert messages.count("too short to gain from") == 1
    tuning = json.loads(done.stdout)["tuning"]
    assert (tuning["trials"], tuning["cost_seconds"], tuning["profile"]) == (0, 0.0, "")
    assert not (tmp_path / "cache" / "mspipe-triton" / "profiles").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_damaged_profile_is_set_aside(command: Command, tmp_path: Path) -> None:
    first = command("autotune", "events.csv", *SMALL, "--budget", "3")
    assert first.returncode == 0, first.stderr
    (file,) = (tmp_path / "cache" / "mspipe-triton" / "profiles").glob("*.json")
    file.write_text(file.read_text()[:100])
    second = command("train", "events.csv", *SMALL, *RUN, "--out", "second")
    assert second.returncode == 0, second.stderr
    assert "damaged" in " ".join(second.stderr.split())
    assert file.with_name(f"{file.name}.damaged").exists()


def test_a_budget_in_which_nothing_is_measured_is_no_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mspipe_triton.tuning.tuner._GRACE", 0.0)
    done = command("autotune", "events.csv", *SMALL, "--budget", "0.001", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["profile"] is None
    assert "ran out before the shipped settings had run" in answer["reason"]
    assert "No profile: the budget of 0.001 s" in done.stderr
    assert not list(tmp_path.glob("cache/**/*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("autotune", "events.csv", "--budget", "0"), "--budget must be a number of seconds above 0, not 0"),
        (("autotune", "events.csv", "--budget", "inf"), "--budget must be a number of seconds above 0, not inf"),
        (("autotune", "events.csv", "--deterministic"), "--deterministic runs use the shipped settings"),
        (("autotune", "none.csv"), "no such file"),
        (("autotune", "events.csv", "--batch-size", "5000"), "above the 630 training events"),
        (("train", "events.csv", "--autotune", "--out", "events.csv"), "is a file"),
    ],
)
def test_wrong_input_is_one_line(arguments: tuple[str, ...], message: str, command: Command) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, "input is checked before anything is tuned"


def test_an_interrupted_autotune_tells_how_to_continue(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mspipe_triton.tuning.tuner.Tuner.prepare", interrupt)
    done = command("autotune", "events.csv", *SMALL)
    assert done.returncode == 1
    assert done.stderr == "mspipe-triton: interrupted; the same command continues after the finished trials\n"


def test_a_deterministic_run_is_not_tuned(command: Command) -> None:
    done = command("train", "events.csv", *SMALL, *RUN, "--deterministic", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "uning" not in done.stderr


@pytest.mark.slow
def test_a_killed_autotune_can_be_continued(command: Command, tmp_path: Path) -> None:
    environment = {
        **os.environ, "TORCHDYNAMO_DISABLE": "1", "TRITON_INTERPRET": "0", "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    arguments = [sys.executable, "-m", "mspipe_triton", "autotune", "events.csv", *SMALL, "--budget", "100"]
    folder = tmp_path / "cache" / "mspipe-triton" / "profiles"
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as tuner:
        deadline = time.monotonic() + 90
        while not _trials(folder) > 8:
            assert tuner.poll() is None, tuner.stderr and tuner.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tuner.kill()
    before = _trials(folder)  # more trials than fit in one second
    done = command("autotune", "events.csv", *SMALL, "--budget", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["search"]["trials"] >= before


def _trials(folder: Path) -> int:
    """Number of finished trials in the study's file, measured whole or cut short."""
    import sqlite3

    for path in folder.glob("*.db"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as study:
                count = study.execute("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')")
                return int(count.fetchone()[0])
        except sqlite3.Error:
            return 0
    return 0
