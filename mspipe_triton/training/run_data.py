"""Data of a finished run: its events, read again as the run read them, and proven to be the same."""

from __future__ import annotations

from dataclasses import replace

from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.labels import check_labels
from mspipe_triton.data.source import Contents
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.training.checkpoint import check_data
from mspipe_triton.training.continuation import RunData, load_run
from mspipe_triton.training.run_folder import RunFolder


def run_config(folder: RunFolder) -> RunConfig:
    """Return the config of a run, with its device resolved.

    Raises:
        ConfigError: a setting is not allowed, or needs a GPU, and none is usable.
    """
    try:
        return resolve_device(load_config(folder.config))[0]
    except ConfigError as error:
        raise ConfigError(f'{folder.config}: {error} (in that file: device = "cpu")') from None


def run_stream(
    folder: RunFolder, config: RunConfig, data: str | None = None, stream: EventStream | None = None, flag: bool = True
) -> RunData:
    """Return the events that a run was trained on, split as they were, and the run that it continues.

    Args:
        data: the file that holds them, if it is not where it was; it is read as the run's was.
        stream: the events themselves, instead of a file.
        flag: messages name the flag --data, otherwise the argument.

    Raises:
        InputError: data cannot be read, or are not those that the run was trained on.
    """
    if data is not None and stream is not None:
        raise ConfigError("data and stream both hold the events; pass one of them")
    if stream is not None and not isinstance(stream, EventStream):
        raise ConfigError(f"stream must be an EventStream, not {type(stream).__name__}; make one with EventStream.of")
    if stream is not None and config.data.history:
        raise ConfigError(f"stream {stream.name}: {folder.path} continues another run; name its own events with data")
    past, way = None, "with --data FILE" if flag else "as data=FILE"
    if stream is None:
        place = config.data.path if data is None else data
        try:
            stream, past = load_run(folder, replace(config.data, path=place), way)
        except ConfigError:  # of other data, which the run's split may not fit; their difference is named below
            stream, past = load_run(folder, replace(config.data, path=place, split_at=""), way)
        name = "--data" if flag else "data="
        fix = f"restore the file, or name the one that the run was trained on with {name}"
    else:
        place, fix = f"stream {stream.name}", "pass the stream that the run was trained on"
    learns_labels = config.train.task == "node"
    if learns_labels and stream.labels is None:
        check_labels(stream)  # tells why there are none
    source = folder.best if folder.best.exists() else folder.data  # a shared model may have no checkpoint
    borders = check_data(source, stream, Contents.of(stream), place, fix, learns_labels)
    return RunData(replace(stream, borders=borders), past)
