"""Stored models: what is written is read back to the bit, and damaged files and other formats are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mspipe_triton import ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import RunFolderError
from mspipe_triton.execution import RunSettings
from mspipe_triton.models.stored import SETTINGS, TENSORS, StoredModel

CONFIG = RunConfig(
    model=ModelConfig(dim=8), train=TrainConfig(epochs=1, batch_size=200, device="cpu"),
    settings=RunSettings(fused=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_stream: EventStream) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    train(CONFIG, small_stream, out=str(folder))
    return folder


def test_a_run_stores_its_model_after_all_events(run: Path, small_stream: EventStream) -> None:
    stored, tensors = StoredModel.read(run), load_file(run / TENSORS)
    assert stored.events == len(small_stream)
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert tensors.keys() == {f"model.{name}" for name in checkpoint["model"]} | {
        f"state.{name}" for name in checkpoint["state"]
    }
    for name, value in checkpoint["model"].items():
        assert torch.equal(stored.parameters[name], value)
    # After all events, a node's mail is of its last event; the checkpoint's is of training.
    last = torch.full((small_stream.num_nodes,), -1)
    for ends in (small_stream.src, small_stream.dst):
        last.scatter_reduce_(0, ends, torch.arange(len(small_stream)), "amax")
    assert torch.equal(stored.state["event_id"], last)
    assert not torch.equal(checkpoint["state"]["event_id"], last)


def test_writing_and_reading_keeps_everything(run: Path, tmp_path: Path) -> None:
    stored = StoredModel.read(run)
    stored.write(tmp_path)
    again = StoredModel.read(tmp_path)
    assert (again.config, again.facts, again.time, again.steps, again.events) == (
        stored.config, stored.facts, stored.time, stored.steps, stored.events,
    )  # fmt: skip
    assert again.stream == stored.stream
    for part, other in ((again.parameters, stored.parameters), (again.state, stored.state)):
        assert part.keys() == other.keys()
        assert all(torch.equal(value, other[name]) and value.dtype == other[name].dtype for name, value in part.items())
    assert stored.config.data.path == "", "a folder that others get names no file of this machine"


@pytest.mark.parametrize("name", [TENSORS, SETTINGS])
def test_missing_and_damaged_files_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    StoredModel.read(run).write(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFolderError, match="damaged or truncated"):
        StoredModel.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunFolderError, match=f"{name} is missing"):
        StoredModel.read(tmp_path)


def test_another_format_is_refused_with_both_versions(run: Path, tmp_path: Path) -> None:
    StoredModel.read(run).write(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps(settings | {"format": 99, "mspipe_triton": "9.9"}))
    with pytest.raises(RunFolderError, match=r"format 99 of version 9\.9 is not 1, which version .* reads"):
        StoredModel.read(tmp_path)


def test_a_new_best_epoch_removes_the_stored_model(small_stream: EventStream, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(CONFIG, small_stream, out=str(folder))
    before = (folder / TENSORS).read_bytes()
    train(CONFIG.with_flags({"epochs": 3}), small_stream, out=str(folder), resume=True)
    stored = StoredModel.read(folder)
    best = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(stored.parameters[name], value) for name, value in best.items())
    assert before != (folder / TENSORS).read_bytes()


def test_more_times_of_a_stream_are_scaled_as_its_own() -> None:
    t = torch.tensor([0, 3600, 7200, 36000], dtype=torch.int64)
    scale = TimeScale(0, 3600.0)
    assert scale.scale(t).tolist() == [0, 1, 2, 10]
    assert scale.scale(torch.tensor([36000]), True).tolist() == [10]
    assert scale.scale(torch.tensor([37800, 39600]), True).tolist() == [10.5, 11], "a half hour is not rounded"
