"""Runs whose training has not finished, though their best epoch so far can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mspipe_triton.config_file import load_config
from mspipe_triton.errors import command
from mspipe_triton.models.stored import SETTINGS
from mspipe_triton.training.run_folder import RunFolder


def unfinished_note(folder: RunFolder) -> str | None:
    """Say that the training of a run has not finished, and of which epoch its model is; None if it has.

    A folder with a model alone, without results, counts as finished.
    """
    epochs = [each for each in _lines(folder.metrics) if "event" not in each and "ap" in each.get("val", {})]
    finished = _finished_epochs(folder)
    if not epochs or (finished is None and (folder.path / SETTINGS).exists()):
        return None
    if finished is not None and len(epochs) <= finished:
        return None
    planned, best = load_config(folder.config).train.epochs, max(epochs, key=lambda epoch: epoch["val"]["ap"])
    state = f"{len(epochs)} of {planned} epoch{'' if planned == 1 else 's'}"
    way = f" {command('train', '--out', folder.path, '--resume')} finishes it." if folder.last.exists() else ""
    return f"training of {folder.path} has not finished ({state}); its model is that of epoch {best['epoch']}.{way}"


def _finished_epochs(folder: RunFolder) -> int | None:
    """Return the number of epochs of the run's result, or None if there is none."""
    try:
        return int(json.loads(folder.result.read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, without incomplete ones, and leave the file as it is."""
    entries = list[dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
