"""Streams on which remembering pairs predicts perfectly: EdgeBank has full scores, unless nothing can be told apart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.training.trainer import train
from tests.conftest import Command

SOURCES = 120


def write_events(folder: Path, destinations: int) -> Path:
    """Write 3,000 events, in which source s always meets destination s mod D, numbered from 120 on."""
    path, draw = folder / f"few_{destinations}.csv", random.Random(0)
    sources = [draw.randrange(SOURCES) for _ in range(3000)]
    rows = [f"{s},{SOURCES + s % destinations},{10 * i}\n" for i, s in enumerate(sources)]
    path.write_text("src,dst,t\n" + "".join(rows))
    return path


@pytest.mark.parametrize("destinations", [4, 97])
def test_edgebank_has_full_scores(destinations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    config = RunConfig(
        model=ModelConfig(dim=8, fanout=2),
        data=DataConfig(path=str(write_events(tmp_path, destinations))),
        train=TrainConfig(epochs=1, batch_size=200, threads=1, schedule="serial"),
    )
    assert train(config, out=str(tmp_path / "run"))["test"]["edgebank"] == {"ap": 1.0, "auc": 1.0, "mrr": 1.0}


@pytest.mark.parametrize("arguments", [("train", "--autotune", "--out", "run"), ("train",), ("autotune",)])
def test_one_destination_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    name, *flags = arguments
    write_events(tmp_path, 1)
    run = command(name, "few_1.csv", *flags)
    assert run.returncode == 2
    assert "few_1: all 3,000 events have the same destination, 120; a model has nothing to tell" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["few_1.csv"]
