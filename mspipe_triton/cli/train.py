"""Command that trains a model, in one process or as ranks that share each batch."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspipe_triton.cli.app import app, print_error
from mspipe_triton.cli.help import MOST_USED
from mspipe_triton.cli.options import EXAMPLES, Json, settings_of, takes_run_flags
from mspipe_triton.cli.request import FOLDER_NOTE, Request
from mspipe_triton.cli.seeds import check_seeds, train_all
from mspipe_triton.cli.transient import loading, transient
from mspipe_triton.errors import ConfigError, TrainingError, command

if TYPE_CHECKING:
    from mspipe_triton.processes.watch import Watch
    from mspipe_triton.training.entry import Entry
    from mspipe_triton.training.run_folder import RunFolder


@app.command(epilog=EXAMPLES.format("train"))
@takes_run_flags
def train(
    autotune: Annotated[
        bool,
        typer.Option(
            "--autotune/--no-autotune",
            help="Tune while training if no profile fits, in 5 % of its time; or use the shipped settings.",
            rich_help_panel="Tuning",
        ),
    ] = True,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder for the trained model and its results.",
            show_default="runs/DATASET-MODEL-N",
            metavar="RUN",
            rich_help_panel=MOST_USED,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the interrupted run in --out, with its settings.", rich_help_panel=MOST_USED
        ),
    ] = False,
    past: Annotated[
        str | None,
        typer.Option(
            "--continue",
            help="Train on, from the model of a finished run, with the events after its own.",
            metavar="RUN",
            rich_help_panel="Training",
        ),
    ] = None,
    nproc: Annotated[
        int | None,
        typer.Option(
            help="Processes on this machine that share each batch; each takes a GPU.",
            show_default="1",
            rich_help_panel="Machine",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train with this many seeds, one run after the other, and print means.",
            show_default="1",
            rich_help_panel="Training",
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write trace.json, a timeline for Perfetto.", rich_help_panel="Output")
    ] = False,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Train and evaluate a model, and write a run folder.

    Several processes share each batch and compute what one would: --nproc starts them on this machine, and torchrun
    --nproc-per-node 4 -m mspipe_triton train ... on one or several.
    """
    # Before torch is loaded, which reports broken connections with stack traces.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    seeds = None if seeds == 1 else seeds  # a run by itself
    request = Request(flags, autotune, out, resume, past, trace, seeds)
    if seeds is not None:
        check_seeds(seeds, nproc)
        config = request.config()  # refuses wrong flags before torch is loaded
        _load_torch()
        train_all(config, seeds, out, resume, trace, as_json, partial(_carry_out, request))
        return
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        result = _join(request, nproc)
    elif nproc is None or nproc == 1:
        result = _train_alone(request)
    else:
        request.check(nproc)  # before any process starts
        raise typer.Exit(_launch(nproc))
    if result is not None:
        _report(result, as_json)


def _join(request: Request, nproc: int | None) -> dict[str, Any] | None:
    """Train as one of the processes that torchrun or --nproc has started; rank 0 returns the result."""
    _load_torch()
    from mspipe_triton.processes.start import run_process

    if os.environ["RANK"] != "0":
        os.dup2(2, 1)  # stdout is that of rank 0

    def part(watch: Watch) -> dict[str, Any] | None:
        if nproc not in (None, watch.processes):
            raise ConfigError(f"--nproc {nproc} is not the number of processes, {watch.processes}; omit it")
        return _train_alone(request, watch) if watch.processes == 1 else _share(request, watch)

    return run_process(part, print_error)


def _train_alone(request: Request, watch: Watch | None = None) -> dict[str, Any]:
    """Train in this process, which torchrun watches over if there is a watch."""
    if watch is not None:
        from mspipe_triton.distributed.ranks import ALONE

        request = request.restarted(watch, ALONE)
    config = request.config()  # refuses wrong flags before torch is loaded
    _load_torch()
    from mspipe_triton.cli.console import console
    from mspipe_triton.training.entry import enter

    with transient(f"Reading {Path(config.data.path).name} ..."):
        entry = enter(config, None, request.out, request.resume, request.trace)
    for note in entry.notes:
        console.print(note)
    try:
        return _carry_out(request, entry, watch)
    except KeyboardInterrupt:
        if not entry.folder.last.exists():
            raise TrainingError("interrupted before the first epoch was complete; start again") from None
        raise TrainingError(f"interrupted; {_resumption(entry.folder)}") from None


def _carry_out(request: Request, entry: Entry, watch: Watch | None = None) -> dict[str, Any]:
    """Carry out the run of an entry with its screen; it tunes meanwhile if it is to."""
    from mspipe_triton.cli.screens import TrainingScreen

    screen, strategy = TrainingScreen(partial(_advise, watch)), None
    screen.preparing.begin()
    try:
        from mspipe_triton.training.trainer import run

        if request.tunes(entry.config):
            from mspipe_triton.tuning import strategy_for

            strategy = strategy_for(entry.placed, entry.stream, note=screen.note)
        return run(_begun(entry, request, watch), screen, request.trace, strategy)
    finally:
        screen.close()


def _share(request: Request, watch: Watch) -> dict[str, Any] | None:
    """Train as a rank of several; rank 0 returns the result."""
    with loading():
        from mspipe_triton.cli.screens import TrainingScreen
        from mspipe_triton.distributed.agreement import together
        from mspipe_triton.processes.start import start_group
        from mspipe_triton.training.entry import enter
        from mspipe_triton.training.observer import Observer
        from mspipe_triton.training.ranks import group_ranks
        from mspipe_triton.training.trainer import run

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
        if screen is not None:
            screen.preparing.begin()
        result = run(_begun(entry, request, watch), observer, request.trace)
        return result if ranks.first else None
    finally:
        if screen is not None:
            screen.close()


def _begun(entry: Entry, request: Request, watch: Watch | None) -> Entry:
    """Return the entry of a run that begins now, after a note of its folder for later starts of the same run."""
    if watch is not None and entry.ranks.first:
        watch.notes.write(FOLDER_NOTE, str(entry.folder.path))
        if entry.resume:
            _advise(watch, entry.folder)
    return replace(entry, restarts=request.restarts)


def _advise(watch: Watch | None, folder: RunFolder) -> None:
    """Say how to go on with a run of which an epoch is complete, unless torchrun would start it again."""
    if watch is not None and watch.restarts >= int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        watch.advise(_resumption(folder))


def _load_torch() -> None:
    """Import torch, whose seconds the run's result has, and say so on a terminal."""
    from mspipe_triton.training.start import load_torch

    with loading():
        load_torch()


def _launch(nproc: int) -> int:
    """Start the processes of a run on this machine, and return their exit status."""
    from mspipe_triton.processes.launch import launch

    return launch([sys.executable, "-m", "mspipe_triton", *sys.argv[1:]], nproc)


def _resumption(folder: RunFolder) -> str:
    """Return how to go on with a run of which an epoch is complete."""
    way = command("train", "--out", folder.path, "--resume")
    return f"to continue after the last complete epoch, use {way}"


def _report(result: dict[str, Any], as_json: bool) -> None:
    """Print a result."""
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.result_screen import result_table

    console.print(result_table(result))
    for note in result["notes"]:
        console.print(f"Note: {note}")
    if as_json:
        print(json.dumps(result))
