"""Every command as a user runs it, and one clear line for every wrong input."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--epochs", "1", "--batch-size", "100", "--dim", "8", "--fanout", "3", "--negatives", "3")


@pytest.fixture
def events(tmp_path: Path, command: Command) -> Path:
    done = command("data", "generate", "events.csv", "--events", "600", "--users", "40", "--items", "20")
    assert done.returncode == 0, done.stderr
    return tmp_path / "events.csv"


def test_train_then_evaluate(events: Path, tmp_path: Path, command: Command, process: Command) -> None:
    done = process("train", "events.csv", "--model", "tgn", *SMALL, "--json", "--no-autotune", "--out", "a/run")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "a" / "run" / "result.json").read_text())
    for word in ("Training tgn on events", "Events: src → dst at time", "epoch 1/1", "EdgeBank", "training events/s"):
        assert word in done.stderr
    evaluation = command("evaluate", "a/run", "--split", "val", "--json")
    assert evaluation.returncode == 0, evaluation.stderr
    assert json.loads(evaluation.stdout) == result["val"]
    assert command("train", "events.csv", *SMALL, "--out", "a/run").returncode == 2
    resumed = command("train", "events.csv", *SMALL, "--epochs", "2", "--out", "a/run", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["epochs"] == 2


def test_config_file_and_flags(events: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "run.toml").write_text(
        '[train]\nepochs = 1\nbatch_size = 50\nlr = 1\n[model]\ndim = 4\n[data]\npath = "events.csv"\n'
    )
    done = command("train", "--config", "run.toml", "--batch-size", "200", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    saved = (tmp_path / "run" / "config.toml").read_text()
    for line in ("batch_size = 200", "dim = 4", "lr = 1.0"):
        assert line in saved


def test_info_and_doctor(events: Path, command: Command) -> None:
    info = command("data", "info", "events.csv", "--json")
    facts = json.loads(info.stdout)
    assert facts["events"] == 600
    assert sum(facts["resident_parts_mib"].values()) == pytest.approx(facts["resident_mib"])
    assert "device memory, tgn" in info.stderr
    larger = json.loads(command("data", "info", "events.csv", "--batch-size", "900", "--json").stdout)
    assert larger["resident_mib"] > facts["resident_mib"]
    doctor = json.loads(command("doctor", "--json").stdout)
    assert doctor["fused"] is False
    assert {doctor[name] for name in ("device_free_mib", "device_total_mib")} == {None}
    assert "TORCHDYNAMO_DISABLE" in doctor["why"]
    assert "cxx compiler" in command("doctor").stderr
    without = json.loads(command("doctor", "--json", CXX="no-such-compiler", TORCHDYNAMO_DISABLE="0").stdout)
    assert (without["cxx_compiler"], without["fused"]) == ("none", False)


@pytest.mark.slow
def test_a_broken_compiler_adds_one_line(events: Path, process: Command) -> None:
    broken = {"CXX": "/bin/false", "TORCHDYNAMO_DISABLE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = process("train", "events.csv", *SMALL, "--out", "run", "--json", **broken)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fused"] is False
    assert done.stderr.count("Running without fused loops: torch.compile failed") == 1
    assert "Traceback" not in done.stderr


WRONG = {
    ("train", "none.csv"): "no such file",
    ("train", "events.csv", "--batch-size", "0"): "batch-size must be at least 1",
    ("train", "events.csv", "--batch-size", "421"): "above the 420 training events of events; use a smaller one, such "
    "as 40",
    ("train", "events.csv", "--epochs", "0"): "epochs must be at least 1",
    ("train", "events.csv", "--fanout", "0"): "fanout must be at least 1",
    ("train", "events.csv", "--lr", "nan"): "lr must be finite and above 0",
    ("train", "events.csv", "--lr", "inf"): "lr must be finite and above 0",
    ("train", "events.csv", "--lr", "-1"): "lr must be finite and above 0",
    ("train", "events.csv", "--lr", "fast"): "--lr must be a number, not 'fast'. See `mspipe-triton train --help`.",
    ("train", "events.csv", "--model", "gcn"): "model 'gcn' is not one of tgn, jodie, apan, tgat",
    ("train", "events.csv", "--model", "jodie", "--fanout", "10"): "fanout 10: model jodie has none",
    ("train", "events.csv", "--model", "apan", "--slots", "0"): "slots must be at least 1, not 0",
    ("train", "events.csv", "--model", "apan", "--dim", "9"): "dim 9 is not a multiple of heads, 2",
    (
        "train", "events.csv", "--model", "tgat", "--batch-size", "100", "--schedule", "mspipe", "--mitigation",
        "similarity",
    ): "and model tgat has no memory",
    ("train", "events.csv", "--schedule", "fast"): "not one of auto, serial, prefetch, mspipe, fixed, exact",
    ("train", "events.csv", "--schedule", "fixed"): "needs a staleness, as in --staleness 1",
    ("train", "events.csv", "--schedule", "exact", "--staleness", "2"): "staleness 2 is for schedule fixed",
    ("train", "events.csv", "--schedule", "fixed", "--staleness", "-3"): "staleness must be at least 0, not -3",
    ("train", "events.csv", "--schedule", "mspipe", "--deterministic"): "use exact, or fixed with a --staleness",
    ("train", "events.csv", "--mitigation", "similarity"): "and schedule auto has none",
    ("train", "events.csv", "--mitigation", "magic"): "not one of none, similarity",
    ("train", "events.csv", "--backend", "triton"): "not one of auto, torch",
    ("train", "events.csv", "--device", "tpu"): "not one of auto, cpu, cuda",
    ("train", "events.csv", "--placement", "device", "--schedule", "exact"): "or use --placement host",
    ("train", "events.csv", "--placement", "device", "--mitigation", "similarity"): "or use --placement host",
    ("train", "events.csv", "--placement", "device", "--staleness", "2"): "or use --placement host",
    ("train", "events.csv", "--placement", "device", "--trace"): "--trace records stages, and --placement device has",
    ("train", "events.csv", "--schedule", "resident"): "fixed, exact; use --placement device instead",
    ("train", "events.csv", "--placement", "moon"): "not one of auto, device, host",
    ("train", "events.csv", "--dim", "7"): "dim 7 is not a multiple of heads, 2",
    ("train", "events.csv", "--seed", "-1"): "seed must be at least 0",
    ("train", "events.csv", "--columns", "src=who"): "'who' (src) is missing",
    ("train", "events.csv", "--columns", "who"): "not role=name",
    ("train", "events.csv", "--config", "none.toml"): "no such file",
    ("train", "events.csv", "--colour", "red"): "No such option --colour; did you mean --columns?",
    ("train", "events.csv", "--batch-size", "100", "--resume"): "needs --out",
    ("train", "three.csv",): "3 events are too few for a 70/15/15 split",
    ("train", "late.csv",): "row 2: time is '2', earlier than in the row before; sort the events with --sort",
    ("train", "events.csv", "--recipe", "fast"): "there is no recipe 'fast'; use ranking",
    ("train", "events.csv", "--protocol", "ogb"): "protocol 'ogb' is not one of default, tgb",
    ("train", "events.csv", "--protocol", "tgb", "--batch-size", "100"): "needs batch-size 200, not 100; use 200 (",
    ("train", "events.csv", "--protocol", "tgb", "--split-at", "0.5,0.6"): "needs split-at tgb, not '0.5,0.6'; omit",
    ("train", "events.csv", "--protocol", "tgb", "--negatives", "9"): "not among 9 random ones; omit --negatives",
    ("train", "events.csv", "--batch-size", "9", "--train-negatives", "5"): "train-negatives 5 is above the number",
    ("train", "events.csv", "--negative-kind", "mixed"): "needs 2 negatives or more, as in --train-negatives 10",
    ("train", "events.csv", "--loss", "mse"): "not one of bce, softmax",
    ("train", "events.csv", "--train-negatives", "0"): "train-negatives must be at least 1",
    ("evaluate", "nowhere"): "no run there",
    ("evaluate", "nowhere", "--candidates", "some"): "--candidates must be random or all, not 'some'",
    ("evaluate", "nowhere", "--candidates", "all", "--negatives", "9"): "omit it with --candidates all",
    ("evaluate", "nowhere", "--split", "train"): "--split must be val or test",
    ("evaluate", "nowhere", "--negatives", "0"): "--negatives must be at least 1",
    ("data", "info", "none.csv"): "no such file",
    ("data", "generate", "x.txt"): "ends in .csv or .parquet",
    ("data", "generate", "x.csv", "--items", "1"): "items must be at least 10",
    ("data", "generate", "events.csv"): "events.csv: exists already; use --force to replace it, or another name",
    ("train", "--resume", "--out", "nowhere"): "nowhere: no such folder; --resume needs that of a run",
    ("data",): "Missing command. See `mspipe-triton data --help`.",
}  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_input_is_one_line_and_exit_2(arguments: tuple[str, ...], tmp_path: Path, command: Command) -> None:
    rows = "".join(f"{k % 7},{10 + k % 5},{k}\n" for k in range(600))
    (tmp_path / "events.csv").write_text("src,dst,time\n" + rows)
    (tmp_path / "three.csv").write_text("src,dst,time\n1,2,3\n1,2,4\n1,2,5\n")
    (tmp_path / "late.csv").write_text("src,dst,time\n1,2,3\n1,2,2\n")
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mspipe-triton: ")
    assert done.stderr.count("\n") == 1
    assert WRONG[arguments] in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.csv", "late.csv", "three.csv"]


def test_no_permission_to_write(events: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    done = command("train", "events.csv", *SMALL, "--out", "locked")
    assert done.returncode == 2
    assert done.stderr == "mspipe-triton: locked: cannot be written: no permission to write\n"


def test_a_file_in_place_of_the_run_folder(events: Path, command: Command) -> None:
    done = command("train", "events.csv", *SMALL, "--out", "events.csv/run")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_names_every_command(command: Command) -> None:
    output = command().stdout
    for name in ("train", "evaluate", "data", "doctor"):
        assert name in output


def test_help_shows_the_flags_of_ranking(command: Command) -> None:
    text = " ".join(command("train", "--help", COLUMNS="200", TERM="dumb").stdout.split())
    for flag in ("--pair-features", "--no-pair-features", "--recipe", "--protocol", "--negative-kind", "--loss"):
        assert f"{flag} " in text
    assert "Settings for a purpose, which flags override: ranking" in text
    assert "--candidates" in command("evaluate", "--help", COLUMNS="200", TERM="dumb").stdout


def test_info_plans_memory_for_the_flags_of_ranking(events: Path, command: Command) -> None:
    def parts(*flags: str) -> dict[str, float]:
        done = command("data", "info", "events.csv", *flags, "--json")
        assert done.returncode == 0, done.stderr
        planned: dict[str, float] = json.loads(done.stdout)["resident_parts_mib"]
        return planned

    usual, without = parts(), parts("--no-pair-features")
    assert usual["pairs"] > without["pairs"] == 0
    assert parts("--no-pair-features", "--train-negatives", "2", "--negative-kind", "mixed")["pairs"] > usual["pairs"]
    assert parts("--train-negatives", "9")["workspace"] > usual["workspace"]
    assert parts("--recipe", "ranking")["pairs"] > usual["pairs"]


def test_a_file_as_run_folder_and_a_folder_as_config(events: Path, command: Command) -> None:
    assert "events.csv: is a file; --out names a folder" in command("train", *SMALL, "--out", "events.csv").stderr
    assert ".: cannot be read: Is a directory" in command("train", *SMALL, "--config", ".").stderr


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, command: Command) -> None:
    rows = "".join(f"{k % 7},{10 + k % 5},{k},{k}\n" for k in range(60))
    (tmp_path / "[b].csv").write_text("[/src],[red],t,[x]\n" + rows)
    done = command("data", "info", "[b].csv", "--columns", "src=[/src],dst=[red],features=[x]")
    assert done.returncode == 0, done.stderr
    for name in ("[/src]", "[red]", "[x]", "[b]"):
        assert name in done.stderr
