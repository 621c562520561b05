"""Screens of training and evaluation on a terminal of fixed width, under a clock that the tests set."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from mspipe_triton.cli import screens
from mspipe_triton.cli.result_screen import split_table
from mspipe_triton.cli.screens import EvaluationScreen, TrainingScreen, loss_line
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.link.losses import event_losses
from mspipe_triton.training.run_folder import RunFolder

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--dim", "8", "--fanout", "3", "--negatives", "3", "--threads", "1")


class Terminal:
    """A console of width 100 on a terminal or a file, and a clock in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, terminal: bool = True, kind: str = "xterm") -> None:
        self.now, self.written = 0.0, StringIO()
        monkeypatch.setenv("TERM", kind)
        console = Console(file=self.written, width=100, force_terminal=terminal, highlight=False, markup=False)
        monkeypatch.setattr(screens, "console", console)
        monkeypatch.setattr(screens, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(screens, "_MOVES", 0)

    def new(self) -> str:
        """Return what was written since the last call."""
        text = self.written.getvalue()
        self.written.seek(0)
        self.written.truncate()
        return text

    def frames(self) -> list[str]:
        """Return the bars drawn since the last call, without colours and without the bar and the remaining time."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.new())
        rows = [re.sub(r"[━╸╺]+", "|", row).strip() for row in re.split(r"[\r\n]+", text) if "━" in row]
        return [re.sub(r" +", " ", re.sub(r"(-:--:--|\d:\d\d:\d\d)$", "", row)).strip() for row in rows]


def test_the_bar_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    screen = EvaluationScreen()
    screen.evaluation("test", 600, 23_622)
    assert terminal.frames() == ["test | 600/23,622"]
    for now in (0.05, 0.11, 0.15, 0.2, 0.22):
        terminal.now = now
        screen.evaluation("test", 600, 23_622)
    # Two batches until 0.11 s, and three in the next 0.11 s.
    assert terminal.frames() == ["test | 1,800/23,622 10,909 events/s", "test | 3,600/23,622 16,364 events/s"]
    screen.close()
    assert terminal.new().endswith("\x1b[2K"), "the bar is erased"


def test_a_full_bar_stays_until_the_next_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    screen = EvaluationScreen()
    for split, events in (("val", 900), ("test", 700), ("test", 700)):
        screen.evaluation(split, 500, events)
        terminal.now += 1
        screen.evaluation(split, events - 500, events)
    test = ["test | 500/700", "test | 700/700 200 events/s"]
    assert terminal.frames() == ["validation | 500/900", "validation | 900/900 400 events/s", *test, *test]
    assert len(screen.progress.tasks) == 1


def test_at_most_ten_updates_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    screen = EvaluationScreen()
    for number in range(1000):
        terminal.now = number / 500
        screen.evaluation("val", 1, 1000)
    assert 15 <= len(terminal.frames()) <= 21, "in two seconds, with the first"


def test_in_a_file_a_long_phase_has_a_line_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, terminal=False)
    screen = EvaluationScreen()
    for split in ("val", "test"):
        for _ in range(90):
            screen.evaluation(split, 100, 9000)
            terminal.now += 1
    screen.close()
    assert terminal.new().splitlines() == [
        "validation: 1,100 of 9,000 events", "validation: 4,100 of 9,000 events", "validation: 7,100 of 9,000 events",
        "test: 1,100 of 9,000 events", "test: 4,100 of 9,000 events", "test: 7,100 of 9,000 events",
    ]  # fmt: skip
    assert not screen.progress.tasks


def test_a_dumb_terminal_has_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, kind="dumb")
    screen = EvaluationScreen()
    for _ in range(18):
        screen.evaluation("test", 500, 9000)
        terminal.now += 1
    screen.close()
    assert terminal.new() == "test: 5,500 of 9,000 events\n"


def test_in_a_file_short_phases_have_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, terminal=False)
    screen = EvaluationScreen()
    for _ in range(18):
        screen.evaluation("val", 100, 900)
        terminal.now += 1
    assert terminal.new() == ""


def test_the_bar_says_that_loops_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, compiles = Terminal(monkeypatch), [True]
    monkeypatch.setattr(screens, "compiling", lambda: compiles[0])
    screen = EvaluationScreen()
    screen.evaluation("test", 600, 23_622)
    (frame,) = terminal.frames()
    assert re.fullmatch(r"test \| 600/23,622 compiling loops, \d+ s", frame), "the seconds of the phase"
    compiles[0], terminal.now = False, 1
    screen.evaluation("test", 600, 23_622)
    assert terminal.frames() == ["test | 1,200/23,622 600 events/s"]
    screen.close()


def test_a_bar_moves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "console", Console(file=StringIO(), force_terminal=True))
    assert EvaluationScreen().progress.live.auto_refresh


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "cross-entropy of an event plus a random negative,\n  1.386 for a model that guesses"),
        ({"train_negatives": 4, "negative_kind": "historical"},
         "cross-entropy of an event plus 4 historical negatives,\n  1.386 for a model that guesses"),
        ({"loss": "softmax", "train_negatives": 10, "negative_kind": "mixed"},
         "softmax of an event among 10 mixed negatives, weighted,\n  6.215 for a model that guesses"),
    ],
)  # fmt: skip
def test_the_loss_is_said_as_what_it_is(settings: dict[str, Any], line: str) -> None:
    assert loss_line(TrainConfig(**settings), 500) == line  # ln 500 = 6.215


def test_a_model_that_guesses_has_the_loss_that_the_screen_says() -> None:
    assert event_losses(torch.zeros(4, 2), None).tolist() == pytest.approx([1.3863, 1.3863], abs=1e-4)
    weights = torch.full((2, 3), math.log(499 / 3))
    assert event_losses(torch.zeros(4, 2), weights).tolist() == pytest.approx([6.2146, 6.2146], abs=1e-4)


def epoch(number: int) -> dict[str, Any]:
    facts = {"loss": 0.5, "val": {"ap": 0.75}, "events_per_s": 840.0, "seconds": 1.0, "compile_seconds": 0.0}
    return {"epoch": number, **facts}


def test_the_screen_of_training(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(epochs=2, batch_size=840))
    session = Session.create(config, small_stream)
    terminal = Terminal(monkeypatch)
    screen = TrainingScreen()
    screen.start(session, RunFolder(Path("run")))
    text = terminal.new()
    assert "Each epoch: 1 iteration, schedule " in text
    assert ", with features of pairs\nTraining loss: cross-entropy of an event plus a random negative,\n" in text
    assert "epoch 1/2" in text
    for number in (1, 2):
        terminal.now += 1
        screen.batch(number, 840, 0.5)
        bars = terminal.frames()
        assert bars == [f"epoch {number}/2 | 840/840 840 events/s, loss 0.5000"]
        screen.evaluation("val", 100, 180)
        terminal.now += 1
        screen.evaluation("val", 80, 180)
        assert terminal.frames() == ["validation | 100/180", "validation | 180/180 80 events/s"]
        screen.epoch(epoch(number))
        text = terminal.new()
        assert f"epoch {number}/2: training loss 0.5000, val AP 0.7500, 840 events/s, 1.0 s" in text
        assert "epoch 2/2" in text, "after epoch 1 the bar of the next one"
    screen.close()


def test_a_resumed_run_continues_its_bar(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(epochs=4, batch_size=420))
    terminal = Terminal(monkeypatch)
    screen = TrainingScreen()
    screen.start(Session.create(config, small_stream), RunFolder(Path("run")))
    terminal.new()
    screen.batch(3, 420, 0.5)
    terminal.now = 0.5
    screen.batch(3, 420, 0.5)
    assert terminal.frames() == ["epoch 3/4 | 0/840", "epoch 3/4 | 840/840 1,680 events/s, loss 0.5000"]
    screen.close()


def test_baselines_fit_a_terminal_of_80_columns() -> None:
    scores = {"ap": 0.5, "auc": 0.5, "mrr": 0.5}
    metrics = {**scores, "candidates": 49, "ap_batch_mean": 0.5, "inductive": {**scores, "events": 1234}}
    metrics |= dict.fromkeys(NAMES, scores)
    terminal = Console(file=StringIO(), width=80)
    terminal.print(split_table("test", metrics, "runs/a"))
    lines = terminal.file.getvalue().splitlines()
    labels = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert labels == ["test", "test, unseen (1,234)", "baselines on test", *NAMES.values()]
    rows = [line for line in lines if any(f"│ {name} " in line for name in NAMES.values())]
    assert [row.count("0.5000") for row in rows] == [3, 3, 3, 3]


def test_candidates_of_a_protocol_and_its_second_view_are_named() -> None:
    scores = {"ap": 0.5, "auc": 0.5, "mrr": 0.5}
    metrics = {**scores, "candidates": 100, "origin": "by a rule", "streaming": scores}
    terminal = Console(file=StringIO(), width=80)
    terminal.print(split_table("test", metrics, "runs/a"))
    text = terminal.file.getvalue()
    assert "candidates of the MRR: by a rule" in text
    assert "│ test, streaming │" in text


def test_commands_show_each_note_once(tmp_path: Path, command: Command) -> None:
    # Each source always meets the same partner, which EdgeBank remembers and two iterations do not teach.
    rows = [f"a{number % 60},b{number % 60},{number}" for number in range(1200)]
    (tmp_path / "pairs.csv").write_text("\n".join(["user,item,t", *rows]))
    flags = ("--batch-size", "800", "--epochs", "1", "--no-pair-features", "--out", "run", "--json")
    done = command("train", "pairs.csv", *SMALL, *flags)
    notes = json.loads(done.stdout)["notes"]
    assert len(notes) >= 2
    printed = " ".join(done.stderr.split())
    assert "Each epoch: 2 iterations, " in printed[: printed.index("epoch 1/1")]
    table, *lines = printed.split(" Note: ")
    assert "EdgeBank" in table
    assert lines == notes
    evaluated = " ".join(command("evaluate", "run").stderr.split())
    assert f" Note: {notes[0]}" in evaluated


def test_a_run_that_ended_before_its_validation_resumes(tmp_path: Path, command: Command) -> None:
    command("data", "generate", "events.csv", "--events", "600", "--users", "40", "--items", "20")
    flags = ("--batch-size", "100", "--epochs", "1", "--out", "run", "--json")
    whole = command("train", "events.csv", *SMALL, *flags)
    assert whole.returncode == 0, whole.stderr
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("".join(f"{line}\n" for line in lines if "event" in json.loads(line)))
    resumed = command("train", "--out", "run", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/1: training loss" in resumed.stderr
    assert json.loads(resumed.stdout)["test"] == json.loads(whole.stdout)["test"]
