"""Runs of several ranks: the results and files of one process, other numbers of ranks, and ranks that are refused."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

import mspipe_triton
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.source import Contents
from mspipe_triton.data.split import tgb_split
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.errors import ConfigError, InputError, RunFolderError
from mspipe_triton.evaluation import evaluate
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.execution import RunSettings
from mspipe_triton.training import entry, usage
from mspipe_triton.training.trainer import Observer, train
from tests.processes.pool import Pool

HOST = socket.gethostname()
MEASURED = ("seconds", "per_s", "peak", "stage", "plan", "versions", "settings", "exchange", "ranks", "schedule")


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def stream(labels: bool = False, events: int = 420) -> EventStream:
    result = synthetic_stream(SyntheticConfig(events=events, users=40, items=20, edge_features=2, seed=1))
    return replace(result, labels=(torch.arange(events) % 3 == 0).double()) if labels else result


def config(**settings: Any) -> RunConfig:
    values = {"epochs": 2, "batch_size": 100, "negatives": 5, "threads": 1, "device": "cpu", **settings}
    return RunConfig(model=ModelConfig(dim=8, fanout=4, dtype="float64"), train=TrainConfig(**values))


def computed(result: Any) -> Any:
    """The part of a result that does not depend on time, memory or the number of ranks."""
    if isinstance(result, dict):
        return {name: computed(each) for name, each in result.items() if not any(word in name for word in MEASURED)}
    return [computed(each) for each in result] if isinstance(result, list) else result


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare results to 1e-9."""
    flat, others = dict(_flat(computed(result))), dict(_flat(computed(expected)))
    assert flat.keys() == others.keys()
    for name, value in flat.items():
        assert value == (pytest.approx(others[name], rel=1e-9) if isinstance(value, float) else others[name]), name


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [each for key, item in value.items() for each in _flat(item, f"{name}.{key}")]
    if isinstance(value, list):
        return [each for place, item in enumerate(value) for each in _flat(item, f"{name}.{place}")]
    return [(name, value)]


class Lines(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def trained(folder: str, runs: list[tuple[str, RunConfig, bool, bool]]) -> list[dict[str, Any]]:
    """Train as a rank: runs are names in the folder, settings, whether to resume, and whether to learn labels."""
    observer = Lines()
    results = []
    for name, settings, resume, labels in runs:
        events = stream(labels, 60 if settings.train.batch_size == 3 else 420)
        results.append(train(settings, events, str(Path(folder) / name), resume, observer))
    assert distributed.get_rank() == 0 or not observer.lines
    return results


def test_ranks_train_what_one_process_trains(processes: Pool, tmp_path: Path) -> None:
    """Uneven last batches, more ranks than events in a batch, and labels; the run folder serves one process."""
    few = config(batch_size=3, epochs=1, schedule="exact")
    runs = {
        "exact": (config(schedule="exact", deterministic=True, epochs=1), False),
        "few": (few, False),
        "labels": (config(task="node", epochs=1), True),
    }
    results = processes(
        4, trained, str(tmp_path), [(name, settings, False, labels) for name, (settings, labels) in runs.items()]
    )
    assert all(each == results[0] for each in results)
    for (name, (settings, labels)), result in zip(runs.items(), results[0], strict=True):
        events = stream(labels, 60 if settings is few else 420)
        alone = train(settings, events, str(tmp_path / f"{name}-alone"))
        assert_same(result, alone)
        folder, other = tmp_path / name, tmp_path / f"{name}-alone"
        assert json.loads((folder / "result.json").read_text()) == result
        assert {each.name for each in folder.iterdir()} == {each.name for each in other.iterdir()}
        assert (result["ranks"], alone["ranks"], alone["exchange"]) == (4, 1, None)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "event" not in line]
        assert lines[-1]["exchange"].keys() == {"gathered_bytes", "reduced_bytes"}
        assert result["exchange"] in [line["exchange"] for line in lines]
        assert min(result["exchange"].values()) > 0
        assert {"forward", "backward", "exchange"} <= result["stage_seconds"].keys()
        for file in ("checkpoint.pt", "last.pt"):
            here, there = (torch.load(each / file)["state"] for each in (folder, other))
            for table, values in there.items():
                torch.testing.assert_close(here[table], values, rtol=1e-9, atol=1e-12)
    assert_same(evaluate_run(str(tmp_path / "exact"), "test", stream=stream()), results[0][0]["test"])


def test_runs_resume_with_another_number_of_ranks(processes: Pool, tmp_path: Path) -> None:
    whole = train(config(epochs=4), stream(), str(tmp_path / "whole"))
    train(config(epochs=1), stream(), str(tmp_path / "run"))
    two = processes(2, trained, str(tmp_path), [("run", config(epochs=2), True, False)])
    three = processes(3, trained, str(tmp_path), [("run", config(epochs=3), True, False)])
    alone = train(config(epochs=4), stream(), str(tmp_path / "run"), resume=True)
    assert [each[0]["epochs"] for each in (*two, *three)] == [2, 2, 3, 3, 3]
    assert_same(alone, whole)


