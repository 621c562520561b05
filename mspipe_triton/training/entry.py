"""The entry of a run: its device, data, folder, placement and settings, all decided before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mspipe_triton.config import DataConfig, RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.labels import check_labels
from mspipe_triton.data.negatives import check_destinations
from mspipe_triton.data.source import Contents, data_of, with_absolute_paths
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.models.stored import Past
from mspipe_triton.settings import Tuned, run_settings
from mspipe_triton.training.checkpoint import check_data
from mspipe_triton.training.continuation import RunData, check_continuation, load_data, load_run
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.training.run_folder import RunFolder


@dataclass(frozen=True)
class Entry:
    """A run that is ready to start; `enter` creates it.

    Args:
        config: the user's config, which the run folder stores; a resumed run has its former settings.
        device: "cpu" or "cuda"; line: a message about it for the user, or None.
        stream: the events; contents: in short. past: the run that this one continues, or None. folder: the run folder.
        resume: whether to continue the run in the folder.
    """

    config: RunConfig
    device: str
    line: str | None
    stream: EventStream
    past: Past | None
    contents: Contents
    folder: RunFolder
    resume: bool

    @property
    def placed(self) -> RunConfig:
        """The config on its device."""
        return self.config.with_flags({"device": self.device})

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user: about the device, and about the data."""
        source = self.stream.source
        return (*([] if self.line is None else [self.line]), *(() if source is None else source.notes))

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
        config: the run's settings.
        stream: the events; None reads them from `config.data`. Otherwise the config's data become those that read it.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: continue the run in `out`.
        trace: refuse a run that has no stages to trace.

    Raises:
        InputError: data, settings or folder are not usable.
    """
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"config must be a RunConfig, not {type(config).__name__}; as in RunConfig(model=ModelConfig())"
        )
    if stream is not None and not isinstance(stream, EventStream):
        raise ConfigError(
            f"stream must be an EventStream, not {type(stream).__name__}; make one with EventStream.of or read_stream"
        )
    resolved, line = resolve_device(config)  # before reading the data, which may take long
    check_continuation(config)
    data, (stream, past) = _loaded(config, stream, out, resume)
    if config.train.task == "node":
        check_labels(stream)
    folder, contents = RunFolder.check(out, config, stream.name, resume), Contents.of(stream)
    if resume:
        fix = f"restore the file, or name the one that the run was trained on, as in `train FILE --out {out} --resume`"
        place = data.path or f"stream {stream.name}"
        learns_labels = config.train.task == "node"
        check_data(folder.last, stream, contents, place, fix, learns_labels, split=True)
        folder.check_past(data.history)
        saved = load_config(folder.config)
        config, data = replace(config, settings=saved.settings), data if data.path else saved.data
    entry = Entry(replace(config, data=data), resolved.train.device, line, stream, past, contents, folder, resume)
    if trace and entry.resolved()[0].train.placement == "device":
        raise ConfigError("--trace records stages, and --placement device has none; use --placement host")
    stream.split_for(config.train.batch_size)
    check_destinations(stream, config.train.train_negatives)
    return entry


def _loaded(config: RunConfig, stream: EventStream | None, out: str | None, resume: bool) -> tuple[DataConfig, RunData]:
    """Return the settings that read a run's events, and these; see `enter`."""
    if stream is not None:
        if config.data.history:
            raise ConfigError(
                f"stream {stream.name}: the events after those of {config.data.history} are read from a file; write "
                "them to one, and pass its path"
            )
        if config.data.split_at and stream.borders is None and not resume:
            raise ConfigError(
                f"split-at {config.data.split_at!r} is for events that are read; pass split_at to EventStream.of or "
                "read_stream"
            )
        return data_of(stream, config.data), RunData(stream, None)
    data = with_absolute_paths(config.data)
    if resume:
        return data, load_run(RunFolder.to_resume(out), data, f"as in `train FILE --out {out} --resume`")
    return data, load_data(data)
