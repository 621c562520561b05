"""Runs under TGB's protocol: its split and candidates, reads from before a batch, and the same bits when evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.split import tgb_split
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.trainer import train
from mspipe_triton.training.way import carry_out
from tests.conftest import Command
from tests.data import plain_tgb

SMALL = ("--protocol", "tgb", "--epochs", "1", "--dim", "8", "--fanout", "3", "--threads", "1", "--deterministic")


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """2,000 events that share times, which TGB's split moves to the earlier part, and ours to the later one."""
    stream = synthetic_stream(SyntheticConfig(events=2000, users=60, items=30, seed=2))
    write_stream(replace(stream, t=stream.t // 20_000), tmp_path / "events.csv")
    return tmp_path / "events.csv"


def as_json(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("placement", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_a_run_follows_the_protocol_and_repeats_to_the_bit(
    events: Path, command: Command, tmp_path: Path, placement: str
) -> None:
    flags = (*SMALL, "--placement", placement, "--json")
    result = as_json(command("train", "events.csv", *flags, "--out", "run"))
    assert (result["protocol"], result["batch_size"]) == ("tgb", 200)
    saved = load_config(tmp_path / "run" / "config.toml")
    assert (saved.train.protocol, saved.data.split_at) == ("tgb", "tgb")
    stream = load_stream(saved.data)
    borders = tgb_split(stream.t)
    columns = (stream.src.tolist(), stream.dst.tolist(), stream.t.tolist())
    rows, last = list(zip(*columns, strict=True)), len(stream)
    train_times, val_times, _ = plain_tgb.parts(columns[2])
    assert stream.split() == borders == (len(train_times), len(train_times) + len(val_times))
    assert borders != replace(stream, borders=None).split()
    for split, start, stop in (("val", *borders), ("test", borders.val_end, last)):
        metrics = result[split]
        nodes = plain_tgb.candidates(rows, borders.train_end, start, stop, 100, 0)
        assert metrics["candidates"] == max(map(len, nodes))
        assert metrics["origin"] == "up to 100 per event by TGB's rule, at most half from training"
        assert metrics["streaming"].keys() == {"ap", "auc", "mrr"}
        assert metrics["streaming"] != {name: metrics[name] for name in ("ap", "auc", "mrr")}
        assert as_json(command("evaluate", "run", "--split", split, "--json")) == metrics
    again = as_json(command("train", "events.csv", *flags, "--out", "again"))
    for name in ("losses", "val", "test"):
        assert again[name] == result[name]
    resumed = as_json(command("train", "--resume", "--protocol", "tgb", "--out", "run", "--json"))
    assert resumed["test"] == result["test"]
    random = as_json(command("evaluate", "run", "--negatives", "7", "--json"))
    assert (random["candidates"], "origin" in random) == (7, False)
    every = as_json(command("evaluate", "run", "--candidates", "all", "--json"))
    assert every["candidates"] == torch.unique(stream.dst).numel() - 1
    for name in ("ap", "auc"):  # the view of the protocol stays
        assert every[name] == random[name] == result["test"][name]
        assert every["streaming"][name] == random["streaming"][name] == result["test"]["streaming"][name]
    (metrics,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1:])
    assert metrics["val"]["ap"] == result["val"]["ap"], "epochs are compared by the protocol's view, too"


def test_metrics_are_those_of_lagged_scores_among_the_candidates(events: Path, tmp_path: Path) -> None:
    flags = {"path": str(events), "protocol": "tgb", "epochs": 1, "dim": 8, "fanout": 3, "threads": 1}
    config = RunConfig().with_flags({**flags, "deterministic": True, "schedule": "serial"})
    result, stream = train(config, out=str(tmp_path / "run")), load_stream(config.data)
    way = carry_out(Session.create(config, stream))
    rows = list(zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), strict=True))
    split = tgb_split(stream.t)
    for lagged in (True, False):
        load_checkpoint(RunFolder(tmp_path / "run").best, way.session)
        for name, start, stop in (("val", *split), ("test", split.val_end, len(stream))):
            nodes = plain_tgb.candidates(rows, split.train_end, start, stop, 100, 0)
            table = torch.tensor([row + [-1] * (max(map(len, nodes)) - len(row)) for row in nodes])
            expected = summarise(predict_split(way, name, table, lagged=lagged)[0])
            for metric in ("ap", "auc", "mrr"):
                assert (result[name] if lagged else result[name]["streaming"])[metric] == expected[metric]


def test_a_stream_from_python_keeps_its_own_split(events: Path, tmp_path: Path) -> None:
    config = RunConfig().with_flags({"path": str(events), "protocol": "tgb", "epochs": 1, "dim": 4, "fanout": 2})
    with_borders = load_stream(config.data)
    assert train(config, with_borders, out=str(tmp_path / "run"))["test"]["origin"].startswith("up to 100")
    without = synthetic_stream(SyntheticConfig(events=2000, users=60, items=30, seed=2))
    with pytest.raises(ConfigError, match="split-at 'tgb' is for events that are read; pass split_at to EventStream"):
        train(config, without, out=str(tmp_path / "other"))
