"""Helpers for the tests of commands that use a run: new events, and what a command answered or wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet

Command = Callable[..., subprocess.CompletedProcess[str]]
NEW = [
    {"user": user, "item": item, "when": f"2024-04-{day}T10:00:00", "amount": 2.5, "channel": channel}
    for user, item, day, channel in (("u1", 100, "01", "web"), ("zoe", 104, "01", "phone"), ("u2", 999, "02", "app"))
]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a command that refused its input."""
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.removeprefix("mspipe-triton: ").strip()


def done(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The result of a command that succeeded."""
    assert result.returncode == 0, result.stderr
    return result


def read(path: Path) -> dict[str, list[Any]]:
    table = pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
    return dict(table.to_pydict())
