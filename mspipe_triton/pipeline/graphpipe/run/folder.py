"""Folders of checkpoints: their layout, the record of each checkpoint, and checks before a run."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mspipe_triton.errors import RunFolderError
from mspipe_triton.files import check_writable

FORMAT = 1
RECORD = "checkpoint.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class SavedStage:
    """One stage's file.

    Args:
        index: the stage's.
        file: its name.
        checksum: CRC-32 of the file.
        operators: names of the stage's operators.
        entries: shapes of the entries of the module's `state_dict` in the file, by name.
    """

    index: int
    file: str
    checksum: int
    operators: tuple[str, ...]
    entries: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SavedOptimizer:
    """The class of an optimiser, and the settings that it was made with."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A checkpoint's table of contents.

    Args:
        model: the model's name.
        step: mini-batches that it has been trained on.
        optimizer: of all stages; None if nothing is trained.
        stages: in the order of the plan that wrote it.
    """

    model: str
    step: int
    optimizer: SavedOptimizer | None
    stages: tuple[SavedStage, ...]

    @property
    def entries(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all entries of the module's `state_dict`, by name."""
        return {name: shape for stage in self.stages for name, shape in stage.entries.items()}

    def text(self) -> str:
        """Return the record as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def check_folder(folder: Path, resume: bool, steps: int) -> int:
    """Refuse a folder in which a run cannot write checkpoints, or whose checkpoint it cannot resume.

    Args:
        folder: of the run's checkpoints; a new run's need not exist.
        resume: the run continues after the checkpoint in it.
        steps: mini-batches to train, those before the checkpoint included.

    Returns:
        The mini-batches that the model has been trained on: the checkpoint's, or 0.

    Raises:
        RunFolderError: it is a file or not writable; it holds a checkpoint and the run is new; or the run is resumed,
            and it holds none, a damaged one, or one after `steps` mini-batches or more.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; name a folder for checkpoints")
    check_writable(folder)
    if resume:
        step = read_record(newest(folder)).step
        if step >= steps:
            raise RunFolderError(
                f"{folder}: nothing to do: the checkpoint is after {step} steps; use --steps above {step}"
            )
        return step
    if present := _checkpoints(folder):
        raise RunFolderError(
            f"{folder}: holds a checkpoint already ({present[-1].name}); use another folder, or --resume"
        )
    return 0


def newest(folder: Path) -> Path:
    """Return the folder of the newest checkpoint.

    Raises:
        RunFolderError: there is none.
    """
    present = _checkpoints(folder)
    if not present:
        raise RunFolderError(f"{folder}: there is no checkpoint; name the folder of a run that has saved one")
    return present[-1]


def read_record(path: Path) -> Record:
    """Read the record of a checkpoint.

    Args:
        path: the folder of the checkpoint.

    Raises:
        RunFolderError: it is missing, damaged or of another format, or a file that it names is missing.
    """
    try:
        content = json.loads((path / RECORD).read_text(encoding="utf-8"))
        version = content.pop("format")
        if version == FORMAT:
            content["optimizer"] = content["optimizer"] and SavedOptimizer(**content["optimizer"])
            content["stages"] = tuple(_stage(each) for each in content["stages"])
            record = Record(**content)
    except Exception as error:  # damaged JSON fails in many ways
        raise damaged(path / RECORD, type(error).__name__) from error
    if version != FORMAT:
        raise RunFolderError(
            f"{path / RECORD}: format {version} is not {FORMAT}, which this version reads; train again"
        )
    for stage in record.stages:
        if not (path / stage.file).is_file():
            raise RunFolderError(f"{path / stage.file}: is missing; copy all files of the checkpoint, or train again")
    return record


def damaged(path: Path, reason: str) -> RunFolderError:
    """Return the error for a file of a checkpoint that cannot be read."""
    return RunFolderError(
        f"{path}: damaged or truncated ({reason}); use another copy of the checkpoint, or train again"
    )


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    result = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            result = zlib.crc32(block, result)
    return result


def place(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after a number of mini-batches."""
    return folder / f"step-{step:05d}"


def temporary(path: Path) -> Path:
    """Return the folder in which a checkpoint is written, or from which it is removed."""
    return path.with_name(f".{path.name}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that died while it wrote or removed a checkpoint."""
    for each in folder.glob(temporary(Path("step-*")).name):
        shutil.rmtree(each)


def remove_before(folder: Path, step: int) -> None:
    """Remove older checkpoints, each as a whole or not at all."""
    for each in _checkpoints(folder):
        if _step(each) < step:
            shutil.rmtree(each.rename(temporary(each)))


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints, the newest one last."""
    if not folder.is_dir():
        return []
    return sorted((each for each in folder.iterdir() if _STEP.fullmatch(each.name) and each.is_dir()), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _stage(content: dict[str, Any]) -> SavedStage:
    """Return a stage's part of a record."""
    entries = {name: tuple(shape) for name, shape in content.pop("entries").items()}
    return SavedStage(**{**content, "operators": tuple(content["operators"])}, entries=entries)
