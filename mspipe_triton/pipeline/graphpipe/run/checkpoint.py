"""Checkpoint and resume of a pipelined run, one file per stage, loadable into the unpipelined module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from mspipe_triton.errors import InputError, RunFolderError, first_line
from mspipe_triton.files import settle
from mspipe_triton.pipeline.graphpipe.run.folder import (
    RECORD,
    Record,
    SavedOptimizer,
    SavedStage,
    checksum,
    damaged,
    newest,
    place,
    read_record,
    remove_before,
    remove_leftovers,
    temporary,
)
from mspipe_triton.pipeline.graphpipe.run.optimizer_state import check_identity, identity, pack, unpack
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer

Result = TypeVar("Result")
Shapes = dict[str, tuple[int, ...]]


def save_checkpoint(folder: Path, trainer: StageTrainer) -> None:
    """Save the run as a whole or not at all, and remove the checkpoint before. All processes call this together.

    Whenever a process dies, the newest checkpoint in the folder is complete. A checkpoint of the same step stays as it
    is.

    Args:
        folder: of the run's checkpoints, the same for all processes; it is created if it does not exist.
        trainer: of this process's stage.

    Raises:
        RunFolderError: a process cannot write its file. All processes raise it.
    """
    path = place(folder, trainer.steps)
    draft, first = temporary(path), dist.get_rank() == 0

    def prepare() -> bool:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            if path.exists():
                return False
            draft.mkdir()
        return True

    def write() -> tuple[SavedStage | None, SavedOptimizer | None]:
        return (_write_stage(draft, trainer) if trainer.replica == 0 else None), identity(trainer.optimizer)

    def finish() -> None:
        if first:
            _write_record(draft, record)
            draft.rename(path)
            settle(folder)
            remove_before(folder, trainer.steps)

    if not all(_together(prepare, folder, "written")):
        return
    try:
        results = _together(write, folder, "written")
        stages = sorted((stage for stage, _ in results if stage), key=lambda each: each.index)
        optimizer = next((each for _, each in results if each), None)
        record = Record(trainer.plan.problem.graph.name, trainer.steps, optimizer, tuple(stages))
        _together(finish, folder, "written")
    except RunFolderError:
        if first:
            shutil.rmtree(draft, ignore_errors=True)
        raise


def load_checkpoint(folder: Path, trainer: StageTrainer) -> None:
    """Restore the newest checkpoint into a run of the same model, under any plan. All processes call this together.

    It sets parameters, buffers, the optimiser's state and the settings of its groups, and `trainer.steps`.

    Args:
        folder: of the run's checkpoints, the same for all processes.
        trainer: of this process's stage.

    Raises:
        RunFolderError: there is no checkpoint; a file is missing or damaged; or the model or the optimiser is another.
            All processes raise it.
    """
    entries = {**trainer.rest, **trainer.state}

    def describe() -> tuple[Shapes, SavedOptimizer | None]:
        return {name: tuple(each.shape) for name, each in entries.items()}, identity(trainer.optimizer)

    def restore() -> int:
        path = newest(folder)
        record = read_record(path)
        _check_model(path, record, {name: shape for shapes, _ in results for name, shape in shapes.items()})
        check_identity(path, record.optimizer, next((each for _, each in results if each), None))
        _restore(path, record, trainer, entries)
        return record.step

    results = _together(describe, folder, "read")
    trainer.steps = _together(restore, folder, "read")[0]


def module_state(folder: str | Path) -> dict[str, Tensor]:
    """Return the `state_dict` of the module that a run has trained, from its newest checkpoint.

    `module.load_state_dict(module_state("run"))` restores the module without a pipeline.

    Args:
        folder: of the run's checkpoints.

    Returns:
        All entries by name, on the CPU; those of tied parameters share their memory.

    Raises:
        RunFolderError: there is no checkpoint, or a file of it is missing or damaged.
    """
    path = newest(Path(folder))
    record = read_record(path)
    result: dict[str, Tensor] = {}
    for stage in record.stages:
        result |= _each_once(_read(path, record, stage)["state"], torch.clone)
    return result


def _together(action: Callable[[], Result], folder: Path, verb: str) -> list[Result]:
    """Return the results of an action in all processes, by rank.

    Raises:
        RunFolderError: it failed in a process; all raise the error of the first of them.
    """
    result, message, cause = None, None, None
    try:
        result = action()
    except Exception as error:
        cause = error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        message = str(error) if isinstance(error, InputError) else f"{folder}: cannot be {verb}: {reason}"
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, message))
    for _, message in outcomes:
        if message is not None:
            raise RunFolderError(message) from cause
    return [each for each, _ in outcomes]


def _write_stage(draft: Path, trainer: StageTrainer) -> SavedStage:
    """Write the file of a stage; the first stage's also has the entries that no stage uses."""
    entries = {**trainer.state, **(trainer.rest if trainer.index == 0 else {})}
    graph = trainer.plan.problem.graph
    content = {
        "model": graph.name,
        "step": trainer.steps,
        "state": _each_once(entries, _stored),
        "optimizer": pack(trainer.optimizer, trainer.parameters, _stored) if trainer.optimizer else {},
    }
    file = draft / f"stage-{trainer.index}.pt"
    torch.save(content, file)
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
    shapes = {name: tuple(each.shape) for name, each in entries.items()}
    return SavedStage(trainer.index, file.name, checksum(file), graph.names(trainer.stage.operators), shapes)


