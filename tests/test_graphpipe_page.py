"""Guide to planning pipelines: its blocks run as printed, and its picture is the one that the command draws."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guides" / "graphpipe.md").read_text(encoding="utf-8")
MODULE, PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^mspipe-triton (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module that the page writes, from which it can be imported."""
    (tmp_path / "towers.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_commands_run(page: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert len(COMMANDS) == 2
    for line in COMMANDS:
        done = command(*line.split())
        assert done.returncode == 0, done.stderr


def test_program_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PROGRAM, "guide", "exec"), {})
    first, *stages = capsys.readouterr().out.splitlines()
    speedup, seconds, bound = map(float, first.split())
    assert speedup >= 1 < seconds / bound * 2
    assert "left.0" in " ".join(stages)


def test_picture_is_the_commands(page: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command(*COMMANDS[0].split(), "--picture", "plan.svg")
    assert done.returncode == 0
    assert (page / "plan.svg").read_text(encoding="utf-8") == (ROOT / "docs" / "graphpipe.svg").read_text(
        encoding="utf-8"
    )


def test_flags_are_those_of_the_command(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    table = set(re.findall(r"--[a-z][a-z-]*", PAGE))
    flags = set(re.findall(r"--[a-z][a-z-]*", command("graphpipe", "--help", COLUMNS="200", TERM="dumb").stdout))
    assert table - flags == set()
    assert flags - table - {"--help", "--no-mixed"} == set()
