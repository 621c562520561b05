"""Progress of evaluation: ways count every event of a split, in stages and resident, and runs pass the counts on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.trainer import Observer, train
from mspipe_triton.training.way import Watch, carry_out

# Of 1,200 events 180 are for validation and 180 for test, each in a whole batch and a partial one.
VAL, TEST = ([(name, 100, 180), (name, 80, 180)] for name in ("val", "test"))
EMBEDDINGS = [("embeddings", 100, 1200)] * 12

Counts = list[tuple[str, int, int]]


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def config(placement: str, **options: Any) -> RunConfig:
    settings = {"epochs": 2, "batch_size": 100, "negatives": 3, "threads": 1, "placement": placement}
    return RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(**{**settings, **options}))


@pytest.mark.parametrize("placement", ["host", "device"])
def test_a_way_counts_the_events_of_a_split(small_stream: EventStream, placement: str) -> None:
    counts: Counts = []
    watch = Watch(evaluation=lambda *count: counts.append(count))
    way = carry_out(Session.create(config(placement), small_stream), watch)
    for negatives in (0, 3):
        for split, expected in (("val", VAL), ("test", TEST)):
            counts.clear()
            assert len(list(way.predict(split, negatives))) == 2
            assert counts == expected
    counts.clear()
    way.embed(250)
    assert counts == [("embeddings", 100, 250), ("embeddings", 100, 250), ("embeddings", 50, 250)]


class Counting(Observer):
    """The order of epochs and evaluations, and the notes."""

    def __init__(self) -> None:
        self.counts: list[Any] = []
        self.notes: list[str] = []

    def evaluation(self, split: str, events: int, total: int) -> None:
        self.counts.append((split, events, total))

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.counts.append(metrics["epoch"])

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("placement", ["host", "device"])
def test_a_run_passes_the_counts_on(small_stream: EventStream, tmp_path: Path, placement: str) -> None:
    observer, folder = Counting(), str(tmp_path / "run")
    result = train(config(placement, task="node"), small_stream, out=folder, observer=observer)
    assert observer.counts == [*VAL, 1, *VAL, 2, *VAL, *TEST, *EMBEDDINGS]
    assert not set(observer.notes) & set(result["notes"]), "notes on the scores are in the result alone"
    for split, expected in (("val", VAL), ("test", [*VAL, *TEST])):
        counts: Counts = []
        evaluate_run(folder, split, stream=small_stream, progress=lambda *count: counts.append(count))  # noqa: B023
        embedded = [count for count in counts if count[0] == "embeddings"]
        assert [count for count in counts if count[0] != "embeddings"] == expected
        assert sum(events for _, events, _ in embedded) == (1020 if split == "val" else 1200)