def _write_record(draft: Path, record: Record) -> None:
    """Write the record beside the files of all stages.

    Raises:
        RunFolderError: a file is not there, since its process has another disk.
    """
    for stage in record.stages:
        if not (draft / stage.file).exists():
            raise RunFolderError(
                f"{draft.parent}: the process of rank 0 cannot see {stage.file}, which another has written; name a "
                "folder that all machines share"
            )
    with open(draft / RECORD, "w", encoding="utf-8") as file:
        file.write(record.text())
        file.flush()
        os.fsync(file.fileno())
    settle(draft)


def _read(path: Path, record: Record, stage: SavedStage) -> dict[str, Any]:
    """Read the file of a stage; its tensors stay in the file until they are used."""
    file = path / stage.file
    try:
        same = checksum(file) == stage.checksum
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True) if same else {}
    except Exception as error:  # torch raises many kinds for a damaged file
        raise damaged(file, type(error).__name__) from error
    if (content.get("model"), content.get("step")) != (record.model, record.step):
        raise damaged(file, f"it is not the one that {RECORD} describes")
    return content


def _check_model(path: Path, record: Record, shapes: Shapes) -> None:
    """Refuse a model whose entries have other names or shapes than those of the checkpoint."""
    saved = record.entries
    for name in {**shapes, **saved}:
        if name not in saved:
            problem = f"the model has {name}, and the checkpoint has not"
        elif name not in shapes:
            problem = f"the checkpoint has {name}, and the model has not"
        elif saved[name] != shapes[name]:
            problem = f"{name} has shape {shapes[name]} in the model and {saved[name]} in the checkpoint"
        else:
            continue
        raise RunFolderError(
            f"{path}: was saved from another model, {record.model}: {problem}; use that model, or another folder"
        )


def _restore(path: Path, record: Record, trainer: StageTrainer, entries: Mapping[str, Tensor]) -> None:
    """Set the entries of a process and the state of its optimiser, from as few files as possible."""
    missing, optimizer = set(entries), dict[str, Any]()
    for stage in sorted(record.stages, key=lambda each: -len(entries.keys() & each.entries.keys())):
        if names := missing & stage.entries.keys():
            content = _read(path, record, stage)
            with torch.no_grad():
                for name in names:
                    entries[name].copy_(content["state"][name])
            optimizer |= content["optimizer"]
            missing -= names
    if trainer.optimizer:
        unpack(path, trainer.optimizer, trainer.parameters, optimizer)


def _each_once(tensors: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the results of a function of tensors; names of the same tensor share one result."""
    done: dict[Any, Tensor] = {}
    for each in tensors.values():
        if _key(each) not in done:
            done[_key(each)] = change(each)
    return {name: done[_key(each)] for name, each in tensors.items()}


def _key(tensor: Tensor) -> Any:
    """Return what tensors have in common that are the same values in memory."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _stored(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU that holds no memory beside its values."""
    values = tensor.detach().cpu()
    whole = values.untyped_storage().nbytes() == values.numel() * values.element_size()
    return values if whole else values.clone()
