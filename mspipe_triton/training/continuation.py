"""Continuing a run: the config of a run on later events, and the loading of a run's stream after that of its past."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.continued import continued_stream
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.new_events import Reading, read_new_events
from mspipe_triton.data.origin import shown_path
from mspipe_triton.data.sheets import table_name
from mspipe_triton.data.source import Contents, load_stream, with_absolute_paths
from mspipe_triton.errors import ConfigError, RunFolderError, command
from mspipe_triton.models.stored import SETTINGS, Past, StoredModel
from mspipe_triton.training.checkpoint import check_data
from mspipe_triton.training.run_folder import RunFolder

_EXECUTION = ("schedule", "placement", "device", "threads")  # flags that tuned settings may not fit


class RunData(NamedTuple):
    """The stream of a run, and the run that it continues, or None."""

    stream: EventStream
    past: Past | None


def continuation(run: str | Path, path: str | Path, **settings: Any) -> RunConfig:
    """Return the config of a run that continues another one on later events.

    Training starts from the parameters of the run's best epoch and, in every epoch, from the node state after all its
    events; see `train`.

    Args:
        run: the folder of a finished run.
        path: the file of the new events, which is read as the run's events were.
        settings: settings of training, or for reading the new file, by name, instead of the run's. `split_at` splits
            the new events.

    Raises:
        RunFolderError: there is no run, or its model differs from one of the settings.
        ConfigError: a setting is not allowed.
    """
    names = {each.name for kind in (ModelConfig, TrainConfig, DataConfig) for each in fields(kind)} | {"recipe"}
    unknown = next((name for name in settings if name not in names), None)
    if unknown is not None:
        close = get_close_matches(unknown, names, 1)
        raise ConfigError(f"there is no setting {unknown!r}; " + (f"do you mean {close[0]}?" if close else "omit it"))
    folder = RunFolder.open(run)
    saved = load_config(folder.config)
    folder.refuse_changes(saved, settings, continued=True)
    _check_purpose(settings)  # before they meet the run's other settings, which may not fit them
    if any(settings.get(name) is not None for name in _EXECUTION):
        saved = replace(saved, settings=None)
    config = saved.with_flags(settings)
    ours: dict[str, Any] = {name: settings.get(name) or "" for name in ("edge_features", "node_features", "split_at")}
    data = replace(config.data, path=str(path), history=str(folder.path), **ours)
    return replace(config, data=with_absolute_paths(data))


def check_continuation(config: RunConfig) -> None:
    """Refuse a config that cannot continue the run that its data settings name, if they name one.

    Raises:
        ConfigError: the task, the protocol or the data settings are not for a continued run.
        RunFolderError: there is no such run, it is not finished, or its model is another one.
    """
    run = config.data.history
    if not run:
        return
    name = shown_path(Path(run))
    _check_purpose(vars(config.train))
    if config.data.node_features:
        raise ConfigError("node-features: nodes keep their features when a run is continued; omit --node-features")
    if config.data.path in ("", "synthetic"):
        way = command("train", "--continue", name, "FILE")
        raise ConfigError(f"no new events to continue {name} with; name a file, as in {way}")
    folder = RunFolder.open(run)
    if not (folder.path / SETTINGS).exists():
        raise RunFolderError(
            f"{name}: has no model ({SETTINGS} is missing), since the run did not finish; finish it with "
            + command("train", "--out", name, "--resume")
        )
    folder.refuse_changes(load_config(folder.config), vars(config.model.resolved()), continued=True)


def _check_purpose(settings: Mapping[str, Any]) -> None:
    """Refuse a task or protocol, among settings by name, that is not for a continued run."""
    for name, default in (("task", "link"), ("protocol", "default")):
        value = settings.get(name)
        if value not in (None, default):
            raise ConfigError(f"{name} {value} is not for a run that continues another; use --{name} {default}")


def load_run(folder: RunFolder, data: DataConfig, fix: str) -> RunData:
    """Load the events of the folder's run, after those of its past.

    Args:
        data: the run's settings, or its settings with another path.
        fix: the way to name another path, for messages.

    Raises:
        InputError: the events were passed from Python, or a file is missing or cannot be read.
    """
    folder.refuse_missing(data, fix)
    return load_data(data)


def load_data(data: DataConfig) -> RunData:
    """Load the stream that data settings name, after that of the run that it continues.

    Raises:
        InputError: a file cannot be read, the past run has no model, or its events have changed.
    """
    if not data.history:
        return RunData(load_stream(data), None)
    if not Path(data.history).is_dir():
        raise RunFolderError(
            f"{data.history}: no such folder, and it is the run that this one continues; restore it, or change history "
            "in the config.toml of this run"
        )
    stored = StoredModel.read(Path(data.history))
    stream, nodes = _continued(data)
    return RunData(stream, Past(stored, nodes))


def _continued(data: DataConfig) -> tuple[EventStream, torch.Tensor]:
    """Load a stream with history, and the numbers [N] of the history's nodes in it."""
    base = RunFolder.open(data.history)
    before, fix = load_config(base.config).data, f"as path in {base.config}"
    base.refuse_missing(before, fix)
    history = _continued(before)[0] if before.history else load_stream(before)
    fix = f"restore the file, or name the one that the run was trained on {fix}"
    check_data(base.best, history, Contents.of(history), before.path, fix)
    new = read_new_events(data.path, _reading(base, before, data), data.sort, data.edge_features)
    return continued_stream(history, new, data, table_name(Path(data.path)))


def _reading(base: RunFolder, before: DataConfig, data: DataConfig) -> Reading:
    """Return the way to read events after those of a run: as these, but for columns that the settings name."""
    facts = json.loads(base.data.read_text(encoding="utf-8"))
    other = {role for role, name in data.columns.items() if before.columns.get(role) != name}
    roles = {name: role for name, role in facts["roles"].items() if role not in other}
    return Reading.from_record({**facts, "roles": roles}, data)
