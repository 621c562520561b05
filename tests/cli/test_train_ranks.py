"""The `train` command with several ranks: its usage errors, its output and files, deaths, restarts, resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.processes.running import Run, running, wait_until

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = (
    "--batch-size",
    "100",
    "--dim",
    "8",
    "--fanout",
    "3",
    "--negatives",
    "3",
    "--dtype",
    "float64",
    "--threads",
    "1",
)
PROGRAM = ("-m", "mspipe_triton", "train")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
LIMIT = 20.0  # seconds until all processes of a run have ended, where a minute is promised
PATIENCE = 240.0  # seconds that a run may take


@pytest.fixture
def events(tmp_path: Path, command: Command) -> Path:
    done = command("data", "generate", "events.csv", "--events", "2000", "--users", "40", "--items", "20")
    assert done.returncode == 0, done.stderr
    return tmp_path / "events.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nproc", "0"), "--nproc must be at least 1, not 0"),
        (("--nproc", "100000"), "--nproc 100000 is far above the "),
        (("--nproc", "2", "--lr", "-1"), "lr must be finite and above 0, not -1.0"),
        (("--nproc", "2", "--resume"), "--resume needs --out RUN, the folder of the run to continue"),
        (("--nproc", "2", "--resume", "--out", "none"), "none: no such folder; --resume needs that of a run"),
        (("--nproc", "2", "--continue", "none"), "none: no run there (config.toml is missing)"),
        (("--nproc", "two"), "--nproc must be a whole number, not 'two'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_are_printed_once_before_any_process_starts(
    arguments: tuple[str, ...], message: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    done = command("train", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def start(folder: Path, size: int, *arguments: str) -> Any:
    """Start Python with arguments in a folder, and end what a failing test leaves of its processes."""
    return running([sys.executable, "-c", f"import os, sys; os.chdir({str(folder)!r}); "
                    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])", *arguments], folder, size,
                   "mspipe-triton")  # fmt: skip


def pid_of(run: Run, rank: int) -> int:
    """The process of a rank."""
    for pid in run.left_over():
        variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0")
        if f"RANK={rank}" in variables:
            return pid
    raise AssertionError(f"there is no rank {rank}")


def kill_in_second_epoch(run: Run, folder: Path, rank: int) -> int:
    """Kill a rank after the first epoch, and return the number that its process had."""
    metrics = folder / "metrics.jsonl"
    wait_until(
        lambda: (metrics.exists() and '"val"' in metrics.read_text()) or run.process.poll() is not None, PATIENCE
    )
    pid = pid_of(run, rank)
    run.kill(pid, signal.SIGKILL)
    return pid


def end(run: Run) -> tuple[int, list[str]]:
    """Wait for the end of a run, and return the exit status and the run's own lines of stderr."""
    _, errors = run.process.communicate(timeout=PATIENCE)
    begin = f"{run.speaker}: "
    lines = [line.removeprefix(begin) for line in errors.splitlines() if line.startswith(begin)]
    return run.process.returncode, lines


