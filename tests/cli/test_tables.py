"""Tables and lines of screens at 80 columns: nothing is longer, and nothing wraps that a wider screen has in a line."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mspipe_triton.cli import console as consoles
from mspipe_triton.cli.data_screen import show_stream
from mspipe_triton.cli.graphpipe_screen import plan_screen
from mspipe_triton.cli.plan_screen import plan_table
from mspipe_triton.cli.result_screen import result_table, split_table
from mspipe_triton.cli.screens import EvaluationScreen, TrainingScreen
from mspipe_triton.cli.seeds import seeds_table
from mspipe_triton.cli.transient import loading, transient
from mspipe_triton.cli.tuning_screen import TuningScreen
from mspipe_triton.cli.use_screens import ranking_lines, ranking_table
from mspipe_triton.data.describe import describe
from mspipe_triton.data.events import EventStream
from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.models import MODELS
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.plan import make_plan, parse_times

Command = Callable[..., subprocess.CompletedProcess[str]]
SCORES = {"ap": 0.98765, "ap_batch_mean": 0.98765, "auc": 0.98765, "mrr": 0.98765}
SHARED = "sample=2,features=3,memory=2,forward=2,backward=4,exchange=9,update=3"


def metrics(split: str) -> dict[str, Any]:
    """Metrics of a split with all the rows that a run may have."""
    more: dict[str, Any] = {"candidates": 9999, "origin": "100 by TGB's rule, drawn here"}
    more |= {"inductive": {**SCORES, "events": 1_234_567}, "streaming": SCORES}
    more |= {"node": {"ap": 0.5, "auc": 0.5, "positives": 12_345}}
    return {**SCORES, **more, **(dict.fromkeys(NAMES, SCORES) if split == "test" else {})}


def result() -> dict[str, Any]:
    """A result with all the rows and words that a table of `train` may have."""
    facts = {"model": "tgn", "dataset": "synthetic", "best_epoch": 10, "epochs": 10, "ranks": 16}
    facts |= {"schedule": "prefetch", "staleness_measured": {"0": 1, "12": 7}, "train_events_per_s": 1_234_567.0}
    facts |= {"peak_rss_mb": 123_456.0, "compile_seconds": 123.4, "evaluation_seconds": 1234.5}
    return {**facts, "val": metrics("val"), "test": metrics("test")}


def printed(content: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(content)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def plan(schedule: str, times: str = SHARED, staleness: int | None = None) -> Any:
    return plan_table(make_plan(schedule, parse_times(times), staleness))


def long_plan() -> Any:
    exact = SHARED.replace("exchange=9", "exchange=123456") + ",patch=1/3"
    return plan_table(make_plan("exact", parse_times(exact), 4))


def ranking() -> Any:
    predictor: Any = types.SimpleNamespace(
        kinds=("customer", "product"), time="2024-03-01T12:00:00", destinations=12_345
    )
    return ranking_table([(f"a product {number}", 12.3456) for number in range(9)], predictor)


def pipeline(model: str, devices: int) -> Any:
    kind = ACCELERATORS["v100"]
    problem = Problem(MODELS[model](kind), kind.cluster(devices), 128, 4, None)
    return plan_screen(plan_model(problem, "1f1b", None, False))


def seeds() -> Any:
    split = {**SCORES, "inductive": SCORES, **dict.fromkeys(NAMES, SCORES)}
    facts = {"train_events_per_s": 1_234_567.8, "val": SCORES, "test": split}
    runs = [{"seed": number, "model": "tgn", "dataset": "synthetic", **facts} for number in range(5)]
    return seeds_table({"seeds": runs, "mean": facts, "deviation": facts})


@pytest.mark.parametrize(
    "make",
    [
        lambda: result_table(result()),
        lambda: split_table("test", metrics("test"), "runs/synthetic-tgn-1"),
        lambda: split_table("val", {**SCORES, "candidates": 49}, "runs/synthetic-tgn-1"),
        lambda: plan("serial"),
        lambda: plan("mspipe"),
        long_plan,
        ranking,
        lambda: consoles.facts_table("This machine", {"device": "cpu", "node_state_mib": Fraction(1, 3)}),
        lambda: pipeline("two-branch", 8),
        seeds,
    ],
    ids=["result", "test", "val", "serial", "mspipe", "exact", "ranking", "facts", "graphpipe", "seeds"],
)
def test_a_table_of_80_columns_is_that_of_a_wide_screen(make: Callable[[], Any]) -> None:
    content = make()
    lines = printed(content, 80)
    assert lines == printed(content, 200)
    assert max(map(len, lines)) <= 80


def test_words_of_long_pipelines_stay_whole() -> None:
    text = "\n".join(printed(pipeline("mmt", 4), 80))
    assert max(map(len, text.splitlines())) <= 80
    assert "on: devices; batch: samples per pass; held: micro-batches in flight;" in text


def test_the_description_of_a_stream(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {}
    for width in (80, 200):
        console = Console(file=io.StringIO(), width=width)
        monkeypatch.setattr("mspipe_triton.cli.data_screen.console", console)
        show_stream(small_stream, describe(small_stream), {})
        lines[width] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.rstrip() for line in lines[80]] == [line.rstrip() for line in lines[200]]
    assert "in the unit of the times" in "".join(lines[80])


def test_the_span_of_dates_has_a_unit(command: Command, tmp_path: Path) -> None:
    rows = "".join(f"u{k % 5},i{k % 7},2024-03-{1 + k // 24:02d}T{k % 24:02d}:00:00\n" for k in range(480))
    (tmp_path / "days.csv").write_text("user,item,time\n" + rows)
    done = command("data", "info", "days.csv", "--json")
    assert re.search(r"│ span +│ 19\.96 days +│", done.stderr)
    assert json.loads(done.stdout)["span"] > 1000, "the JSON has the number in the stream's unit"


def test_the_legend_names_only_what_the_table_has() -> None:
    text = "\n".join(printed(split_table("val", {**SCORES, "candidates": 49}, "run"), 80))
    assert "MRR of 50: " in text
    for word in ("unseen", "EdgeBank", "labels", "streaming"):
        assert word not in text
    text = "\n".join(printed(result_table(result()), 80))
    for word in ("unseen: ", "Baselines: EdgeBank ", "labels: ", "streaming: ", "MRR of 10,000: "):
        assert word in text


def test_the_lines_of_a_ranking_fit() -> None:
    facts = {"time": "2024-03-01T12:00:00", "destinations": 12_345, "__len__": lambda _: 12_345_678}
    predictor: Any = type("Predictor", (), facts)()
    assert all(len(line) <= 80 for line in ranking_lines("a customer", None, predictor).splitlines())


@pytest.mark.parametrize(
    ("environment", "colours"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["colours", "NO_COLOR", "dumb"],
)
def test_colours_follow_the_terminal(
    environment: dict[str, str], colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    console.print(split_table("test", metrics("test"), "run"), style="red")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("\x1b[31m" in written or "\x1b[1;31m" in written) is colours
    piped = Console(file=io.StringIO(), width=80)
    piped.print(split_table("test", metrics("test"), "run"), style="red")
    assert "\x1b" not in piped.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_is_shown_on_a_terminal_while_torch_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.delitem(sys.modules, "torch")
    for stream in (terminal, file):
        monkeypatch.setattr("sys.stderr", stream)
        with loading():
            during = stream.getvalue()
    assert (during, file.getvalue()) == ("", "")
    assert terminal.getvalue() == f"Loading torch ...\r{' ' * 17}\r", "it is erased"


def test_a_line_is_erased_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(KeyboardInterrupt), transient("Reading ..."):
        raise KeyboardInterrupt
    assert terminal.getvalue() == f"Reading ...\r{' ' * 11}\r"
    with loading():  # torch is loaded
        pass
    assert "torch" not in terminal.getvalue()


@pytest.mark.parametrize("screen", [TrainingScreen, EvaluationScreen, TuningScreen])
def test_a_line_is_shown_until_a_screen_has_its_first(
    screen: type[EvaluationScreen | TuningScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    shown, erased = "Preparing the model ...\r", f"{' ' * 23}\r"
    preparation = screen()
    preparation.preparing.begin()
    assert terminal.getvalue() == shown
    if isinstance(preparation, TrainingScreen):
        preparation.note("A note.")
        assert terminal.getvalue() == f"{shown}{erased}A note.\n{shown}", "it returns below a note"
    if isinstance(preparation, TuningScreen):
        preparation.phase("warming up")
        assert terminal.getvalue() == f"{shown}{erased}Warming up ...\n"
    preparation.close()
    preparation.close()
    assert (terminal.getvalue().count(shown), terminal.getvalue().count(erased)) == (
        (2, 2) if screen is TrainingScreen else (1, 1)
    )
