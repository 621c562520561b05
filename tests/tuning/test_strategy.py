"""Strategies of whole runs: where tuning is refused, a run trains, ends and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.training.observer import Observer
from mspipe_triton.tuning import OnlineTuning, ProfileStore, strategy_for

CONFIG = RunConfig(
    model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, epochs=1, negatives=3, device="cpu")
)


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"schedule": "mspipe"}, "Schedule mspipe is not tuned while it trains"),
        ({"schedule": "fixed", "staleness": 2}, "Schedule fixed is not tuned while it trains"),
        ({"placement": "device"}, "A resident run is not tuned while it trains"),
        ({"deterministic": True}, "A run with --deterministic is not tuned"),
    ],
    ids=["mspipe", "fixed", "resident", "deterministic"],
)
def test_a_run_that_cannot_be_tuned_says_why_and_ends(
    small_stream: EventStream, tmp_path: Path, flags: dict[str, Any], line: str
) -> None:
    config, notes = CONFIG.with_flags(flags), Notes()
    strategy = strategy_for(config, small_stream, ProfileStore(tmp_path / "profiles"))
    assert isinstance(strategy, OnlineTuning)
    result = train(config, small_stream, out=str(tmp_path / "run"), observer=notes, strategy=strategy)
    assert result["tuning"] is None
    assert sum(note.startswith(line) for note in notes.notes) == 1
    assert not any("too short to gain" in note for note in notes.notes)


def test_a_resumed_run_without_epochs_to_train_ends(small_stream: EventStream, tmp_path: Path) -> None:
    store, out = ProfileStore(tmp_path / "profiles"), str(tmp_path / "run")
    first = train(CONFIG, small_stream, out=out)
    strategy = strategy_for(CONFIG, small_stream, store)
    again = train(CONFIG, small_stream, out=out, resume=True, strategy=strategy)
    assert (again["tuning"], again["losses"]) == (None, first["losses"])
