"""Whole runs: their folders, and how they repeat, resume, fail, and are evaluated again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError, RunFolderError, TrainingError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import fusion_enabled
from mspipe_triton.pipeline.timeline import Timeline
from mspipe_triton.training.trainer import Observer, train


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def config(**train_settings: Any) -> RunConfig:
    settings = {"epochs": 2, "batch_size": 100, "negatives": 5, "threads": 1}
    determinism = {"deterministic": True, "schedule": "exact"}
    train_config = TrainConfig(**{**settings, **determinism, **train_settings})
    return RunConfig(model=ModelConfig(dim=8, fanout=4), train=train_config)


def from_file(stream: EventStream, folder: Path, settings: RunConfig) -> RunConfig:
    write_stream(stream, folder / "events.csv")
    return replace(settings, data=DataConfig(path=str(folder / "events.csv")))


def test_a_run_folder_holds_everything(small_stream: EventStream, tmp_path: Path) -> None:
    result = train(config(), small_stream, out=str(tmp_path / "a" / "run"))
    folder = tmp_path / "a" / "run"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "README.md", "checkpoint.pt", "config.toml", "data.json", "last.pt", "metrics.jsonl", "model.json",
        "model.safetensors", "result.json", "timeline.json",
    ]  # fmt: skip
    assert json.loads((folder / "result.json").read_text()) == result
    expected = {
        "model", "dataset", "events", "nodes", "schedule", "backend", "device", "batch_size", "epochs", "seed",
        "train_events_per_s", "epoch_seconds", "best_epoch", "val", "test", "losses", "stage_seconds", "plan",
        "staleness_measured", "peak_rss_mb", "peak_device_mb", "versions", "start",
    }  # fmt: skip
    assert expected <= result.keys()
    assert {"ap", "ap_batch_mean", "auc", "mrr"} <= result["val"].keys()
    assert {"edgebank", "edgebank_window", "popularity", "pair_features", "inductive"} <= result["test"].keys()
    assert not {"edgebank", "inductive"} & result["val"].keys()
    timeline = Timeline.read(json.loads((folder / "timeline.json").read_text()))
    assert (timeline.epoch, timeline.iterations) == (2, 6)
    assert {span.stage for span in timeline.spans} == set(result["stage_seconds"])
    assert list(result["stage_seconds"]) == ["sample", "features", "memory", "patch", "train", "update"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plans = [line for line in lines if line.get("event") == "plan"]
    lines = [line for line in lines if "event" not in line]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert plans[0]["old"] is None
    assert all({"period", "staleness", "starts", "times"} <= plan["new"].keys() for plan in plans)
    assert [plan["old"] for plan in plans[1:]] == [plan["new"] for plan in plans[:-1]]
    assert result["start"]["first_iteration_seconds"] > 0
    assert {"staleness", "period"} <= result["plan"].keys()
    assert result["staleness_measured"] == {"0": 2 * 9}
    assert lines[result["best_epoch"] - 1]["val"]["ap"] == result["val"]["ap"]


def test_the_same_seed_gives_the_same_bits(small_stream: EventStream, tmp_path: Path) -> None:
    first, again = (train(config(), small_stream, out=str(tmp_path / name)) for name in ("a", "b"))
    other = train(config(seed=1), small_stream, out=str(tmp_path / "c"))
    assert first["losses"] == again["losses"]
    assert first["test"] == again["test"]
    assert first["losses"] != other["losses"]


def test_evaluation_reproduces_the_result_exactly(small_stream: EventStream, tmp_path: Path) -> None:
    settings = from_file(small_stream, tmp_path, config(deterministic=False))
    result = train(settings, out=str(tmp_path / "run"))
    for split in ("val", "test"):
        metrics = evaluate_run(str(tmp_path / "run"), split)
        assert (metrics, metrics["candidates"]) == (result[split], 5)
    more = evaluate_run(str(tmp_path / "run"), "test", negatives=20)
    assert more["ap"] == result["test"]["ap"]
    assert more["mrr"] < result["test"]["mrr"]


def test_a_resumed_run_equals_the_uninterrupted_one(small_stream: EventStream, tmp_path: Path) -> None:
    whole = train(config(epochs=3), small_stream, out=str(tmp_path / "whole"))
    train(config(epochs=1), small_stream, out=str(tmp_path / "parts"))
    resumed = train(config(epochs=3), small_stream, out=str(tmp_path / "parts"), resume=True)
    for key in ("losses", "val", "test", "best_epoch"):
        assert resumed[key] == whole[key]


def test_a_run_resumes_under_the_schedule_for_another_number_of_cores(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result_after(epochs: int, cores: int) -> dict[str, Any]:
        monkeypatch.setattr("mspipe_triton.settings.cores", lambda: cores)
        return train(config(epochs=epochs, schedule="auto"), small_stream, out=str(tmp_path / "run"), resume=epochs > 1)

    first, second = result_after(1, 1), result_after(2, 4)
    assert (first["schedule"], second["schedule"]) == ("serial", "exact")
    assert "patch" in second["stage_seconds"]
    assert second["plan"]["schedule"] == "exact"
    assert result_after(2, 1)["plan"]["schedule"] == "serial"


def test_resuming_between_checkpoint_and_validation(small_stream: EventStream, tmp_path: Path) -> None:
    whole = train(config(epochs=2), small_stream, out=str(tmp_path / "run"))
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    last = next(line for line in lines if "loss" in (metrics := json.loads(line)) and metrics["epoch"] == 2)
    path.write_text("".join(line + "\n" for line in lines if line != last))
    resumed = train(config(epochs=2), small_stream, out=str(tmp_path / "run"), resume=True)
    assert resumed["test"] == whole["test"]
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines() if "loss" in line] == [1, 2]


def test_resuming_needs_the_same_run(small_stream: EventStream, tmp_path: Path) -> None:
    train(config(epochs=1), small_stream, out=str(tmp_path / "run"))
    with pytest.raises(RunFolderError, match=r"another --lr \(0.001 there, 0.5 here\)"):
        train(config(lr=0.5), small_stream, out=str(tmp_path / "run"), resume=True)
    with pytest.raises(RunFolderError, match="no such folder; --resume needs that of a run"):
        train(config(), small_stream, out=str(tmp_path / "none"), resume=True)
    with pytest.raises(RunFolderError, match="needs --out"):
        train(config(), small_stream, resume=True)
    changed = replace(small_stream, dst=small_stream.dst.flip(0))
    with pytest.raises(
        RunFolderError,
        match=r"was trained on 1,200 events, .* now holds as many, but with other sources and destinations",
    ):
        train(config(), changed, out=str(tmp_path / "run"), resume=True)


def test_another_run_is_not_overwritten(small_stream: EventStream, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds another run or other files"):
        train(config(), small_stream, out=str(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_default_folders_are_numbered(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(config(epochs=1), small_stream)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["synthetic-tgn-1", "synthetic-tgn-2"]


class PoisonAfter(Observer):
    """Set a parameter to NaN after a number of iterations."""

    def __init__(self, iterations: int) -> None:
        self.countdown = iterations

    def start(self, session: Session, folder: object) -> None:
        self.model = session.model

    def batch(self, epoch: int, events: int, loss: float) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(small_stream: EventStream, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="loss is nan in epoch 2, iteration 3"):
        train(config(schedule="serial"), small_stream, out=str(tmp_path / "run"), observer=PoisonAfter(9 + 3))
    assert not (tmp_path / "run" / "result.json").exists()
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["record"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_run_that_failed_in_its_first_epoch_leaves_a_usable_folder(small_stream: EventStream, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no epoch was finished"):
        train(config(), small_stream, out=str(tmp_path / "run"), observer=PoisonAfter(2))
    assert train(config(epochs=1), small_stream, out=str(tmp_path / "run"))["epochs"] == 1


def test_a_damaged_checkpoint_gets_one_line(small_stream: EventStream, tmp_path: Path) -> None:
    settings = from_file(small_stream, tmp_path, config(epochs=1))
    train(settings, out=str(tmp_path / "run"))
    best = tmp_path / "run" / "checkpoint.pt"
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(RunFolderError, match="damaged or truncated") as caught:
        evaluate_run(str(tmp_path / "run"), "test")
    assert "\n" not in str(caught.value)
    best.unlink()
    with pytest.raises(RunFolderError, match="no such checkpoint"):
        evaluate_run(str(tmp_path / "run"), "test")
    with pytest.raises(RunFolderError, match="no run there"):
        evaluate_run(str(tmp_path / "nowhere"), "test")


def test_an_interrupted_write_leaves_the_old_checkpoint(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(epochs=1), small_stream, out=str(tmp_path / "run"))
    before = (tmp_path / "run" / "last.pt").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        train(config(epochs=2), small_stream, out=str(tmp_path / "run"), resume=True)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_batch_size_above_the_training_events(small_stream: EventStream, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch-size 900 is above the 840 training events"):
        train(config(batch_size=900), small_stream, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_of_the_process_are_restored(small_stream: EventStream, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    train(config(epochs=1), small_stream, out=str(tmp_path / "run"))
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert fusion_enabled() is False


def test_training_learns_a_real_stream(real_data: Path, tmp_path: Path) -> None:
    settings = RunConfig(
        data=DataConfig(path=str(real_data / "uci.csv")),
        model=ModelConfig(dim=32, fanout=5),
        train=TrainConfig(epochs=1, negatives=1, threads=1),
    )
    result = train(settings, out=str(tmp_path / "run"))
    assert result["test"]["ap"] > result["test"]["edgebank"]["ap"] > 0.6
    assert result["test"]["inductive"]["events"] > 1000
