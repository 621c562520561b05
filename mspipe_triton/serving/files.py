"""Folders of saved predictors: the stored model with its events, ids and card, which need no other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.errors import InputError, RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.models.stored import StoredModel

EVENTS, NODES, CARD = "events.safetensors", "nodes.parquet", "README.md"


def is_saved(folder: Path) -> bool:
    """Return True for a folder of a saved predictor."""
    return (folder / EVENTS).exists()


def write_saved(folder: Path, stored: StoredModel, events: EventStream, ids: LiveIds, split: Split, card: str) -> None:
    """Write a predictor; in a folder that holds one, it is replaced.

    Args:
        events: at the run's own times, with final features. split: of the run's events, which come first.

    Raises:
        RunFolderError: the folder cannot be written, or holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_saved(folder))):
        raise RunFolderError(f"{folder}: holds something else; name a new folder, or one that a predictor was saved to")
    columns = {
        "src": events.src, "dst": events.dst, "t": events.t, "edge_features": events.edge_features,
        "node_features": events.node_features,
    }  # fmt: skip
    tensors = {name: column.contiguous() for name, column in columns.items() if column is not None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EVENTS).unlink(missing_ok=True)
        stored.write(folder)
        with atomic_file(folder / NODES) as temporary:
            ids.save(temporary)
        (folder / CARD).write_text(card, encoding="utf-8")
        with atomic_file(folder / EVENTS) as temporary:  # last: with it the folder is complete
            save_file(tensors, temporary, {"split": json.dumps(split)})
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written: {error.strerror or error}") from error


def read_saved(folder: Path) -> tuple[StoredModel, EventStream, LiveIds, str]:
    """Read a saved predictor: the model, its events, which have the run's split, ids and card.

    Raises:
        RunFolderError: a file is missing or damaged, or of another format.
    """
    stored = StoredModel.read(folder)
    try:
        with safe_open(folder / EVENTS, "pt") as file:
            split = Split(*json.loads(file.metadata()["split"]))
            columns: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids = LiveIds.load(folder / NODES)
        nodes = stored.state["memory"].shape[0] if "memory" in stored.state else len(ids)
        events = EventStream(**columns, num_nodes=max(nodes, len(ids)), name=stored.name, borders=split)
        card = (folder / CARD).read_text(encoding="utf-8")
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, InputError) as error:
        raise RunFolderError(f"{folder}: damaged or incomplete ({type(error).__name__}); save it again") from error
    if stored.events != len(events):
        raise RunFolderError(
            f"{folder}: its model has seen {stored.events} events and it holds {len(events)}; save it again"
        )
    return stored, events, ids, card
