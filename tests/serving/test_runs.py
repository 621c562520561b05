"""Predictors of runs of every kind: moved and changed data, interrupted and continued runs, tasks and protocols."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton import DataConfig, ModelConfig, Predictor, RunConfig, TrainConfig, continuation, load, train
from mspipe_triton.config import MODELS
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import DataError, InputError
from mspipe_triton.execution import RunSettings
from mspipe_triton.models import REGISTRY, register
from mspipe_triton.models.tgn import TGN
from tests.serving.served import columns, copied, shop, shop_rows, trained, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on shop.csv, which is beside its folder."""
    return shop(tmp_path_factory.mktemp("shop"), dtype="float64")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change, and whose events are at another place."""
    return copied(run, tmp_path)


def same(one: Predictor, other: Predictor, tolerance: float = 1e-9) -> None:
    """Check that two predictors are the same, but for the order of additions."""
    assert (len(one), one.time, one.nodes) == (len(other), other.time, other.nodes)
    np.testing.assert_allclose(one.embed(), other.embed(), rtol=tolerance, atol=tolerance)


def refusal(*arguments: Any, **options: Any) -> str:
    """The message of a load that is refused."""
    with pytest.raises(InputError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_data_that_have_moved_or_changed(run: Path, copy: Path, tmp_path: Path) -> None:
    events, moved = tmp_path / "shop.csv", tmp_path / "moved.csv"
    same(load(copy), load(run))
    events.rename(moved)
    line = f"{events}: no such file; restore it, or name the one that {copy} was trained on as data=FILE"
    assert refusal(copy) == line
    for form in (str, Path):
        same(load(copy, data=form(moved)), load(run))
    write_rows(events, shop_rows(399))
    assert "was trained on 400 events" in refusal(copy)
    assert refusal(copy).endswith("name the one that the run was trained on with data=")
    rows = shop_rows()
    rows[-1]["amount"] = 77.0
    write_rows(events, rows)
    assert "now holds as many, but with other edge features" in refusal(copy)


def test_arguments_that_are_refused(run: Path, small_stream: EventStream, tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "no")
        == f"{tmp_path / 'no'}: no run there (config.toml is missing); name a folder that `train` wrote"
    )
    assert refusal(run.parent / "shop.csv").startswith(f"{run.parent / 'shop.csv'}: no run there")
    for wrong in (None, 5, ["run"]):
        assert refusal(wrong).startswith("run must be a path, not ")
    assert refusal(run, data=5) == "data must be a path, not 5; name a file"
    assert refusal(run, stream=small_stream, data="x") == "data and stream both hold the events; pass one of them"
    assert "was trained on 400 events" in refusal(run, stream=small_stream)
    for share in (-1, float("nan"), float("inf"), "much", None):
        assert refusal(run, share=share).startswith("share must be a number of at least 0, not ")
    for at, line in (
        ("soon", "at: time is 'soon', neither a number nor a date; give a number, or a date such as 2026-01-01"),
        (float("nan"), "at: time is nan"), ([5], "at: time is [5]"), (True, "at: time is True"), ("", "at: time is ''"),
        ("2024-03-01", "at is 2024-03-01, not after the first event, at 2024-03-01; give a later time"),
        (0, "at is 0, not after the first event"),
    ):  # fmt: skip
        assert refusal(run, at=at).startswith(line)


@pytest.mark.parametrize("at", ["2024-03-10", 1710028800, 20240310, "2024-03-10T01:00:00+01:00"])
def test_a_time_leaves_out_its_events(at: Any, run: Path) -> None:
    predictor = load(run, at=at)
    assert (len(predictor), predictor.time) == (216, "2024-03-09T23:00:00")
    assert len(load(run, at="2025-01-01")) == len(load(run, at=10**30)) == 400
    assert len(load(run, at="training")) == 280


def test_a_run_without_a_finished_epoch_or_model(run: Path, copy: Path) -> None:
    for name in ("model.json", "model.safetensors", "result.json", "README.md"):
        (copy / name).unlink()  # as in a run that is interrupted before its result
    note = (
        f"training of {copy} has not finished (1 of 1 epoch); its model is that of epoch 1. `mspipe-triton train --out "
        f"{copy} --resume` finishes it."
    )
    with pytest.warns(UserWarning, match="has not finished") as warned:
        same(load(copy), load(run))
    assert [str(each.message) for each in warned] == [note]
    notes = list[str]()
    load(copy, note=notes.append)
    assert notes == [note]
    (copy / "checkpoint.pt").unlink()
    assert refusal(copy) == f"{copy}: no epoch was finished (checkpoint.pt is missing); train first"


def test_a_run_of_another_version(copy: Path) -> None:
    settings = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(settings | {"format": 7, "mspipe_triton": "9.1"}))
    assert f"{copy}: format 7 of version 9.1 is not 1, which version " in refusal(copy)
    assert refusal(copy).endswith("reads; use that version, or train again")


def test_models_of_one_folder_and_another(run: Path, copy: Path, tmp_path: Path) -> None:
    other = trained(tmp_path, synthetic_stream(SyntheticConfig(events=400, users=9, items=10)), "tgn", dtype="float64")
    shutil.copy(other / "model.safetensors", copy)
    assert refusal(copy).startswith("model.safetensors: ")
    assert len(load(run)) == 400


@pytest.fixture
def registry() -> Iterator[None]:
    """The registry, restored after the test."""
    before = dict(REGISTRY), dict(MODELS)
    yield
    for registry, former in zip((REGISTRY, MODELS), before, strict=True):
        registry.clear()
        registry.update(former)


@pytest.mark.usefixtures("registry")
def test_a_registered_model(small_stream: EventStream, tmp_path: Path) -> None:
    register("mine", TGN, fanout=4, layers=1, heads=2)
    run = trained(tmp_path, small_stream, "mine", "float64")
    predictor = load(run, stream=small_stream)
    predictor.observe(5000, 70, predictor.time, np.ones(3))
    predictor.save(tmp_path / "saved")
    same(load(tmp_path / "saved"), predictor)
    del REGISTRY["mine"], MODELS["mine"]
    for folder in (run, tmp_path / "saved"):
        assert "mine" in refusal(folder)


@pytest.mark.parametrize(
    "settings", [{"task": "node"}, {"protocol": "tgb", "batch_size": 200}, {"loss": "softmax", "train_negatives": 4},
                 {"train_negatives": 3, "negative_kind": "historical"}], ids=str,
)  # fmt: skip
def test_tasks_protocols_and_losses(settings: dict[str, Any], small_stream: EventStream, tmp_path: Path) -> None:
    data = {}
    if "protocol" in settings:
        write_stream(small_stream, tmp_path / "events.csv")
        run, flags = tmp_path / "run", {"path": str(tmp_path / "events.csv"), "epochs": 1, "dim": 8, "dtype": "float64"}
        config = RunConfig(settings=RunSettings(fused=False)).with_flags(flags | {"threads": 1} | settings)
        train(config, out=str(run))
    else:
        run, data = trained(tmp_path, small_stream, "tgn", "float64", **settings), {"stream": small_stream}
    end, early = load(run, **data), load(run, at="training", **data)
    borders = [*early._split, len(small_stream)]
    for start, stop in pairwise(borders):
        early.observe(**columns(small_stream, start, stop))
    same(early, end, 1e-4 if "protocol" in settings else 1e-9)  # the file has features in fewer digits
    end.save(tmp_path / "saved")
    same(load(tmp_path / "saved"), end)


def test_a_run_without_a_file(small_stream: EventStream, tmp_path: Path) -> None:
    ends = torch.stack([small_stream.src, small_stream.dst])
    src, dst = torch.unique(ends, return_inverse=True)[1]  # a file's nodes have no gaps
    stream = EventStream(src, dst, small_stream.t, small_stream.edge_features)
    run = trained(tmp_path, stream, "jodie", "float64")
    assert "its events were passed from Python; name a file that holds them as data=FILE" in refusal(run)
    write_stream(stream, tmp_path / "events.csv")
    same(load(run, data=tmp_path / "events.csv"), load(run, stream=stream))


def test_a_continued_run(tmp_path: Path) -> None:
    first, second = write_rows(tmp_path / "a.csv", shop_rows()[:300]), write_rows(tmp_path / "b.csv", shop_rows()[300:])
    config = RunConfig(
        DataConfig(str(first)), ModelConfig("tgn", dim=8, dtype="float64"),
        TrainConfig(epochs=1, batch_size=20, negatives=5, threads=1, device="cpu"),
        settings=RunSettings(fused=False),
    )  # fmt: skip
    train(config, out=str(tmp_path / "run"))
    train(
        replace(continuation(tmp_path / "run", second), settings=RunSettings(fused=False)), out=str(tmp_path / "later")
    )
    predictor = load(tmp_path / "later")
    assert (len(predictor), predictor.time) == (400, "2024-03-17T15:00:00")
    predictor.observe("zoe", 100, "2024-04-01")
    predictor.save(tmp_path / "saved")
    same(load(tmp_path / "saved"), predictor)
    for at in ("training", "2024-03-05", "2024-03-14"):
        early = load(tmp_path / "later", at=at)
        early.save(tmp_path / "early")
        same(load(tmp_path / "early"), early)


def test_an_earlier_state_knows_only_nodes_that_have_an_event(run: Path) -> None:
    rows = shop_rows()
    early = load(run, at=rows[5]["when"])
    seen = {("user", row["user"]) for row in rows[:5]} | {("item", row["item"]) for row in rows[:5]}
    assert set(early.nodes) == seen
    assert early.num_nodes == early.embed().shape[0] == early.node_table.num_rows == len(seen)
    later = next(row["user"] for row in rows if ("user", row["user"]) not in seen)
    with pytest.raises(DataError, match=f"src: user '{later}' is new, since no event so far has it"):
        early.score(later, rows[0]["item"])
    early.observe(later, rows[0]["item"], rows[5]["when"], {"amount": 1.0, "channel": "web"})
    assert ("user", later) in early.nodes


def test_loading_imports_no_compiler(shop_run: Path) -> None:
    """An optimizer that nobody uses would import torch's compiler, which takes longer than loading."""
    use = f"import sys, mspipe_triton; mspipe_triton.load({str(shop_run)!r}).embed(); "
    code = use + "assert 'sympy' not in sys.modules and 'torch._dynamo' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
