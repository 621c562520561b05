"""Logs of runs for TensorBoard, read back with its own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.errors import ConfigError, TrainingError
from mspipe_triton.training import logs
from mspipe_triton.training.observer import Observer, Observers
from mspipe_triton.training.trainer import train

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=300, users=40, items=20, seed=1))


def config(**settings: Any) -> RunConfig:
    values = {"epochs": 2, "batch_size": 3, "negatives": 5, "threads": 1, "log": "tensorboard", **settings}
    return RunConfig(model=ModelConfig(model="jodie", dim=4), train=TrainConfig(**values))


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points of each scalar of a run, by step."""
    reader = accumulator.EventAccumulator(str(folder / "tensorboard"))
    reader.Reload()
    return {name: [(each.step, each.value) for each in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


class Losses(Observer):
    def __init__(self, stop: int = 0) -> None:
        self.losses: list[float] = []
        self.stop = stop

    def batch(self, epoch: int, events: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.stop:
            raise KeyboardInterrupt


def test_a_log_has_the_run_and_a_resumed_one_replaces_what_it_trains_again(tmp_path: Path) -> None:
    first, second, out = Losses(70 + 60), Losses(), tmp_path / "run"
    settings = config(clip_norm=0.1, lr_schedule="cosine", deterministic=True)
    with pytest.raises(KeyboardInterrupt):
        train(settings, stream(), str(out), observer=first)
    assert [step for step, _ in points(out)["train/loss"]] == [50, 70, 120]
    result = train(settings, stream(), str(out), resume=True, observer=second)
    logged, losses = points(out), first.losses[:70] + second.losses
    means = [(stop, sum(losses[start:stop]) / (stop - start)) for start, stop in ((0, 50), (50, 70), (70, 120))]
    assert logged["train/loss"][:3] == [(step, pytest.approx(mean, rel=1e-5)) for step, mean in means]
    assert [step for step, _ in logged["train/lr"]] == [50, 70, 120, 140]
    for name in ("epoch/loss", "epoch/lr", "epoch/events_per_s", "epoch/grad_norm", "val/ap", "val/auc"):
        assert [step for step, _ in logged[name]] == [70, 140]
    assert [value for _, value in logged["epoch/loss"]] == pytest.approx(result["losses"], rel=1e-6)
    for name in ("ap", "auc", "mrr"):
        assert logged[f"test/{name}"] == [(140, pytest.approx(result["test"][name], rel=1e-6))]


def test_a_log_has_the_settings(tmp_path: Path) -> None:
    train(config(epochs=1, batch_size=100), stream(), str(tmp_path / "run"))
    reader = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    reader.Reload()
    content = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"batch_size" in content
    assert b"jodie" in content


def test_a_run_without_a_log_has_no_folder(tmp_path: Path) -> None:
    train(config(epochs=1, batch_size=100, log="none"), stream(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    train(config(epochs=2, batch_size=100), stream(), str(tmp_path / "run"), resume=True)
    assert [step for step, _ in points(tmp_path / "run")["epoch/loss"]] == [6]


def test_a_resident_run_has_a_point_per_epoch(tmp_path: Path) -> None:
    result = train(config(batch_size=100, placement="device"), stream(), str(tmp_path / "run"))
    steps = [(3 * (number + 1), pytest.approx(loss, rel=1e-6)) for number, loss in enumerate(result["losses"])]
    assert points(tmp_path / "run")["train/loss"] == steps


def test_a_run_that_failed_in_its_first_epoch_leaves_no_points(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no epoch was finished"):
        train(config(lr=1e30, schedule="serial"), stream(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "last.pt").exists()
    (tmp_path / "run" / "tensorboard").mkdir(exist_ok=True)
    (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1").write_bytes(b"")
    train(config(epochs=1, batch_size=100), stream(), str(tmp_path / "run"))
    assert [step for step, _ in points(tmp_path / "run")["epoch/loss"]] == [3]
    assert not (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1").exists()


def test_several_observers_get_every_call() -> None:
    """A callback that the composite does not pass on would be lost."""
    calls = {name for name, value in vars(Observer).items() if callable(value)}
    assert {"batch", "end"} <= calls
    assert calls == {name for name in vars(Observers) if not name.startswith("_")}


def test_a_missing_package_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "find_spec", lambda _: None)
    message = "^log tensorboard needs the package tensorboard, which is not installed; use `pip install tensorboard`$"
    with pytest.raises(ConfigError, match=message):
        train(config(), stream(), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
