"""Command that trains a model, in one process or as ranks that share each batch."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspipe_triton.cli.app import app, print_error
from mspipe_triton.cli.options import (
    Json,
    continued_config,
    resumed_config,
    run_config,
    settings_of,
    takes_run_flags,
)
from mspipe_triton.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mspipe_triton.config import RunConfig
    from mspipe_triton.distributed.ranks import Ranks
    from mspipe_triton.processes.watch import Watch
    from mspipe_triton.training.entry import Entry
    from mspipe_triton.training.run_folder import RunFolder

PER_CORE = 8  # processes, at most: each has its own copy of torch and of the node state
_FOLDER = "folder"  # name of the note with the run folder


@app.command()
@takes_run_flags
def train(
    autotune: Annotated[
        bool,
        typer.Option(
            "--autotune/--no-autotune",
            help="Tune while training if no profile fits, in 5 % of its time; or use the shipped settings.",
        ),
    ] = True,
    out: Annotated[str | None, typer.Option(help="Run folder.", show_default="runs/DATASET-MODEL-N")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, with its settings.")] = False,
    past: Annotated[
        str | None,
        typer.Option(
            "--continue",
            help="Train on, from the model of a finished run, with the events after its own.",
            metavar="RUN",
        ),
    ] = None,
    nproc: Annotated[
        int | None,
        typer.Option(help="Processes on this machine that share each batch; each takes a GPU.", show_default="1"),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Write trace.json, a timeline for Perfetto.")] = False,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Train and evaluate a model, and write a run folder.

    Several processes share each batch and compute what one would: --nproc starts them on this machine, and torchrun
    --nproc-per-node 4 -m mspipe_triton train ... on one or several.
    """
    # Before torch is loaded, which reports broken connections with stack traces.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    request = _Request(flags, autotune, out, resume, past, trace)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        result = _join(request, nproc)
    elif nproc is None or nproc == 1:
        result = _train_alone(request)
    else:
        request.check(nproc)  # before any process starts
        raise typer.Exit(_launch(nproc))
    if result is not None:
        _report(result, as_json)


@dataclass(frozen=True)
class _Request:
    """The arguments of `train`, which all processes of a run have.

    Args:
        restarts: how often torchrun has started the run again.
    """

    flags: dict[str, Any]
    autotune: bool
    out: str | None
    resume: bool
    past: str | None
    trace: bool
    restarts: int = 0

    def check(self, nproc: int) -> None:
        """Refuse wrong arguments.

        Raises:
            InputError: a flag is wrong, or the run to resume or to continue is not usable.
        """
        from mspipe_triton.settings import cores

        if nproc < 1:
            raise ConfigError(f"--nproc must be at least 1, not {nproc}")
        most = PER_CORE * cores()
        if nproc > most:
            raise ConfigError(
                f"--nproc {nproc} is far above the {cores()} cores of this machine; use one process per GPU, or at "
                f"most {most}"
            )
        self.config()

    def config(self) -> RunConfig:
        """Return the settings of the run. Raises as `check`."""
        if self.past is not None:
            return continued_config(self.flags, self.past, self.resume)
        return resumed_config(self.flags, self.out) if self.resume else run_config(self.flags)

    def tunes(self, config: RunConfig) -> bool:
        """Return True if a run of these settings in one process uses a profile, or tunes while it trains."""
        return self.autotune and not (self.resume or config.settings or config.train.deterministic)

    def restarted(self, watch: Watch, ranks: Ranks) -> _Request:
        """Return the request of a process that torchrun may have started again: to go on in the run's folder."""
        from mspipe_triton.training.run_folder import RunFolder

        def earlier() -> tuple[str, bool] | None:
            folder = watch.notes.read(_FOLDER)
            return None if folder is None else (folder, RunFolder(Path(folder)).last.exists())

        start = ranks.from_first(earlier)
        if not watch.restarts or start is None:
            return self
        folder, resume = start
        past = None if resume else self.past
        return replace(self, out=folder, resume=resume, past=past, restarts=watch.restarts)


