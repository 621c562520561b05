"""Stored models: parameters, node state and settings in `model.safetensors` and `model.json`, without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import mspipe_triton
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.new_events import Reading
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import ConfigError, RunFolderError, command
from mspipe_triton.files import atomic_file
from mspipe_triton.models.model import Facts, TemporalModel
from mspipe_triton.nodes.state import NodeState

FORMAT = 1
TENSORS, SETTINGS = "model.safetensors", "model.json"
_RECORD = ("name", "kinds", "roles", "time", "time_scale", "dim_edge", "dim_node", "features", "node_features")


@dataclass(frozen=True)
class StoredModel:
    """A trained model with the state of N nodes after a number of events.

    Args:
        config: of the run; its data settings name no files.
        facts, time: what the model was built for, and the scale of its times. steps: True if all scaled times of the
            run's events are integers.
        stream: the entries of `data.json` (see `source.record`) that describe the run's events and their reading.
        parameters: tensors by name. state: tables [N, …] by name, at scaled times.
        events: the number of events that the state contains.
    """

    config: RunConfig
    facts: Facts
    time: TimeScale
    steps: bool
    stream: Mapping[str, Any]
    parameters: Mapping[str, torch.Tensor]
    state: Mapping[str, torch.Tensor]
    events: int

    @cached_property
    def reading(self) -> Reading:
        """The way in which the run's events were read, and new ones are."""
        return Reading.from_record(self.stream, self.config.data)

    @property
    def name(self) -> str:
        """Name of the stream."""
        return str(self.stream["name"])

    @staticmethod
    def of(
        config: RunConfig, model: TemporalModel, state: NodeState[Any], time: TimeScale, stream: EventStream,
        record: Mapping[str, Any],
    ) -> StoredModel:  # fmt: skip
        """Describe a model after all events of a stream, which has the scaled times; nothing is copied.

        Args:
            record: the content of the run's `data.json`.
        """
        data = replace(config.data, path="", edge_features="", node_features="", history="")
        return StoredModel(
            replace(config, data=data), model.facts, time, is_whole(stream.t), {name: record[name] for name in _RECORD},
            model.state_dict(), state.tables, len(stream),
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write both files, each as a whole or not at all, the settings last.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        try:
            self.write_files(folder)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{folder}: cannot be written: {fault_of(error)}") from error

    def write_files(self, folder: Path) -> None:
        """Write as `write` does, but with the errors of the system."""
        parts = {"model": self.parameters, "state": self.state}
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, group in parts.items()
            for name, tensor in group.items()
        }
        settings = {
            "format": FORMAT,
            "mspipe_triton": mspipe_triton.__version__,
            "model": asdict(self.config.model.resolved()),
            "train": asdict(self.config.train),
            "data": asdict(self.config.data),
            "facts": asdict(self.facts),
            "time_scale": {**asdict(self.time), "steps": self.steps},
            "stream": self.stream,
            "events": self.events,
        }
        forget(folder)
        with atomic_file(folder / TENSORS) as temporary:
            save_file(tensors, temporary, {"format": "pt"})
        with atomic_file(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def restore(self, model: TemporalModel) -> None:
        """Copy the parameters into a model.

        Raises:
            RunFolderError: it has others, since it is of other settings.
        """
        self.check(model)
        model.load_state_dict(self.parameters)

    def check(self, model: TemporalModel) -> None:
        """Refuse a model that has other parameters, in number or shape; raises as `restore`."""
        _check_same("parameters", self.parameters, model.state_dict())

    def restore_state(self, state: NodeState[Any]) -> None:
        """Copy the node state into that of a session.

        Raises:
            RunFolderError: it has other tables, since it is of other settings or events.
        """
        _check_same("node state", self.state, state.tables)
        state.load_state_dict(dict(self.state))

    @staticmethod
    def read(folder: Path) -> StoredModel:
        """Read what `write` wrote.

        Raises:
            RunFolderError: a file is missing or damaged, or of another format.
        """
        for name in (SETTINGS, TENSORS):
            if not (folder / name).exists():
                way = command("train", "--out", folder, "--resume")
                fix = (
                    f"finish its training with {way}"
                    if (folder / "last.pt").exists()
                    else "name a folder that `train` wrote"
                )
                raise RunFolderError(f"{folder}: no model there ({name} is missing); {fix}")
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            form, version = settings["format"], settings["mspipe_triton"]
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise _damaged(folder / SETTINGS, error) from error
        if form != FORMAT:
            raise RunFolderError(
                f"{folder}: format {form} of version {version} is not {FORMAT}, which version "
                f"{mspipe_triton.__version__} reads; use that version, or train again"
            )
        try:
            parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "state": {}}
            for name, tensor in load_file(folder / TENSORS).items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            train, data = TrainConfig(**settings["train"]), DataConfig(**settings["data"])
            config = RunConfig(data, ModelConfig(**settings["model"]), train)
            Reading.from_record(settings["stream"], data)  # reads all that it needs
            scale = settings["time_scale"]
            steps = scale.pop("steps")
            return StoredModel(
                config, Facts(**settings["facts"]), TimeScale(**scale), steps, settings["stream"],
                parts["model"], parts["state"], settings["events"],
            )  # fmt: skip
        except ConfigError as error:
            raise RunFolderError(f"{folder / SETTINGS}: {error}") from error
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise _damaged(folder, error) from error


@dataclass(frozen=True, eq=False)
class Past:
    """The run that another run continues.

    Args:
        stored: its model after all its events.
        nodes: [N] the numbers that the nodes of its state have in the other run.
    """

    stored: StoredModel
    nodes: torch.Tensor

    @property
    def base(self) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The state that every epoch starts from, as `NodeState` takes it."""
        return self.nodes, self.stored.state


def forget(folder: Path) -> None:
    """Remove the model of a folder, if there is one."""
    for name in (SETTINGS, TENSORS):
        (folder / name).unlink(missing_ok=True)


def digest(folder: Path) -> str:
    """Return a digest of a folder's tensors, to detect that they have changed."""
    with open(folder / TENSORS, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def is_whole(t: torch.Tensor) -> bool:
    """Return True if all times [E] are integers, whatever their dtype."""
    return not t.is_floating_point() or bool((t == t.round()).all())


def fault_of(error: Exception) -> str:
    """Return the fault that an error of the system names."""
    return str(getattr(error, "strerror", None) or error)


def _check_same(part: str, stored: Mapping[str, torch.Tensor], tables: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors of other names or shapes.

    Raises:
        RunFolderError: with the first that differs.
    """
    for name in sorted(stored.keys() | tables.keys()):
        there, here = (list(each[name].shape) if name in each else "missing" for each in (stored, tables))
        if there != here:
            raise RunFolderError(
                f"{TENSORS}: {name} of the {part} is {there}, not {here} as {SETTINGS} and the events say; train again"
            )


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path}: damaged or truncated ({type(error).__name__}); train again")
