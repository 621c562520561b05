"""Checkpoints: whole or not at all, the same after a resumption, under any plan; what does not fit is refused."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch.optim import ASGD, SGD, Adagrad, Adam, AdamW, NAdam, Optimizer

from mspipe_triton.errors import InputError, RunFolderError
from mspipe_triton.pipeline.graphpipe.run import module_state
from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.pipeline.graphpipe.run.folder import check_folder
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


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of checkpoints, in a group of one process."""
    with process(tmp_path / "store"):
        yield tmp_path / "run"


@pytest.fixture
def saved(folder: Path) -> Path:
    """A folder with a checkpoint after 2 steps."""
    trainer = standin()
    train(trainer, 2)
    save_checkpoint(folder, trainer)
    return folder


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


def damages(content: bytes) -> dict[str, bytes]:
    """A file that was cut, or of which a byte was changed, at many places."""
    places = sorted({*range(0, len(content), max(1, len(content) // 12)), len(content) - 1})
    cuts = {f"cut at {each}": content[:each] for each in places}
    return cuts | {f"byte {one}": content[:one] + bytes([content[one] ^ 8]) + content[one + 1 :] for one in places}


def test_a_damaged_file_is_refused(saved: Path) -> None:
    file = saved / "step-00002" / "stage-0.pt"
    for content in damages(file.read_bytes()).values():
        file.write_bytes(content)
        with pytest.raises(RunFolderError, match=f"^{file}: damaged or truncated [^\n]*; use another copy"):
            module_state(saved)
        with pytest.raises(RunFolderError, match=f"^{file}: damaged or truncated [^\n]*; use another copy"):
            load_checkpoint(saved, standin())


def test_a_damaged_record_is_refused(saved: Path) -> None:
    file = saved / "step-00002" / "checkpoint.json"
    content = file.read_bytes()
    for end in range(0, len(content) - 2, len(content) // 20):
        file.write_bytes(content[:end])
        with pytest.raises(RunFolderError, match=f"^{file}: damaged or truncated"):
            load_checkpoint(saved, standin())


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_record_fails_in_one_line_if_at_all(seed: int, saved: Path) -> None:
    file = saved / "step-00002" / "checkpoint.json"
    content = bytearray(file.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 8
    file.write_bytes(content)
    problem = ""
    try:
        load_checkpoint(saved, standin())
    except InputError as error:
        problem = str(error)
    assert "\n" not in problem


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "stage-0.pt").unlink(), "stage-0.pt: is missing; copy all files of the checkpoint, or"),
        (lambda path: (path / "checkpoint.json").unlink(), "checkpoint.json: damaged or truncated (FileNotFoundError)"),
        (
            lambda path: change(path / "checkpoint.json", '"format": 1', '"format": 9'),
            "checkpoint.json: format 9 is not 1, which this version reads; train again",
        ),
        (
            lambda path: change(path / "checkpoint.json", '"step": 2', '"step": 3'),
            "stage-0.pt: damaged or truncated (it is not the one that checkpoint.json describes)",
        ),
    ],
    ids=["no stage", "no record", "format", "step"],
)
def test_an_incomplete_checkpoint_is_refused(damage: Callable[[Path], None], message: str, saved: Path) -> None:
    damage(saved / "step-00002")
    with pytest.raises(RunFolderError, match=re.escape(message)):
        module_state(saved)


class Deep(Net):
    def __init__(self) -> None:
        super().__init__()
        self.unused_too = torch.nn.Linear(1, 1)


def test_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    start = re.escape(f"{saved / 'step-00002'}: was saved from another model, small: ")
    for net, problem in {
        Net(width=5): r"a.weight has shape \(5, 3\) in the model and \(4, 3\) in the checkpoint",
        Deep(): "the model has unused_too.weight, and the checkpoint has not",
    }.items():
        with pytest.raises(RunFolderError, match=f"^{start}{problem}; use that model, or another folder$"):
            load_checkpoint(saved, standin(net=net))
    save_checkpoint(tmp_path / "deep", standin(net=Deep()))
    with pytest.raises(RunFolderError, match=r"the checkpoint has unused_too\.weight, and the model has not"):
        load_checkpoint(tmp_path / "deep", standin())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (SGD, "optimizer torch.optim.adam.Adam, and this run has torch.optim.sgd.SGD; use the same"),
        (None, "optimizer torch.optim.adam.Adam, and this run has none; use the same"),
        (lambda each: Adam(each, 0.5), "lr 0.001, and this run has 0.5; use the same --optimizer and --lr"),
    ],
    ids=["class", "none", "lr"],
)
def test_another_optimiser_is_refused(make: Make | None, problem: str, saved: Path) -> None:
    message = re.escape(f"{saved / 'step-00002'}: was saved with {problem}")
    with pytest.raises(RunFolderError, match=f"^{message}$"):
        load_checkpoint(saved, standin(make=make))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("parameter", {1, 2}, "Adam holds a set for a parameter; checkpoints hold tensors and numbers"),
        ("global", {"sum": 1}, "Adam holds state that belongs to no parameter, which no checkpoint can hold"),
    ],
)
def test_state_that_no_file_can_hold_is_refused(key: str, value: Any, problem: str, folder: Path) -> None:
    trainer = standin()
    train(trainer, 1)
    place: Any = trainer.parameters["a.bias"] if key == "parameter" else key
    trainer.optimizer.state[place]["more"] = value
    with pytest.raises(RunFolderError, match=f"^{problem}"):
        save_checkpoint(folder, trainer)
    assert not list(folder.iterdir())


def test_a_folder_is_checked_before_the_run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_folder(saved, resume=True, steps=3) == 2
    assert check_folder(tmp_path / "new" / "run", resume=False, steps=3) == 0
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path, resume, message in [
        (saved, True, "nothing to do: the checkpoint is after 2 steps; use --steps above 2"),
        (saved, False, r"holds a checkpoint already \(step-00002\); use another folder, or --resume"),
        (tmp_path / "new", True, "there is no checkpoint; name the folder of a run that has saved one"),
        (tmp_path, True, "there is no checkpoint; name the folder of a run that has saved one"),
        (tmp_path / "file", False, "is a file; name a folder for checkpoints"),
        (tmp_path / "file" / "run", False, "cannot be written: Not a directory"),
    ]:
        with pytest.raises(RunFolderError, match=f"^{path}: {message}$"):
            check_folder(path, resume, 2)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunFolderError, match=r"cannot be written: no permission to write$"):
        check_folder(tmp_path / "new", resume=False, steps=3)
    assert not (tmp_path / "new").exists()


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
