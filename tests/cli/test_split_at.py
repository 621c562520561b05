"""`--split-at`: described by `data info`, stored by `train`, and used again by `evaluate` and `--resume`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipe_triton.config_file import load_config

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--epochs", "1", "--batch-size", "50", "--dim", "8", "--fanout", "3", "--negatives", "3", "--threads", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """400 events on 100 days from 2023-08-01 on, four a day, with a feature that grows."""
    days = [f"2023-{8 + n // 100:02}-{1 + n // 4 % 25:02}" for n in range(400)]
    rows = (f"u{n % 10},i{n * 7 % 11 % 10},{day},{n}\n" for n, day in enumerate(days))
    (tmp_path / "events.csv").write_text("user,item,date,f0\n" + "".join(rows))
    return tmp_path / "events.csv"


@pytest.mark.parametrize("split_at", ["2023-10-01,2023-11-01", "0.5,0.75", "1696118400,1698796800"])
def test_info_describes_the_split(split_at: str, file: Path, command: Command) -> None:
    done = command("data", "info", "events.csv", "--split-at", split_at, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["train_events"], facts["val_events"], facts["test_events"]) == (200, 100, 100)
    assert facts["tie_share"] == 1.0
    assert "100% of the events share their time with others" in done.stderr


def test_train_stores_the_split_and_evaluate_repeats_it(file: Path, command: Command, tmp_path: Path) -> None:
    dates = "2023-10-01,2023-11-01"
    done = command("train", "events.csv", *SMALL, "--deterministic", "--split-at", dates, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert "100% of the events share their time with others" in " ".join(done.stderr.split())
    assert load_config(tmp_path / "run" / "config.toml").data.split_at == dates
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (facts["train_end"], facts["val_end"]) == (200, 300)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for split in ("val", "test"):
        assert json.loads(command("evaluate", "run", "--split", split, "--json").stdout) == result[split]
    other = command("train", "--out", "run", "--resume", "--epochs", "2", "--split-at", "0.7,0.85")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert other.stderr.endswith("; use --split-at 2023-10-01,2023-11-01\n")
    again = command("train", "--out", "run", "--resume", "--epochs", "2", "--json")
    assert json.loads(again.stdout)["epochs"] == 2


@pytest.mark.parametrize(
    ("split_at", "line"),
    [
        ("0.7", "--split-at '0.7' is no pair of values, the starts of validation and test; give two fractions of the "
                "events, times or dates, as in 0.7,0.85 or 2023-10-01,2023-11-01"),
        ("0.5,2024-01-01",
         "--split-at '0.5,2024-01-01': 0.5 is a fraction of the events, and the other value is a time; give two "
         "fractions of the events, times or dates, as in 0.7,0.85 or 2023-10-01,2023-11-01"),
        ("", "--split-at is empty; give the starts of validation and test, as in 0.7,0.85, or omit it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("of", [("train",), ("autotune",), ("data", "info")], ids=" ".join)
def test_wrong_values_are_refused(of: tuple[str, ...], split_at: str, line: str, file: Path, command: Command) -> None:
    done = command(*of, "events.csv", "--split-at", split_at)
    assert (done.returncode, done.stderr) == (2, f"mspipe-triton: {line}\n")
