"""Help and version: groups of flags, the most used ones first, every flag explained, in lines that fit a terminal."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import fields

import pytest

from mspipe_triton.cli.options import RUN_FLAGS
from mspipe_triton.config import DataConfig, ModelConfig, TrainConfig

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = (
    (), ("train",), ("autotune",), ("evaluate",), ("predict",), ("rank",), ("embed",), ("serve",), ("plan",),
    ("graphpipe",), ("graphpipe", "run"), ("data",), ("data", "info"), ("data", "generate"), ("doctor",), ("report",),
)  # fmt: skip


def groups(text: str) -> dict[str, list[str]]:
    """Flags and arguments by the heading above them."""
    result: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        heading, *lines = block.splitlines()
        names = [line.split()[0] for line in lines if re.match(r"  \S", line)]
        result[heading] = [name.rstrip(",") for name in names]
    return result


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "alone")
def test_help_fits_80_columns_and_explains_every_flag(words: tuple[str, ...], command: Command) -> None:
    done = command(*words, "--help", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert text.startswith(f"Usage: {' '.join(('mspipe-triton', *words))} [OPTIONS]")
    assert not [line for line in text.splitlines() if len(line) > 80]
    assert "\x1b" not in text
    for block in text.split("\n\n"):
        for entry in re.split(r"\n(?=  \S)", block)[1:]:
            if entry.lstrip().startswith("-"):
                assert re.search(r"([^.]\.|\))$", entry.rstrip()), f"{entry} is a whole sentence"
                assert entry.count("(default:") <= 1
                assert "default: (" not in entry


def test_flags_of_training_are_in_groups_and_the_most_used_first(command: Command) -> None:
    flags = groups(command("train", "--help").stdout)
    order = ["Most used", "Data", "Model", "Training", "Pipeline", "Tuning", "Machine", "Output", "Options"]
    assert [name for name in flags if name in order] == order
    assert flags["Most used"] == [
        "DATA", "--columns", "--model", "--dim", "--epochs", "--batch-size", "--lr", "--seed", "--device", "--out",
        "--resume",
    ]  # fmt: skip
    assert flags["Options"] == ["-h"], "every other flag has a group"
    names = [flag for group in order for flag in flags[group]]
    assert len(names) == len(set(names))
    expected = {each.name for kind in (DataConfig, ModelConfig, TrainConfig) for each in fields(kind) if each.metadata}
    assert expected <= RUN_FLAGS.keys()
    assert {f"--{name.replace('_', '-')}" for name in expected} <= set(names)


@pytest.mark.parametrize("words", [("autotune",), ("data", "info")], ids=" ".join)
def test_other_commands_that_take_flags_of_a_run_have_the_same_groups(words: tuple[str, ...], command: Command) -> None:
    flags = groups(command(*words, "--help").stdout)
    assert flags["Most used"][:3] == ["DATA", "--model", "--dim"] or "--columns" in flags["Most used"]
    assert flags["Options"] == ["-h"]
    assert f"  mspipe-triton {' '.join(words)} events.csv" in command(*words, "--help").stdout


def test_help_of_the_program_lists_commands_by_purpose(command: Command) -> None:
    done = command("--help")
    assert done.stdout == command().stdout
    listed = groups(done.stdout)
    assert listed["Train a model and use it"][:2] == ["train", "evaluate"]
    assert {"autotune", "plan"} <= set(listed["Tune and plan"])
    assert set(listed["Look at data and the machine"]) == {"data", "doctor"}
    assert "Others" not in listed


@pytest.mark.parametrize(
    ("environment", "bold"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_headings_are_bold_on_a_terminal_that_shows_it(
    environment: dict[str, str], bold: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer._click.utils.should_strip_ansi", lambda *_: False, raising=False)
    assert ("\x1b[1mMost used" in command("train", "--help", **environment).stdout) is bold


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, command: Command) -> None:
    done = command(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"mspipe-triton \d+\.\d+\S* \(torch \d+\.\d+\S*, Python 3\.\d+\.\d+\)\n", done.stdout)
