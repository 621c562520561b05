"""Checkpoints that a run must not resume: damaged, incomplete, of another model or optimiser; and unusable folders."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch.optim import SGD, Adam

from mspipe_triton.errors import InputError, RunFolderError
from mspipe_triton.pipeline.graphpipe.run import module_state
from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.pipeline.graphpipe.run.folder import check_folder
from tests.pipeline.graphpipe.run.standins import Make, Net, standin, train


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