def refusals(folder: str) -> list[str]:
    """Try runs in which rank 1 differs, and return the messages."""
    rank, settings, messages = distributed.get_rank(), config(epochs=1), []
    first, other = Path(folder) / "events.csv", Path(folder) / f"{rank}.csv"

    def attempt(different: RunConfig, events: EventStream | None = None, **arguments: Any) -> None:
        with pytest.raises(InputError) as caught:
            train(different if rank == 1 else settings, events, str(Path(folder) / "run"), **arguments)
        messages.append(str(caught.value))

    attempt(config(epochs=1, lr=0.5, seed=3))
    attempt(settings, trace=rank == 1)
    with pytest.MonkeyPatch.context() as changes:
        if rank == 1:
            changes.setattr(mspipe_triton, "__version__", "0.0.9")
        attempt(settings)
    settings = replace(settings, data=DataConfig(path=str(first)))
    attempt(replace(settings, data=DataConfig(path=str(other))))
    attempt(replace(settings, data=DataConfig(path=str(Path(folder) / "nowhere.csv"))))
    altered = stream()
    if rank == 1:
        altered = replace(altered, t=altered.t + 1)
    attempt(settings, altered)
    attempt(settings, replace(stream(), borders=Split(300, 360 + rank)))
    settings = config(task="node")
    attempt(settings, stream(labels=rank == 0))
    settings = config(schedule="fixed", staleness=1, mitigation="similarity")
    attempt(settings)
    settings = config()
    attempt(settings, stream(), ranks=Ranks.of_group(torch.device("cpu")))
    return messages


def test_ranks_that_differ_are_refused_by_name(processes: Pool, tmp_path: Path) -> None:
    write_stream(stream(), tmp_path / "events.csv")
    write_stream(stream(events=500), tmp_path / "1.csv")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("the user's")
    results = processes(2, refusals, str(tmp_path))
    assert results[0] == results[1]
    lines = iter(results[0])
    assert next(lines).endswith(") has --lr 0.5 and --seed 3, and rank 0 (on " + HOST + ") has --lr 0.001 and "
                                "--seed 0; start all ranks with the same flags and settings")  # fmt: skip
    assert "has --trace True, and rank 0" in next(lines)
    version = usage.versions()["mspipe_triton"]
    assert next(lines) == (
        f"rank 1 (on {HOST}) has mspipe-triton 0.0.9, and rank 0 (on {HOST}) has mspipe-triton {version}; "
        "install the same on all hosts"
    )
    here, there = (Contents.of(read_stream(str(tmp_path / name))) for name in ("events.csv", "1.csv"))
    assert next(lines) == (
        f"rank 1 (on {HOST}) has {there} in {tmp_path}/1.csv, and rank 0 (on {HOST}) has {here} in "
        f"{tmp_path}/events.csv; copy rank 0's file"
    )
    assert next(lines).startswith(f"rank 1 (on {HOST}): {tmp_path}/nowhere.csv: no such file; ")
    assert next(lines) == (
        f"rank 1 (on {HOST}) has other times in {tmp_path}/events.csv than rank 0 (on {HOST}) in "
        f"{tmp_path}/events.csv; copy rank 0's file"
    )
    assert next(lines) == (
        f"rank 1 (on {HOST}) has split at events (300, 361), and rank 0 (on {HOST}) has split at events (300, 360); "
        "pass the same stream to all ranks"
    )
    assert next(lines).startswith(f"rank 1 (on {HOST}) has other labels in stream ")
    assert next(lines).startswith("mitigation similarity compares all rows of a batch, and 2 ranks share each batch; ")
    assert next(lines).endswith("run: holds another run or other files; choose an empty folder, or --resume it")
    assert not list(lines)
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["notes.txt"]


def trained_by_tgb(folder: Path) -> dict[str, Any]:
    """Train by TGB's protocol."""
    settings = config(epochs=1, protocol="tgb", batch_size=200, negatives=TrainConfig.negatives)
    return train(settings, replace(stream(), borders=tgb_split(stream().t)), str(folder))


def rank_0_alone(folder: str) -> tuple[dict[str, Any], str]:
    """Train by TGB's protocol, where rank 0 alone has the candidates; then let rank 0 fail to copy a checkpoint."""

    def refuse(*_: Any) -> None:
        raise RunFolderError("checkpoint.pt: cannot be written")

    with pytest.MonkeyPatch.context() as changes:
        if distributed.get_rank() > 0:
            changes.setattr(evaluate, "tgb_candidates", refuse)
        result = trained_by_tgb(Path(folder) / "tgb")
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(shutil, "copyfile", refuse)
        with pytest.raises(RunFolderError) as caught:
            train(config(epochs=1), stream(), str(Path(folder) / "full"))
    return result, str(caught.value)


def test_ranks_wait_for_what_rank_0_alone_does(processes: Pool, tmp_path: Path) -> None:
    results = processes(2, rank_0_alone, str(tmp_path))
    assert results[0] == results[1]
    result, message = results[0]
    assert message == "checkpoint.pt: cannot be written"
    assert_same(result, trained_by_tgb(tmp_path / "alone"))


def threads_of_settings(folder: str) -> list[tuple[int, int]]:
    """Return the numbers of threads of tuned settings, and of these under the flag that has the same number."""
    tuned, ranks = RunSettings("exact", threads=6, host_threads=5), Ranks.of_group(torch.device("cpu"))
    settings = [replace(config(threads=threads), settings=tuned) for threads in (0, 6)]
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(entry, "cores", lambda: 4 if ranks.first else 3)
        entries = [entry.enter(each, stream(), str(Path(folder) / "run"), ranks=ranks) for each in settings]
        resolved = [each.resolved()[0].settings for each in entries]
    return [(each.threads, each.host_threads) for each in resolved if each is not None]


def test_ranks_share_the_cores_that_settings_were_tuned_for(processes: Pool, tmp_path: Path) -> None:
    assert processes(2, threads_of_settings, str(tmp_path)) == [[(4, 4), (6, 5)], [(3, 3), (6, 5)]]


def test_one_of_several_processes_needs_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"this is one of 2 processes, and torch\.distributed is not initialised"):
        train(config(), stream(), str(tmp_path / "run"))
    assert train(config(epochs=1), stream(), str(tmp_path / "run"), ranks=ALONE)["ranks"] == 1
