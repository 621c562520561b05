"""`train --continue`: a run on later events, evaluated, resumed and continued in turn, and one line per wrong use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mspipe_triton.config_file import load_config
from tests.training.later_events import table, write_parts

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--epochs", "1", "--batch-size", "40", "--dim", "8", "--fanout", "3", "--negatives", "3", "--threads", "1")


@pytest.fixture
def run(tmp_path: Path, command: Command) -> Path:
    """The folder of a run of one epoch on first.csv, with second.csv and third.csv beside it."""
    write_parts(tmp_path, table())
    done = command("train", "first.csv", *SMALL, "--columns", "features=amount", "--deterministic", "--out", "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a command that refused its input."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr.removeprefix("mspipe-triton: ").strip()


def test_a_chain_of_runs(run: Path, tmp_path: Path, command: Command) -> None:
    done = command("train", "--continue", "run", "second.csv", "--lr", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    assert "Training tgn on second (500 events, 300 of them history, 39 nodes)" in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["history"] == 300
    second = tmp_path / "runs" / "second-tgn-1"
    config = load_config(second / "config.toml")
    assert (config.data.path, config.data.history) == (str(tmp_path / "second.csv"), str(run))
    assert (config.train.lr, config.train.batch_size, config.model.dim) == (0.01, 40, 8)
    done = command("train", "--continue", str(second), "third.csv", "--recipe", "ranking", "--batch-size", "40",
                   "--train-negatives", "4", "--out", "third")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "third" / "result.json").read_text())
    assert (result["loss"], result["history"], result["epochs"]) == ("softmax", 500, 2)
    (tmp_path / "third.csv").rename(tmp_path / "moved.csv")
    line = "third.csv: no such file; restore it, or name the one that third was trained on with --data FILE"
    assert line in refusal(command("evaluate", "third"))
    assert json.loads(command("evaluate", "third", "--data", "moved.csv", "--json").stdout) == result["test"]
    done = command("train", "moved.csv", "--out", "third", "--resume", "--epochs", "3", "--json")
    assert json.loads(done.stdout)["epochs"] == 3
    assert load_config(tmp_path / "third" / "config.toml").data.history == str(second)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run",), "no new events to continue run with; name a file, as in `mspipe-triton train --continue run FILE`"),
        (("run", "synthetic"), "no new events to continue run with; name a file, as in `mspipe-triton train"),
        (("nowhere", "second.csv"), "nowhere: no run there (config.toml is missing); name a folder that `train` wrote"),
        (("run", "nofile.csv"), "nofile.csv: no such file; name a table of events"),
        (("run", "first.csv"), "first.csv: row 1: the time 1000 is earlier than 9940, that of the last event of"),
        (("run", "empty.csv"), "empty.csv: no events below the header; add a row per event"),
        (("run", "bare.csv"), "bare.csv: "),
        (("run", "dates.csv"), "dates.csv: row 1: time is "),
        (("run", "second.csv", "--dim", "16"), "run: the run to continue has another --dim (8 there, 16 here)"),
        (("run", "second.csv", "--model", "jodie"), "run: the run to continue has another --model (tgn there,"),
        (("run", "second.csv", "--raw-features"), "run: the run to continue has another --raw-features (False"),
        (("run", "second.csv", "--resume", "--out", "run"), "--continue starts a run after another one, and --resume"),
        (("run", "second.csv", "--task", "node"), "task node is not for a run that continues another; use --task link"),
        (("run", "second.csv", "--protocol", "tgb"), "protocol tgb is not for a run that continues another; use"),
        (("run", "second.csv", "--node-features", "nodes.csv"), "node-features: nodes keep their features when a run"),
        (("run", "second.csv", "--batch-size", "141"), "batch-size 141 is above the 140 training events of second"),
        (("run", "second.csv", "--out", "run"), "run: holds another run or other files; choose an empty folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_uses(arguments: tuple[str, ...], line: str, run: Path, tmp_path: Path, command: Command) -> None:
    second = pd.read_csv(tmp_path / "second.csv")
    second[:0].to_csv(tmp_path / "empty.csv", index=False)
    second.drop(columns="amount").to_csv(tmp_path / "bare.csv", index=False)
    second.assign(time=pd.to_datetime(second["time"] + 10**9, unit="s")).to_csv(tmp_path / "dates.csv", index=False)
    before = sorted(tmp_path.rglob("*"))
    said = refusal(command("train", "--continue", *arguments))
    assert line in said
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_a_run_without_a_model_is_to_be_finished(run: Path, command: Command) -> None:
    (run / "model.json").rename(run / "away.json")
    line = refusal(command("train", "--continue", "run", "second.csv"))
    fix = "finish it with `mspipe-triton train --out run --resume`"
    assert line == f"run: has no model (model.json is missing), since the run did not finish; {fix}"
    settings = json.loads((run / "away.json").read_text())
    (run / "model.json").write_text(json.dumps(settings | {"format": 99}))
    assert "format 99 of version" in refusal(command("train", "--continue", "run", "second.csv"))


def test_moved_and_changed_history_is_named(run: Path, tmp_path: Path, command: Command) -> None:
    done = command("train", "--continue", "run", "second.csv", "--out", "second")
    assert done.returncode == 0, done.stderr
    first, config = tmp_path / "first.csv", run / "config.toml"
    first.rename(tmp_path / "moved.csv")
    for arguments in (("train", "--continue", "run", "third.csv"), ("evaluate", "second")):
        line = f"{first}: no such file; restore it, or name the one that {run} was trained on as path in {config}"
        assert refusal(command(*arguments)) == line
    config.write_text(config.read_text().replace("first.csv", "moved.csv"))
    assert command("evaluate", "second").returncode == 0
    (tmp_path / "moved.csv").write_bytes((tmp_path / "second.csv").read_bytes())
    assert refusal(command("evaluate", "second")).startswith(f"{run}: was trained on 300 events, ")
    run.rename(tmp_path / "elsewhere")
    assert refusal(command("evaluate", "second")).startswith(f"{run}: no ")


def test_history_is_for_training_and_evaluation_alone(run: Path, tmp_path: Path, command: Command) -> None:
    done = command("train", "--continue", "run", "second.csv", "--out", "second")
    assert done.returncode == 0, done.stderr
    (tmp_path / "data.toml").write_text(f'[data]\npath = "{tmp_path}/second.csv"\nhistory = "{run}"\n')
    line = refusal(command("autotune", "--config", "data.toml"))
    assert line.startswith(f"history '{run}' is for `train` and `evaluate`")
    done = command("train", "third.csv", "--config", "second/config.toml", "--out", "third", "--json")
    assert json.loads(done.stdout)["history"] == 300, "the setting continues the same run with other events"