def scores(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers that a run with any number of ranks, or a resumed one, has alike."""
    names = ("ap", "auc", "mrr", "ap_batch_mean")
    flat = {f"{split} {name}": result[split][name] for split in ("val", "test") for name in names}
    return {**flat, **{f"loss {epoch}": loss for epoch, loss in enumerate(result["losses"])}}


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["nproc", "torchrun"])
def test_ranks_print_and_write_what_one_process_does(
    launcher: Sequence[str], events: Path, tmp_path: Path, command: Command
) -> None:
    alone = command("train", "events.csv", *SMALL, "--epochs", "1", "--out", "alone", "--json")
    nproc = () if launcher else ("--nproc", "2")
    flags = ("--epochs", "1", "--out", "run", "--schedule", "exact", "--trace", "--json")
    with start(tmp_path, 2, *launcher, *PROGRAM, "events.csv", *SMALL, *nproc, *flags) as run:
        output, errors = run.process.communicate(timeout=PATIENCE)
    assert run.process.returncode == 0, errors
    result, expected = json.loads(output), json.loads(alone.stdout)
    assert scores(result) == pytest.approx(scores(expected), rel=1e-9)
    assert result == result_of(tmp_path / "run")
    assert (result["ranks"], expected["ranks"]) == (2, 1)
    assert errors.count("Training tgn on events") == errors.count("epoch 1/1: training loss") == 1
    assert errors.count("schedule exact, 2 ranks") == 2
    assert errors.count("2 ranks use the shipped settings, since tuning is for one process.") == 1
    trace = json.loads((tmp_path / "run" / "trace.json").read_text(encoding="utf-8"))
    assert {"forward", "backward", "exchange"} <= {each["name"] for each in trace["traceEvents"]}
    evaluated = command("evaluate", "run", "--json")
    assert json.loads(evaluated.stdout)["ap"] == pytest.approx(result["test"]["ap"], rel=1e-9)
    resumed = command("train", "--out", "run", "--resume", "--epochs", "2", "--json")
    assert json.loads(resumed.stdout)["losses"][0] == result["losses"][0]


@pytest.mark.slow
def test_usage_errors_under_torchrun_are_printed_once(events: Path, tmp_path: Path) -> None:
    for flags, message in {
        ("--bogus",): "No such option --bogus",
        ("--lr", "-1"): "lr must be finite and above 0, not -1.0",
        ("--out", "events.csv"): "events.csv: is a file; --out names a folder",
    }.items():
        with start(tmp_path, 2, *TORCHRUN, *PROGRAM, "events.csv", *flags) as run:
            _, lines = end(run)
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["nproc", "torchrun"])
def test_a_rank_that_is_killed_is_named_and_the_run_resumes(
    launcher: Sequence[str], events: Path, tmp_path: Path, command: Command
) -> None:
    whole = command("train", "events.csv", *SMALL, "--epochs", "8", "--out", "whole", "--json")
    nproc = () if launcher else ("--nproc", "2")
    with start(tmp_path, 2, *launcher, *PROGRAM, "events.csv", *SMALL, *nproc, "--epochs", "8", "--out", "run") as run:
        pid = kill_in_second_epoch(run, tmp_path / "run", 1)
        wait_until(lambda: not run.left_over(), LIMIT)
        code, lines = end(run)
    fate = "died" if launcher else "was killed by SIGKILL, as the system does if memory runs out"
    way = "to continue after the last complete epoch, use `mspipe-triton train --out run --resume`"
    assert (code, lines) == (1, [f"process 1 (pid {pid}) {fate}; {way}"])
    assert not (tmp_path / "run" / "result.json").exists()
    with start(tmp_path, 2, *launcher, *PROGRAM, "--out", "run", "--resume", *nproc) as run:
        code, lines = end(run)
    assert (code, lines) == (0, [])
    assert scores(result_of(tmp_path / "run")) == pytest.approx(scores(json.loads(whole.stdout)), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts_a_run_that_resumes_by_itself(
    rank: int, events: Path, tmp_path: Path, command: Command
) -> None:
    """Without --out, so the folder's name comes from what the first start has noted."""
    whole = command("train", "events.csv", *SMALL, "--epochs", "6", "--out", "whole", "--json")
    (tmp_path / "runs" / "events-tgn-1").mkdir(parents=True)
    folder = tmp_path / "runs" / "events-tgn-2"
    with start(tmp_path, 2, *TORCHRUN, "--max-restarts", "1", *PROGRAM, "events.csv", *SMALL, "--epochs", "6") as run:
        pid = kill_in_second_epoch(run, folder, rank)
        _, errors = run.process.communicate(timeout=PATIENCE)
    assert run.process.returncode == 0, errors
    assert f"mspipe-triton: process {rank} (pid {pid}) died\n" in errors
    assert "Restart 1: continuing after epoch " in errors
    assert scores(result_of(folder)) == pytest.approx(scores(json.loads(whole.stdout)), rel=1e-9)
    assert sorted(os.listdir(tmp_path / "runs")) == ["events-tgn-1", "events-tgn-2"]


@pytest.mark.slow
def test_a_restart_before_the_first_epoch_is_complete_starts_anew(events: Path, tmp_path: Path) -> None:
    one = ("-m", "torch.distributed.run", "--nproc-per-node", "1", "--max-restarts", "1")
    flags = ("--epochs", "1", "--batch-size", "2", "--dim", "8", "--no-autotune", "--out", "run")
    with start(tmp_path, 1, *one, *PROGRAM, "events.csv", *flags) as run:
        data = tmp_path / "run" / "data.json"
        wait_until(lambda: data.exists() or run.process.poll() is not None, PATIENCE)
        run.kill(pid_of(run, 0))
        _, errors = run.process.communicate(timeout=PATIENCE)
    assert run.process.returncode == 0, errors
    assert "Restart 1: no epoch was complete, so training starts again." in errors
    assert result_of(tmp_path / "run")["ranks"] == 1
