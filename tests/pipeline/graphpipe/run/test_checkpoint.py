"""Checkpoints: whole or not at all, the same after a resumption, under any plan."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch.optim import ASGD, SGD, Adagrad, Adam, AdamW, NAdam, Optimizer

from mspipe_triton.errors import RunFolderError
from mspipe_triton.pipeline.graphpipe.run import module_state
from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer
from tests.pipeline.graphpipe.run.standins import Make, Net, momentum, process, standin, train


class Custom(Optimizer):
    """State of several kinds: a number, an integer tensor, and a list of tensors wider than the parameter."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "function": abs, "betas": (0.5, 0.75)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["turn"] = group.get("turn", 0) + 1
            for each in group["params"]:
                state = self.state[each]
                state["count"] = state.get("count", 0) + 1
                state["mask"] = state.get("mask", torch.zeros(3, dtype=torch.int64)) + 1
                state["sums"] = [state.get("sums", [torch.zeros_like(each).double()])[0] + each.grad]
                each -= group["lr"] * state["sums"][0] / (state["count"] + state["mask"][0] + group["turn"])


def same(one: StageTrainer, other: StageTrainer) -> bool:
    return one.steps == other.steps and all(torch.equal(one.state[name], other.state[name]) for name in one.state)


OPTIMIZERS: dict[str, Make | None] = {
    "adam": Adam,
    "amsgrad": lambda parameters: AdamW(parameters, amsgrad=True),
    "momentum": momentum,
    "sgd": SGD,
    "nadam": NAdam,
    "asgd": ASGD,
    "adagrad": Adagrad,
    "tensor": lambda parameters: Adam(parameters, lr=torch.tensor(0.1)),
    "custom": Custom,
    "none": None,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_is_the_same(name: str, folder: Path) -> None:
    make = OPTIMIZERS[name]
    whole = standin(make=make)
    train(whole, 5)
    save_checkpoint(folder, whole)
    resumed = standin(make=make, net=Net(seed=9))
    load_checkpoint(folder, resumed)
    assert same(resumed, whole)
    assert torch.equal(resumed.rest["unused.weight"], whole.rest["unused.weight"])
    shutil.rmtree(folder)
    for each in (whole, resumed):
        train(each, 5)
    assert same(resumed, whole)
    assert make is None or not torch.equal(whole.state["a.weight"], Net().a.weight)


def test_the_module_has_the_state_of_the_run(saved: Path) -> None:
    trainer = standin()
    train(trainer, 2)
    net, state = Net(seed=9), module_state(str(saved))
    net.load_state_dict(state)
    assert all(torch.equal(net.state_dict()[name], each) for name, each in {**trainer.state, **trainer.rest}.items())
    assert state["b.weight"].data_ptr() == state["tied.weight"].data_ptr()


def test_tensors_are_stored_once_and_alone(folder: Path) -> None:
    net = Net()
    net.a.weight.data = torch.zeros(1000, 3)[:4]
    trainer = standin(net=net)
    save_checkpoint(folder, trainer)
    state = torch.load(folder / "step-00000" / "stage-0.pt", weights_only=True)["state"]
    assert state["b.weight"].data_ptr() == state["tied.weight"].data_ptr()
    assert state["a.weight"].untyped_storage().nbytes() == 4 * 3 * 4


def test_the_record_says_what_there_is(saved: Path) -> None:
    record = json.loads((saved / "step-00002" / "checkpoint.json").read_text(encoding="utf-8"))
    assert (record["format"], record["model"], record["step"]) == (1, "small", 2)
    assert record["optimizer"]["name"] == "torch.optim.adam.Adam"
    assert record["optimizer"]["settings"]["betas"] == [0.9, 0.999]
    (stage,) = record["stages"]
    assert (stage["file"], stage["operators"]) == ("stage-0.pt", ["a", "b"])
    assert stage["entries"]["a.weight"] == [4, 3]
    assert stage["entries"].keys() == Net().state_dict().keys()


def test_groups_keep_their_settings(folder: Path) -> None:
    def groups(parameters: Any) -> Optimizer:
        first, *others = parameters
        return SGD([{"params": [first], "lr": 0.5}, {"params": others}], lr=0.1)

    trainer = standin(make=groups)
    trainer.optimizer.param_groups[0]["lr"] = 0.25
    save_checkpoint(folder, trainer)
    resumed = standin(make=groups)
    load_checkpoint(folder, resumed)
    assert [each["lr"] for each in resumed.optimizer.param_groups] == [0.25, 0.1]
    with pytest.raises(
        RunFolderError, match=r"in two groups of parameters, and this run has them in one; use the same"
    ):
        load_checkpoint(folder, standin(make=lambda parameters: SGD(parameters, lr=0.1)))


def test_state_follows_the_type_of_a_parameter(saved: Path) -> None:
    trainer = standin(net=Net(dtype=torch.float64))
    load_checkpoint(saved, trainer)
    state = trainer.optimizer.state[trainer.parameters["a.weight"]]
    assert {name: each.dtype for name, each in state.items()} == {
        "step": torch.float32,
        "exp_avg": torch.float64,
        "exp_avg_sq": torch.float64,
    }


def test_a_newer_checkpoint_replaces_older_ones(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    (saved / ".step-00004.tmp").mkdir()
    trainer = standin()
    load_checkpoint(saved, trainer)
    train(trainer, 2)
    save_checkpoint(saved, trainer)
    save_checkpoint(saved, trainer)
    assert sorted(each.name for each in saved.iterdir()) == ["notes.txt", "step-00004"]


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def half(content: Any, file: Path, **_: Any) -> None:
    file.write_bytes(b"PK\x03\x04")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "function"),
    [(torch, "save"), (os, "fsync"), (Path, "rename"), (shutil, "rmtree")],
    ids=["save", "fsync", "rename", "rmtree"],
)
def test_a_crash_leaves_a_checkpoint(place: Any, function: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = standin()
    train(trainer, 3)
    with monkeypatch.context() as changes:
        changes.setattr(place, function, half if function == "save" else stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(saved, trainer)
    resumed = standin()
    load_checkpoint(saved, resumed)
    assert resumed.steps == (3 if function == "rmtree" else 2)
    train(resumed, 4 - resumed.steps)
    save_checkpoint(saved, resumed)
    assert [each.name for each in saved.iterdir()] == ["step-00004"]


def test_a_full_disk_is_told_in_one_line(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("[enforce fail] unexpected pos 64\nframe 0")

    trainer = standin()
    train(trainer, 3)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunFolderError, match=f"^{saved}: cannot be written: RuntimeError: .* unexpected pos 64$"):
        save_checkpoint(saved, trainer)
    assert [each.name for each in saved.iterdir()] == ["step-00002"]


def two(rank: int, folder: Path) -> None:
    """Two stages in two processes: saved, resumed under the same plan, and one that cannot write its file."""
    with process(folder / "store-of-two", rank, 2):
        trainer = standin(("a", "b"), rank)
        train(trainer, 3)
        save_checkpoint(folder / "run", trainer)
        resumed = standin(("a", "b"), rank, net=Net(seed=9))
        load_checkpoint(folder / "run", resumed)
        assert same(resumed, trainer)
        train(trainer, 1)
        whole = torch.save
        if rank:
            torch.save = stop_with_error
        with pytest.raises(RunFolderError, match="cannot be written: No space left on device"):
            save_checkpoint(folder / "run", trainer)
        torch.save = whole
        if not rank:
            assert [each.name for each in (folder / "run").iterdir()] == ["step-00003"]
            (folder / "run" / "step-00003" / "stage-1.pt").rename(folder / "aside.pt")
        with pytest.raises(RunFolderError, match=r"stage-1.pt: is missing"):
            load_checkpoint(folder / "run", standin(("a", "b"), rank))


def stop_with_error(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_stages_of_two_processes_are_taken_over_by_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(two, (tmp_path,), 2, start_method="fork")
    (tmp_path / "aside.pt").rename(tmp_path / "run" / "step-00003" / "stage-1.pt")
    with process(tmp_path / "store"):
        alone, resumed = standin(), standin(net=Net(seed=9))
        train(alone, 3)
        load_checkpoint(tmp_path / "run", resumed)
        assert same(resumed, alone)
        for each in (alone, resumed):
            train(each, 3)
        assert same(resumed, alone)
    net = Net(seed=9)
    net.load_state_dict(module_state(tmp_path / "run"))
