"""Checkpoints: written as a whole or not at all, and read without executing code."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.choices import either
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.source import Contents
from mspipe_triton.data.split import split_setting
from mspipe_triton.errors import RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session

FORMAT = 4
_FITTED = {"edge features", "node features"}  # parts of the data that change with the split, if they are standardised


def save_checkpoint(path: Path, session: Session, metrics: dict[str, Any], data: Contents) -> None:
    """Write parameters, optimiser, node state and position: temporary file, fsync, rename.

    Args:
        metrics: the epoch's metrics so far; `epoch` and `iterations` are the position, which determines all random
            draws.
        data: the contents of the stream.
    """
    content = {
        "format": FORMAT,
        "record": metrics,
        "data": asdict(data),
        "time": asdict(session.time),
        "model": session.model.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "state": session.state.state_dict(),
    }
    with atomic_file(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, session: Session) -> dict[str, Any]:
    """Restore a checkpoint into a session of the same config and stream, and return its epoch's metrics.

    `check_data` tells whether the stream is the same. Rank 0 reads the file for all ranks, which may be of another
    number than those that wrote it.

    Raises:
        RunFolderError: the file is missing, truncated or of another format.
    """
    content = session.ranks.content_from_first(lambda: _read(path))
    session.model.load_state_dict(content["model"])
    restore_optimizer(session.optimizer, content["optimizer"])
    session.state.load_state_dict(content["state"])
    metrics: dict[str, Any] = content["record"]
    return metrics


def check_data(
    path: Path, stream: EventStream, data: Contents, place: str, fix: str, labels: bool = False, split: bool = False
) -> Split:  # fmt: skip
    """Refuse a stream other than the one that a checkpoint was trained on.

    Args:
        path: of the checkpoint, or of the run's `data.json`.
        data: the contents of `stream`. place: the file that holds it now, or other words for it.
        fix: the last clause of the message.
        labels: the run learns labels, so these must be the same too.
        split: the events must be split as the run's were.

    Returns:
        The split of the run's events.

    Raises:
        RunFolderError: the data or the split have changed, or the file is missing, truncated or of another format.
    """
    before = _record(path) if path.suffix == ".json" else Contents(**_read(path, mmap=True)["data"])
    changes = before.changes(data, labels)
    if before.split != data.split and set(changes) <= _FITTED and (changes or split):
        raise RunFolderError(
            f"{path.parent}: was trained on a split of {_parts(before)}, and now it is one of {_parts(data)}; use "
            f"{split_setting(stream, before.split, borders=stream.source is None)}"
        )
    if changes:
        now = f"as many, but with other {either(changes, 'and')}" if str(before) == str(data) else str(data)
        raise RunFolderError(f"{path.parent}: was trained on {before}, and {place} now holds {now}; {fix}")
    return before.split


def _parts(contents: Contents) -> str:
    """Return the sizes of a split's parts, as in "840, 180 and 180 events"."""
    ends = (contents.start, *contents.split, contents.events)
    train, val, test = (stop - start for start, stop in pairwise(ends))
    return f"{train:,}, {val:,} and {test:,} events"


def _record(path: Path) -> Contents:
    """Read the contents of a run's stream from its `data.json`."""
    try:
        return Contents.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{path}: cannot be read ({type(error).__name__}); train again") from error


def _read(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this format; with `mmap`, its tensors stay in the file until they are used."""
    if not path.exists():
        raise RunFolderError(f"{path}: no such checkpoint; train first, or name another run folder")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        version = content["format"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunFolderError(f"{path}: damaged or truncated ({type(error).__name__}); train again") from error
    if version != FORMAT:
        raise RunFolderError(f"{path}: format {version} is not {FORMAT}, which this version reads; train again")
    return content


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
