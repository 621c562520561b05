"""The entry of a run: its device, data, folder, placement and settings, all decided before anything is written."""

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
    """A run that is ready to start; `enter` creates it.

    Args:
        config: the user's config, which the run folder stores; a resumed run has its former settings.
        device: "cpu" or "cuda"; line: a message about it for the user, or None.
        stream: the events. folder: the run folder.
        resume: whether to continue the run in the folder.
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
        """Return the entry with tuned settings instead of the config's."""
        return self if tuned is None else replace(self, config=replace(self.config, settings=tuned.settings))

    def resolved(self) -> tuple[RunConfig, str | None]:
        """Return the config with everything decided: device, placement, and settings with a schedule or "resident".

        The second value is a message for the user if `auto` found too little memory for the device, else None.

        Raises:
            ConfigError: placement "device" needs more memory than is free on the GPU.
        """
        return resolve(self.placed, self.stream)


def resolve(config: RunConfig, stream: EventStream) -> tuple[RunConfig, str | None]:
    """Resolve a config as `Entry.resolved` does; its device is "cpu" or "cuda"."""
    config, line = resolve_placement(config, stream)
    return replace(config, settings=run_settings(config)), line


def enter(
    config: RunConfig, stream: EventStream | None = None, out: str | None = None, resume: bool = False,
    trace: bool = False,
) -> Entry:  # fmt: skip
    """Check and load everything that a run needs, without writing anything.

    Args:
        config: the run's settings. stream: the events; None reads them from `config.data`.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: continue the run in `out`.
        trace: refuse a run that has no stages to trace.

    Raises:
        InputError: data, settings or folder are not usable.
    """
    resolved, line = resolve_device(config)  # before reading the data, which may take long
    stream = stream if stream is not None else load_stream(config.data)
    if config.train.task == "node":
        check_labels(stream)
    folder = RunFolder.check(out, config, stream.name, resume)
    if resume:
        config = replace(config, settings=load_config(folder.config).settings)
    entry = Entry(config, resolved.train.device, line, stream, folder, resume)
    if trace and entry.resolved()[0].train.placement == "device":
        raise ConfigError("--trace records stages, and --placement device has none; use --placement host")
    stream.split_for(config.train.batch_size)
    return entry
