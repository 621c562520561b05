"""Folders of saved predictors: the stored model with its events, ids and card, which need no other file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.errors import InputError, RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.models.stored import SETTINGS, TENSORS, StoredModel, fault_of

EVENTS, NODES, CARD = "events.safetensors", "nodes.parquet", "README.md"
_TEMPORARY = ".saving-"


def is_saved(folder: Path) -> bool:
    """Return True for a folder of a saved predictor."""
    return (folder / EVENTS).exists()


class Saved(NamedTuple):
    """The content of a saved predictor.

    Args:
        stored: the model. events: at the run's own times, with final features. ids: of the nodes.
        split: of the run's events, which come first. card: text of the model card.
    """

    stored: StoredModel
    events: EventStream
    ids: LiveIds
    split: Split
    card: str

    def write(self, folder: Path) -> None:
        """Write a predictor; in a folder that holds one, it is replaced.

        Raises:
            RunFolderError: the folder cannot be written, or holds something else.
        """
        other = folder.exists() and (not folder.is_dir() or any(map(_is_other, folder.iterdir())))
        if other and not is_saved(folder):
            raise RunFolderError(
                f"{folder}: holds something else; name a new folder, or one that a predictor was saved to"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=_TEMPORARY) as temporary:  # a former one stays until the end
                parts = Path(temporary)
                self._write_files(parts)
                (folder / EVENTS).unlink(missing_ok=True)
                for name in (SETTINGS, TENSORS, NODES, CARD, EVENTS):  # with the last one the folder is complete
                    with atomic_file(folder / name) as target:
                        os.replace(parts / name, target)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{folder}: cannot be written: {fault_of(error)}") from error

    def _write_files(self, folder: Path) -> None:
        events = self.events
        columns = {
            "src": events.src, "dst": events.dst, "t": events.t, "edge_features": events.edge_features,
            "node_features": events.node_features,
        }  # fmt: skip
        tensors = {name: column.contiguous() for name, column in columns.items() if column is not None}
        self.stored.write_files(folder)
        self.ids.save(folder / NODES)
        (folder / CARD).write_text(self.card, encoding="utf-8")
        save_file(tensors, folder / EVENTS, {"split": json.dumps(self.split)})


def read_saved(folder: Path) -> Saved:
    """Read a saved predictor.

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
        events = EventStream(**columns, num_nodes=max(nodes, len(ids)), name=stored.name)
        card = (folder / CARD).read_text(encoding="utf-8")
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError, InputError) as error:
        raise RunFolderError(f"{folder}: damaged or incomplete ({type(error).__name__}); save it again") from error
    if stored.events != len(events):
        raise RunFolderError(
            f"{folder}: its model has seen {stored.events} events and it holds {len(events)}; save it again"
        )
    return Saved(stored, events, ids, split, card)


def _is_other(path: Path) -> bool:
    """Return True for what is not left of a save that was interrupted."""
    return not path.name.startswith(_TEMPORARY)
