"""Command that trains a model by a plan of `graphpipe`, with a process per device."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspipe_triton.cli.app import graphpipe_app, print_error
from mspipe_triton.cli.options import Json, flags_of, takes_flags
from mspipe_triton.errors import ConfigError, PipelineError, RunFolderError
from mspipe_triton.files import check_output
from mspipe_triton.pipeline.graphpipe.run.folder import check_folder, newest
from mspipe_triton.pipeline.graphpipe.run.settings import OPTIMIZERS, RunSettings

if TYPE_CHECKING:
    from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
    from mspipe_triton.pipeline.graphpipe.run.result import RunResult


@graphpipe_app.command()
@partial(takes_flags, added=flags_of(RunSettings))
def run(
    plan: Annotated[str, typer.Argument(help="File with the JSON of `graphpipe --json`.", metavar="PLAN")],
    model: Annotated[
        str,
        typer.Option(
            help="module:attr: a function that returns a torch.nn.Module, whose output is the loss, and example inputs."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="module:attr: a function that returns mini-batches: tuples of arguments, dicts of them by name, or "
            "pairs of both."
        ),
    ],
    sequential: Annotated[bool, typer.Option("--sequential", help="Run the best chain of the plan's file.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Folder for checkpoints, a file per stage.", metavar="DIR", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --checkpoint.")] = False,
    trace: Annotated[
        str | None, typer.Option(help="Write the simulated and measured timelines to this file.", metavar="FILE")
    ] = None,
    picture: Annotated[
        str | None, typer.Option(help="Draw the plan and both timelines to this .svg file.", metavar="FILE")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Write measured costs, for `graphpipe --profile`.", metavar="FILE")
    ] = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Train a model by a plan: each device is a process, which this command starts unless torchrun has.

    For example: plan.json --model models:build --data models:batches --steps 100, which is also what torchrun
    --nproc-per-node 4 -m mspipe_triton graphpipe run takes.
    """
    # Before torch is loaded, which reports broken connections with stack traces.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from mspipe_triton.pipeline.graphpipe.run.process import run_plan, stage_names
    from mspipe_triton.processes.launch import launch
    from mspipe_triton.processes.start import is_process

    values = {name: value for name, value in flags.items() if value is not None}
    outputs = {"trace": trace, "picture": picture, "profile": profile}

    def settings() -> RunSettings:
        for name, value in {**values, **outputs, "checkpoint": checkpoint}.items():
            if value == "":
                raise ConfigError(f"--{name} is empty; give a value, or omit it")
        if resume and checkpoint is None:
            raise ConfigError("--resume goes on from a checkpoint; give its folder with --checkpoint")
        if values.get("every") and checkpoint is None:
            raise ConfigError("--every is for checkpoints; give their folder with --checkpoint")
        if "lr" in values and ":" in values.get("optimizer", ""):
            raise ConfigError(f"--lr is for {', '.join(OPTIMIZERS)}; set it in {values['optimizer']}, and omit --lr")
        return RunSettings(**values)

    def read() -> PipelinePlan:
        from mspipe_triton.pipeline.graphpipe.plan_file import read_plan

        steps = settings().steps
        if os.environ.get("RANK", "0") == "0":
            _check_files(plan, outputs)
            if checkpoint is not None:
                check_folder(Path(checkpoint), resume, steps)
        return read_plan(Path(plan), sequential)

    if not is_process():
        names = stage_names(read())
        try:
            code = launch([sys.executable, "-m", "mspipe_triton", *sys.argv[1:]], len(names), names)
        except PipelineError as error:
            raise PipelineError(f"{error}{_resumption(checkpoint)}") from None
        raise typer.Exit(code)
    if os.environ["RANK"] != "0":
        os.dup2(2, 1)  # stdout is that of process 0

    def train(plan: PipelinePlan, device: str) -> RunResult | None:
        from mspipe_triton.cli.graphpipe_run_screen import ProgressLine
        from mspipe_triton.pipeline.graphpipe.run.worker import work

        with ProgressLine(settings().steps) as line:
            folder = None if checkpoint is None else Path(checkpoint)
            return work(
                plan,
                model,
                data,
                settings(),
                device=device,
                checkpoint=folder,
                resume=resume,
                profile=profile is not None,
                progress=line.show,
            )

    result = run_plan(read, train, str(values.get("device", RunSettings.device)), print_error)
    if result is not None:
        _report(result, outputs, as_json)


def _resumption(checkpoint: str | None) -> str:
    """Return how to go on after the newest checkpoint, as the end of a message; "" if there is none."""
    if checkpoint is None:
        return ""
    try:
        return f"; --resume goes on after {newest(Path(checkpoint)).name}"
    except RunFolderError:
        return ""


def _check_files(plan: str, outputs: Mapping[str, str | None]) -> None:
    """Refuse files that cannot be written, before the run."""
    from mspipe_triton.pipeline.graphpipe.picture import check_picture

    files = {f"--{name}": Path(file) for name, file in outputs.items() if file is not None}
    for (one, first), (other, second) in combinations({"PLAN": Path(plan), **files}.items(), 2):
        if first.absolute() == second.absolute():
            raise ConfigError(f"{one} and {other} both name {second}; use two files")
    for name, path in files.items():
        if name == "--picture":
            check_picture(path)
        check_output(path)


def _report(result: RunResult, outputs: Mapping[str, str | None], as_json: bool) -> None:
    """Print a result, and write its files."""
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.graphpipe_run_screen import run_screen
    from mspipe_triton.pipeline.graphpipe.picture import draw
    from mspipe_triton.pipeline.graphpipe.profile import measured_costs, write_profile
    from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan
    from mspipe_triton.pipeline.graphpipe.trace import write_trace

    console.print(run_screen(result))
    simulated = simulate_plan(result.plan)
    if (path := outputs["trace"]) is not None:
        write_trace(simulated, Path(path), measured=result.timeline)
    if (path := outputs["picture"]) is not None:
        draw(simulated, Path(path), measured=result.timeline)
    if (path := outputs["profile"]) is not None:
        passes = [(stage.forward.measured, stage.backward.measured) for stage in result.stages]
        write_profile(Path(path), measured_costs(result.plan, passes, result.operators), result.bandwidth)
    if as_json:
        print(json.dumps(result.to_json()))
