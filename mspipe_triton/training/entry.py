"""The entry of a run: its device, data, folder, placement and settings, all decided before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mspipe_triton.config import DataConfig, RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.labels import check_labels
from mspipe_triton.data.negatives import check_destinations
from mspipe_triton.data.source import Contents, data_of, with_absolute_paths
from mspipe_triton.distributed.agreement import agree, together
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.errors import ConfigError, command
from mspipe_triton.execution import RunSettings
from mspipe_triton.machine import cores
from mspipe_triton.models.stored import Past
from mspipe_triton.settings import run_settings
from mspipe_triton.training.checkpoint import check_data
from mspipe_triton.training.continuation import RunData, check_continuation, load_data, load_run
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.training.logs import check_log
from mspipe_triton.training.ranks import check_contents, check_settings, device_of, on_device
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.stopping import check_warmup, idle_settings
from mspipe_triton.training.threads import check_threads, thread_notes


@dataclass(frozen=True)
class Entry:
    """A run that is ready to start; `enter` creates it, the same in all ranks.

    Args:
        config: the user's config, which the run folder stores; a resumed run has its former settings.
        device: "cpu" or "cuda"; line: a message about it for the user, or None.
        stream: the events; contents: in short. past: the run that this one continues, or None. folder: the run folder,
            which rank 0 alone reads and writes.
        resume: whether to continue the run in the folder.
        ranks: those that share the run.
        restarts: how often torchrun has started the run again.
    """

    config: RunConfig
    device: str
    line: str | None
    stream: EventStream
    past: Past | None
    contents: Contents
    folder: RunFolder
    resume: bool
    ranks: Ranks = ALONE
    restarts: int = 0

    @property
    def placed(self) -> RunConfig:
        """The config on its device."""
        return self.config.with_flags({"device": self.device})

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user: about the device, the number of threads, the data, and settings without effect."""
        source, train = self.stream.source, self.config.train
        about_data = () if source is None else source.notes
        return (*([] if self.line is None else [self.line]), *thread_notes(train), *about_data, *idle_settings(train))

    def under(self, settings: RunSettings | None) -> Entry:
        """Return the entry with these settings instead of the config's; None keeps those."""
        return self if settings is None else replace(self, config=replace(self.config, settings=settings))

    def resolved(self) -> tuple[RunConfig, str | None]:
        """Return the config with everything decided: device, placement, and settings with a schedule or "resident".

        The second value is a message for the user if `auto` found too little memory for the device, else None. Rank 0
        decides for all ranks, but for the number of threads, which depends on the machine: settings that were tuned in
        one process may have more than a rank's share of the cores.

        Raises:
            ConfigError: placement "device" needs more memory than is free on the GPU.
        """
        config, line = together(self.ranks, lambda: resolve(self.placed, self.stream, self.ranks.count))
        agree(self.ranks, {"placement": config.train.placement}, "use --placement host")
        assert config.settings is not None
        if self.ranks.alone:
            return config, line
        threads, settings = config.settings.threads, self.ranks.from_first(lambda: config.settings)
        assert settings is not None
        if self.config.settings is not None and not config.train.threads:
            threads = min(threads, cores())
        settings = replace(settings, threads=threads, host_threads=min(threads, settings.host_threads))
        return replace(config, settings=settings), line


def resolve(config: RunConfig, stream: EventStream, ranks: int = 1) -> tuple[RunConfig, str | None]:
    """Resolve a config for a number of ranks as `Entry.resolved` does; its device is "cpu" or "cuda"."""
    config, line = resolve_placement(config, stream, ranks)
    return replace(config, settings=run_settings(config)), line


def enter(
    config: RunConfig, stream: EventStream | None = None, out: str | None = None, resume: bool = False,
    trace: bool = False, ranks: Ranks = ALONE,
) -> Entry:  # fmt: skip
    """Check and load everything that a run needs, without writing anything.

    Args:
        config: the run's settings.
        stream: the events; None reads them from `config.data`. Otherwise the config's data become those that read it.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: continue the run in `out`.
        trace: refuse a run that has no stages to trace.
        ranks: those that share the run; all call this, and each reads the events.

    Raises:
        InputError: data, settings or folder are not usable, or a rank differs from rank 0 in settings, events, or the
            version of this package or of torch.
    """
    together(ranks, lambda: _check_types(config, stream))
    together(ranks, lambda: check_log(config.train.log))
    if not resume:
        together(ranks, lambda: check_threads(config.train))
    check_settings(ranks, config, resume, trace)
    resolved, line = together(ranks, lambda: device_of(ranks, config))  # before reading the data, which may take long
    ranks = on_device(ranks, resolved.train.device)
    together(ranks, lambda: check_continuation(config))
    data, (stream, past) = together(ranks, lambda: _loaded(config, stream, out, resume, ranks.first))
    contents, place = Contents.of(stream), data.path or f"stream {stream.name}"
    check_contents(ranks, contents, place, data.history, labels=config.train.task == "node")
    if config.train.task == "node":
        check_labels(stream)  # once the labels of all ranks are the same
    folder = RunFolder(ranks.from_first(lambda: RunFolder.check(out, config, stream.name, resume).path))
    if resume:
        saved = ranks.from_first(lambda: _resumed(folder, config, data, stream, contents, place))
        config, data = replace(config, settings=saved.settings), data if data.path else saved.data
    config = replace(config, data=data)
    entry = Entry(config, resolved.train.device, line, stream, past, contents, folder, resume, ranks)
    if trace and entry.resolved()[0].train.placement == "device":
        raise ConfigError("--trace records stages, and --placement device has none; use --placement host")
    split, size = stream.split_for(config.train.batch_size), config.train.batch_size
    if not resume:
        check_warmup(config.train, -(-(split.train_end - (0 if past is None else past.stored.events)) // size))
    check_destinations(stream, config.train.train_negatives)
    return entry


def _check_types(config: RunConfig, stream: EventStream | None) -> None:
    """Refuse values of other types."""
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"config must be a RunConfig, not {type(config).__name__}; as in RunConfig(model=ModelConfig())"
        )
    if stream is not None and not isinstance(stream, EventStream):
        raise ConfigError(
            f"stream must be an EventStream, not {type(stream).__name__}; make one with EventStream.of or read_stream"
        )


def _resumed(
    folder: RunFolder, config: RunConfig, data: DataConfig, stream: EventStream, contents: Contents, place: str
) -> RunConfig:
    """Return the saved config of a run to resume, whose events are those of the stream."""
    way = command("train", "FILE", "--out", folder.path, "--resume")
    fix = f"restore the file, or name the one that the run was trained on, as in {way}"
    check_data(folder.last, stream, contents, place, fix, config.train.task == "node", split=True)
    folder.check_past(data.history)
    return load_config(folder.config)


def _loaded(
    config: RunConfig, stream: EventStream | None, out: str | None, resume: bool, first: bool
) -> tuple[DataConfig, RunData]:
    """Return the settings that read a run's events, and these; see `enter`. Rank 0 alone looks into the run folder."""
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
        folder = RunFolder.to_resume(out) if first else RunFolder(Path(str(out)))
        return data, load_run(folder, data, f"as in {command('train', 'FILE', '--out', out, '--resume')}")
    return data, load_data(data)