def _join(request: _Request, nproc: int | None) -> dict[str, Any] | None:
    """Train as one of the processes that torchrun or --nproc has started; rank 0 returns the result."""
    from mspipe_triton.processes.start import run_process

    if os.environ["RANK"] != "0":
        os.dup2(2, 1)  # stdout is that of rank 0

    def part(watch: Watch) -> dict[str, Any] | None:
        if nproc not in (None, watch.processes):
            raise ConfigError(f"--nproc {nproc} is not the number of processes, {watch.processes}; omit it")
        return _train_alone(request, watch) if watch.processes == 1 else _share(request, watch)

    return run_process(part, print_error)


def _train_alone(request: _Request, watch: Watch | None = None) -> dict[str, Any]:
    """Train in this process, which torchrun watches over if there is a watch."""
    from mspipe_triton.cli.screens import TrainingScreen
    from mspipe_triton.distributed.ranks import ALONE
    from mspipe_triton.training.entry import enter
    from mspipe_triton.training.trainer import run

    if watch is not None:
        request = request.restarted(watch, ALONE)
    config = request.config()
    entry, strategy = enter(config, None, request.out, request.resume, request.trace), None
    screen = TrainingScreen(partial(_advise, watch))
    try:
        for note in entry.notes:
            screen.note(note)
        if request.tunes(config):
            from mspipe_triton.tuning import strategy_for

            strategy = strategy_for(entry.placed, entry.stream, note=screen.note)
        return run(_begun(entry, request, watch), screen, request.trace, strategy)
    except KeyboardInterrupt:
        if not entry.folder.last.exists():
            raise TrainingError("interrupted before the first epoch was complete; start again") from None
        raise TrainingError(f"interrupted; {_resumption(entry.folder)}") from None
    finally:
        screen.close()


def _share(request: _Request, watch: Watch) -> dict[str, Any] | None:
    """Train as a rank of several; rank 0 returns the result."""
    from mspipe_triton.cli.screens import TrainingScreen
    from mspipe_triton.distributed.agreement import together
    from mspipe_triton.processes.start import start_group
    from mspipe_triton.training.entry import enter
    from mspipe_triton.training.ranks import group_ranks
    from mspipe_triton.training.trainer import Observer, run

    start_group(request.flags.get("device") or "auto", watch)
    ranks = group_ranks()
    request = request.restarted(watch, ranks)
    if request.resume:  # rank 0 alone looks into the run folder
        config = ranks.from_first(lambda: request.config())
        config = together(ranks, lambda: config if ranks.first else config.with_flags(settings_of(request.flags)))
    else:
        config = together(ranks, lambda: request.config())
    screen = TrainingScreen(partial(_advise, watch)) if ranks.first else None
    observer = screen or Observer()
    try:
        entry = enter(config, None, request.out, request.resume, request.trace, ranks)
        for note in entry.notes:
            observer.note(note)
        if request.tunes(config):
            observer.note(f"{ranks.count} ranks use the shipped settings, since tuning is for one process.")
        result = run(_begun(entry, request, watch), observer, request.trace)
        return result if ranks.first else None
    finally:
        if screen is not None:
            screen.close()


def _begun(entry: Entry, request: _Request, watch: Watch | None) -> Entry:
    """Return the entry of a run that begins now, after a note of its folder for later starts of the same run."""
    if watch is not None and entry.ranks.first:
        watch.notes.write(_FOLDER, str(entry.folder.path))
        if entry.resume:
            _advise(watch, entry.folder)
    return replace(entry, restarts=request.restarts)


def _advise(watch: Watch | None, folder: RunFolder) -> None:
    """Say how to go on with a run of which an epoch is complete, unless torchrun would start it again."""
    if watch is not None and watch.restarts >= int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        watch.advise(_resumption(folder))


def _launch(nproc: int) -> int:
    """Start the processes of a run on this machine, and return their exit status."""
    from mspipe_triton.processes.launch import launch

    return launch([sys.executable, "-m", "mspipe_triton", *sys.argv[1:]], nproc)


def _resumption(folder: RunFolder) -> str:
    """Return how to go on with a run of which an epoch is complete."""
    return f"to continue after the last complete epoch, use `train --out {folder.path} --resume`"


def _report(result: dict[str, Any], as_json: bool) -> None:
    """Print a result."""
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.screens import result_table

    console.print(result_table(result))
    for note in result["notes"]:
        console.print(f"Note: {note}")
    if as_json:
        print(json.dumps(result))
