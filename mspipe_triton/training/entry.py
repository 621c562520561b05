"""The entry of a run: its device, data, folder, placement and settings, settled before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mspipe_triton.config import RunConfig, load_config
from mspipe_triton.data.events import EventStream, check_labels
from mspipe_triton.data.source import load_stream
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.settings import Tuned, run_settings
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.training.run_folder import RunFolder


@dataclass(frozen=True)
class Entry:
    """A run that may begin: `enter` makes one.

    Args:
        config: as it was asked for, which the run folder keeps; where a run goes on, with its settings.
        device: "cpu" or "cuda"; line: about it, for the user, where there is something to tell.
        stream: the events. folder: of the run.
        resume: whether the run in the folder goes on.
    """

    config: RunConfig
    device: str
    line: str | None
    stream: EventStream
    folder: RunFolder
    resume: bool

    @property
    def placed(self) -> RunConfig:
        """The config on its device."""
        return self.config.with_flags({"device": self.device})

    def tuned(self, tuned: Tuned | None) -> Entry:
        """The same with what tuning found in the place of the run's own settings."""
        return self if tuned is None else replace(self, config=replace(self.config, settings=tuned.settings))

    def resolved(self) -> tuple[RunConfig, str | None]:
        """The config with all of it decided: device, placement, and settings with a schedule, or "resident".

        Beside it is a line for the user where everything was to lie on the device and lacked the room.

        Raises:
            ConfigError: placement "device" does not fit the memory that is free on the GPU.
        """
        return resolve(self.placed, self.stream)


def resolve(config: RunConfig, stream: EventStream) -> tuple[RunConfig, str | None]:
    """See `Entry.resolved`; `config` has "cpu" or "cuda" as device."""
    config, line = resolve_placement(config, stream)
    return replace(config, settings=run_settings(config)), line


def enter(
    config: RunConfig, stream: EventStream | None = None, out: str | None = None, resume: bool = False,
    trace: bool = False,
) -> Entry:  # fmt: skip
    """Settle what a run works with; nothing is written.

    Args:
        config: the run's settings. stream: the events, where they are not read from `config.data`.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: go on with the run in `out`.
        trace: refuse a run that has no stages to trace.

    Raises:
        InputError: data, settings or folder are not usable.
    """
    resolved, line = resolve_device(config)  # before the data are read
    stream = stream if stream is not None else load_stream(config.data)
    if config.train.task == "node":
        check_labels(stream)
    folder = RunFolder.check(out, config, stream.name, resume)
    if resume:
        config = replace(config, settings=load_config(folder.config).settings)
    entry = Entry(config, resolved.train.device, line, stream, folder, resume)
    if trace and entry.resolved()[0].train.placement == "device":
        raise ConfigError("--trace is of stages, and --placement device has none; take --placement host")
    stream.split_for(config.train.batch_size)
    return entry
