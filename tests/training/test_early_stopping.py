"""Early stopping: the epoch at which runs stop, what they say, and how they resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.training import trainer
from mspipe_triton.training.entry import enter
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.stopping import stops
from mspipe_triton.training.trainer import train

Scores = Callable[[list[float]], None]


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def validate(monkeypatch: pytest.MonkeyPatch) -> Scores:
    """Set validation AP of the next epochs."""

    def set_scores(scores: list[float]) -> None:
        following = iter(scores)
        monkeypatch.setattr(trainer, "summarise", lambda _: {"ap": next(following), "auc": 0.5})

    return set_scores


class Lines(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def stop(self) -> list[str]:
        return [line for line in self.lines if line.startswith(("Stopped", "All"))]


def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=300, users=40, items=20, seed=1))


def config(**settings: Any) -> RunConfig:
    values = {"epochs": 7, "batch_size": 100, "negatives": 5, "threads": 1, "patience": 2, **settings}
    return RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(**values))


def stopping(scores: list[float], patience: int) -> int | None:
    """Number of epochs after which a run with these scores stops."""
    return next((count for count in range(len(scores) + 1) if stops(scores[:count], patience)), None)


def test_the_epoch_of_the_stop() -> None:
    scores = [0.5, 0.6, 0.6, 0.59, 0.7, 0.7, 0.6, 0.5]
    assert [stopping(scores, patience) for patience in (0, 1, 2, 3, 4)] == [None, 3, 4, 8, None]


def test_a_run_stops_and_says_so(validate: Scores, tmp_path: Path) -> None:
    validate([0.5, 0.7, 0.6, 0.7, 0.9])
    observer = Lines()
    result = train(config(), stream(), str(tmp_path / "run"), observer=observer)
    assert (result["epochs"], result["stopped_early"], result["best_epoch"]) == (4, True, 2)
    assert (result["patience"], len(result["losses"])) == (2, 4)
    assert observer.stop() == [
        "Stopped after epoch 4 of 7, since the last 2 epochs did not improve validation AP. --resume with a larger "
        "--patience trains on."
    ]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["stopped_early"] is True
    assert "stopped early (patience 2)" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_a_run_that_improves_in_time_trains_all_epochs(validate: Scores, tmp_path: Path) -> None:
    validate([0.5, 0.4, 0.6, 0.5, 0.5])
    observer = Lines()
    result = train(config(epochs=5), stream(), str(tmp_path / "run"), observer=observer)
    assert (result["epochs"], result["stopped_early"], observer.stop()) == (5, False, [])


def test_a_stopped_run_resumes_with_more_patience_alone(validate: Scores, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    validate([0.7, 0.6, 0.6])
    assert train(config(), stream(), out)["epochs"] == 3
    validate([])  # no epoch may follow
    observer = Lines()
    again = train(config(), stream(), out, resume=True, observer=observer)
    assert (again["epochs"], again["stopped_early"]) == (3, True)
    assert len(observer.stop()) == 1
    assert observer.stop()[0].startswith("Stopped after epoch 3 of 7, since the last 2 epochs")
    validate([0.6, 0.8, 0.5, 0.5])
    more = train(config(patience=4), stream(), out, resume=True)
    assert (more["epochs"], more["stopped_early"], more["best_epoch"]) == (7, False, 5)
    assert load_config(tmp_path / "run" / "config.toml").train.patience == 4


def test_the_count_goes_on_in_a_resumed_run(validate: Scores, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    validate([0.7, 0.6])
    assert train(config(epochs=2), stream(), out)["stopped_early"] is False
    validate([0.5, 0.9])
    assert train(config(), stream(), out, resume=True)["epochs"] == 3


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({}, []),
        ({"epochs": 4}, []),
        ({"epochs": 3}, ["--patience 2 cannot end a run of 3 epochs early; add --epochs."]),
        ({"epochs": 1, "patience": 1}, ["--patience 1 cannot end a run of 1 epoch early; add --epochs."]),
        ({"epochs": 5, "patience": 0, "lr_schedule": "plateau"}, []),
        (
            {"epochs": 4, "patience": 0, "lr_schedule": "plateau"},
            ["--lr-schedule plateau cannot halve the rate in a run of 4 epochs; use --epochs 5 or more."],
        ),
    ],
    ids=["usual", "enough", "few", "one", "plateau", "short plateau"],
)
def test_settings_without_effect_get_a_note(settings: dict[str, Any], notes: list[str], tmp_path: Path) -> None:
    assert list(enter(config(**settings), stream(), str(tmp_path / "run")).notes) == notes
