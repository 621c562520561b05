"""Checkpoints: written as a whole or not at all, and read without executing code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.errors import RunFolderError
from mspipe_triton.iteration.session import Session

FORMAT = 2


def save_checkpoint(path: Path, session: Session, metrics: dict[str, Any], data: str) -> None:
    """Write parameters, optimiser, node state and position: temporary file, fsync, rename.

    Args:
        metrics: the epoch's metrics so far; `epoch` and `iterations` are the position, which determines all random
            draws.
        data: the stream's fingerprint.
    """
    content = {
        "format": FORMAT,
        "record": metrics,
        "data": data,
        "model": session.model.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "state": session.state.state_dict(),
    }
    with atomic_file(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, session: Session, data: str) -> dict[str, Any]:
    """Restore a checkpoint into a session of the same config and stream, and return its epoch's metrics.

    Raises:
        RunFolderError: the file is missing, truncated or of another format, or the data have changed since.
    """
    if not path.exists():
        raise RunFolderError(f"{path}: no such checkpoint; train first, or name another run folder")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = content["format"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunFolderError(f"{path}: damaged or truncated ({type(error).__name__}); train again") from error
    if version != FORMAT:
        raise RunFolderError(f"{path}: format {version} is not {FORMAT}, which this version reads; train again")
    if content["data"] != data:
        raise RunFolderError(f"{path}: was trained on other data than {session.stream.name} now holds; train again")
    session.model.load_state_dict(content["model"])
    restore_optimizer(session.optimizer, content["optimizer"])
    session.state.load_state_dict(content["state"])
    metrics: dict[str, Any] = content["record"]
    return metrics


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state into an optimiser's existing tensors, which a captured CUDA graph may use.

    The optimiser keeps its own options, such as `fused` and `capturable`.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if all(each in optimizer.state for each in parameters):
        for number, each in enumerate(parameters):
            for name, value in optimizer.state[each].items():
                value.copy_(saved["state"][number][name])
        return
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, values in zip(optimizer.param_groups, options, strict=True):
        group.update(values)


class atomic_file:
    """Context manager that yields a temporary path; on success that file replaces `path`, on failure it is removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with open(self.temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)
