"""The split of a run is its own: evaluating uses it, resuming with another one is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.source import Contents
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.training.trainer import train

SMALL = RunConfig(
    model=ModelConfig(dim=8, fanout=4),
    train=TrainConfig(epochs=1, batch_size=50, negatives=5, threads=1, deterministic=True, schedule="serial"),
)
LONGER = SMALL.with_flags({"epochs": 2})


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(scope="module")
def stream() -> EventStream:
    """400 events, four at each time, between 10 sources and 10 destinations."""
    number = torch.arange(400)
    return EventStream(number % 10, 10 + number * 7 % 11 % 10, number // 4, name="ties")


@pytest.fixture
def file(stream: EventStream, tmp_path: Path) -> Path:
    write_stream(stream, tmp_path / "ties.csv")
    return tmp_path / "ties.csv"


def test_contents_hold_the_split(stream: EventStream) -> None:
    assert Contents.of(stream).split == (280, 340)
    assert Contents.of(replace(stream, borders=Split(200, 300))).split == (200, 300)
    same = replace(stream, t=torch.zeros(400, dtype=torch.int64))
    assert Contents.of(same).split == (0, 0), "it cannot be split"


def test_a_stream_of_tensors_keeps_the_split_of_its_run(stream: EventStream, file: Path, tmp_path: Path) -> None:
    run, mine = str(tmp_path / "run"), replace(stream, borders=Split(200, 300))
    result = train(SMALL, mine, out=run)
    assert load_config(Path(run) / "config.toml").data.split_at == "50,75"
    for other in (mine, stream, replace(stream, borders=Split(240, 360))):
        assert evaluate_run(run, "test", stream=other) == result["test"]
    assert evaluate_run(run, "val", data=str(file)) == result["val"]
    message = (
        f"{run}: was trained on a split of 200, 100 and 100 events, and now it is one of 280, 60 and 60 events; use "
        "borders=(200, 300)"
    )
    with pytest.raises(RunFolderError, match=f"^{re.escape(message)}$"):
        train(LONGER, stream, out=run, resume=True)
    assert train(LONGER, mine, out=run, resume=True)["epochs"] == 2
    again = replace(LONGER.with_flags({"epochs": 3}), data=DataConfig(str(file), split_at="0.5,0.75"))
    assert train(again, out=run, resume=True)["epochs"] == 3


def test_a_stream_that_is_read_keeps_the_split_of_its_run(file: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    config = replace(SMALL, data=DataConfig(str(file), split_at="50,75"))
    result = train(config, out=run)
    assert evaluate_run(run, "test") == result["test"]
    assert evaluate_run(run, "test", stream=read_stream(file)) == result["test"]
    for split_at, fix in (("", "--split-at 50,75"), ("0.6,0.75", "--split-at 50,75")):
        changed = replace(LONGER, data=DataConfig(str(file), split_at=split_at))
        with pytest.raises(RunFolderError, match=f"was trained on a split of 200, 100 .*; use {fix}$"):
            train(changed, out=run, resume=True)
    read = read_stream(file)
    frame = EventStream.of({"src": read.src, "dst": read.dst, "t": read.t}, one_kind=True)
    with pytest.raises(RunFolderError, match=r'use split_at="50,75"$'):
        train(LONGER, frame, out=run, resume=True)
    assert train(replace(LONGER, data=config.data), out=run, resume=True)["epochs"] == 2


def test_a_run_with_the_default_split_is_not_resumed_with_another(file: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train(replace(SMALL, data=DataConfig(str(file))), out=run)
    with pytest.raises(RunFolderError, match=r"; use --split-at 70,85$"):
        train(replace(LONGER, data=DataConfig(str(file), split_at="50,75")), out=run, resume=True)
    assert train(replace(LONGER, data=DataConfig(str(file), split_at="70,85")), out=run, resume=True)["epochs"] == 2


def test_a_setting_for_events_that_are_read_is_refused_beside_a_stream(stream: EventStream, tmp_path: Path) -> None:
    config, run = replace(SMALL, data=DataConfig("ties.csv", split_at="50,75")), tmp_path / "run"
    with pytest.raises(
        ConfigError, match=r"split-at '50,75' is for events that are read; pass split_at to EventStream"
    ):
        train(config, stream, out=str(run))
    assert not run.exists()


def test_features_fitted_to_another_split_are_told_apart_from_other_data(file: Path, tmp_path: Path) -> None:
    run, table = str(tmp_path / "run"), pd.read_csv(file).assign(f0=range(400))
    table.to_csv(file, index=False)
    result = train(replace(SMALL, data=DataConfig(str(file), split_at="50,75")), out=run)
    same = read_stream(file, split_at="0.5,0.75")
    assert evaluate_run(run, "test", stream=same) == result["test"]
    with pytest.raises(RunFolderError, match=r"a split of 200, 100 and 100 events, .*; use --split-at 50,75$"):
        evaluate_run(run, "test", stream=read_stream(file))
    table.assign(time=table["time"] + 1).to_csv(file, index=False)
    with pytest.raises(RunFolderError, match="as many, but with other times; pass the stream"):
        evaluate_run(run, "test", stream=read_stream(file, split_at="51,76"))


def test_other_data_that_the_split_does_not_fit_are_named_as_such(
    stream: EventStream, file: Path, tmp_path: Path
) -> None:
    config = SMALL.with_flags({"path": str(file), "split_at": "60,80"})
    train(config, out=str(tmp_path / "run"))
    write_stream(replace(stream, t=stream.t // 10), tmp_path / "slow.csv")
    with pytest.raises(RunFolderError, match="now holds as many, but with other times; restore the file"):
        evaluate_run(str(tmp_path / "run"), "test", data=str(tmp_path / "slow.csv"))
