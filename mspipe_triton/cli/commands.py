"""Commands of `mspipe-triton`: parse, call, print. Tables and progress go to stderr, `--json` output to stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.exceptions

import mspipe_triton.cli.graphpipe  # adds what its group does without a command
import mspipe_triton.cli.graphpipe_run  # adds its command
import mspipe_triton.cli.report  # adds its command
import mspipe_triton.cli.serve  # adds its command
import mspipe_triton.cli.train  # adds its command
import mspipe_triton.cli.use  # noqa: F401  # adds its commands
from mspipe_triton.cli.app import app, data_app, graphpipe_app, print_error
from mspipe_triton.cli.help import PlainHelp
from mspipe_triton.cli.options import EXAMPLES, PLANNED_FLAGS, Json, run_config, seconds, takes_run_flags
from mspipe_triton.cli.transient import loading, transient
from mspipe_triton.cli.usage import PROGRAM, usage_message
from mspipe_triton.errors import ConfigError, MspipeError, TuningError

if TYPE_CHECKING:
    from mspipe_triton.processes.watch import Watch

app.add_typer(data_app, name="data")
app.add_typer(graphpipe_app, name="graphpipe")


@app.command(epilog=EXAMPLES.format("autotune"))
@takes_run_flags
def autotune(
    budget: Annotated[
        float | None, typer.Option(help="Seconds, including compilation.", show_default="60", rich_help_panel="Tuning")
    ] = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Find the fastest settings for a run on this machine; later, `train` with the same flags uses them.

    `train` tunes by itself in a small part of its time; this is for a search before a long run.
    """
    started, config, budget, reason = time.perf_counter(), run_config(flags), seconds(budget), ""
    with loading():
        from mspipe_triton.cli.console import console
        from mspipe_triton.cli.tuning_screen import TuningScreen, profile_summary
        from mspipe_triton.data.source import load_stream
        from mspipe_triton.devices import resolve_device
        from mspipe_triton.training.threads import check_threads
        from mspipe_triton.tuning import autotune as tune
        from mspipe_triton.tuning.tuner import BudgetError

    if config.train.deterministic:
        raise ConfigError("--deterministic runs use the shipped settings; omit it to tune")
    check_threads(config.train)
    resolve_device(config)  # refuses an unusable device before the data are read
    with transient(f"Reading {Path(config.data.path).name} ..."):
        stream, screen = load_stream(config.data), TuningScreen()
    screen.preparing.begin()
    try:
        profile = tune(config, stream, budget, observer=screen, started=started)
    except BudgetError as error:  # nothing was measured, which is no fault
        profile, reason = None, str(error)
    except KeyboardInterrupt:
        raise TuningError("interrupted; the same command continues after the finished trials") from None
    finally:
        screen.close()
    console.print(f"No profile: {reason}." if profile is None else profile_summary(profile, screen.leaders))
    if as_json:
        print(json.dumps({"profile": None, "reason": reason} if profile is None else profile.to_json()))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="Run folder.", metavar="RUN")],
    split: Annotated[str, typer.Option(help="Split to evaluate: val or test.")] = "test",
    negatives: Annotated[
        int | None, typer.Option(help="Random negatives per event for the MRR.", show_default="the run's")
    ] = None,
    candidates: Annotated[str, typer.Option(help="Rank each event among random destinations, or all.")] = "random",
    data: Annotated[
        str | None,
        typer.Option(
            help="File of the run's events, which is read as before.", metavar="FILE", show_default="the run's"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the best epoch of a run again; with the run's own settings, the numbers match result.json."""
    with loading():
        from mspipe_triton.cli.console import console
        from mspipe_triton.cli.result_screen import split_table
        from mspipe_triton.cli.screens import EvaluationScreen
        from mspipe_triton.evaluation.evaluate import CANDIDATES, evaluate_run
        from mspipe_triton.evaluation.verdict import behind_baselines
        from mspipe_triton.training.way import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split must be val or test, not {split!r}")
    if negatives is not None and negatives < 1:
        raise ConfigError(f"--negatives must be at least 1, not {negatives}")
    if candidates not in CANDIDATES:
        raise ConfigError(f"--candidates must be random or all, not {candidates!r}")
    if negatives is not None and candidates == "all":
        raise ConfigError(f"--negatives {negatives} is a number of random candidates; omit it with --candidates all")
    screen = EvaluationScreen()
    screen.preparing.begin()
    try:
        metrics = evaluate_run(run, split, negatives, data, progress=screen.evaluation, candidates=candidates)
    finally:
        screen.close()
    console.print(split_table(split, metrics, run))
    for note in behind_baselines(metrics) if split == "test" else []:
        console.print(f"Note: {note}")
    if as_json:
        print(json.dumps(metrics))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show the device, compiler and versions of this machine, and what training will use."""
    with loading():
        from mspipe_triton.cli.doctor import diagnose

    with transient("Checking the compiler ..."):
        facts = diagnose()
    _show("This machine", facts, as_json)


@app.command()
def plan(
    times: Annotated[str, typer.Option(help="Time of each stage, in any unit.", metavar="STAGE=TIME,...")],
    schedule: Annotated[str, typer.Option(help="Schedule: mspipe, exact, fixed, prefetch or serial.")] = "mspipe",
    staleness: Annotated[
        int | None, typer.Option(help="Updates that training may miss.", show_default="the smallest at full throughput")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan a pipeline: its period, the smallest staleness that reaches it, and the start of each stage.

    For example: --times sample=2,features=3,memory=2,train=6,update=3

    Several ranks: --times sample=2,features=3,memory=2,forward=2,backward=4,exchange=9,update=3
    """
    from mspipe_triton.pipeline.plan import make_plan, parse_times
    from mspipe_triton.pipeline.slow_link import staleness_gain

    stages = parse_times(times)
    if schedule != "exact":  # so that one set of times serves all schedules
        stages.pop("patch", None)
    result = make_plan(schedule, stages, staleness)
    gain = staleness_gain(result)
    if as_json:
        print(json.dumps({**result.to_json(), **({} if gain is None else {"staleness_gain": gain.to_json()})}))
        return
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.plan_screen import plan_table

    console.print(plan_table(result))
    if gain is not None:
        console.print(gain.describe())


@data_app.command(epilog=EXAMPLES.format("data info"))
@partial(takes_run_flags, names=PLANNED_FLAGS)
def info(as_json: Json = False, **flags: Any) -> None:
    """Describe a stream: counts, columns and their roles, repetition, new nodes, ties, device memory for training."""
    settings = run_config(flags)
    with loading():
        from mspipe_triton.cli.data_screen import show_stream
        from mspipe_triton.data.describe import describe
        from mspipe_triton.data.source import load_stream
        from mspipe_triton.training.footprint import Footprint

    with transient(f"Reading {Path(settings.data.path).name} ..."):
        stream = load_stream(settings.data)
    facts, resident = describe(stream), Footprint.of(settings, stream)
    show_stream(stream, facts, {f"device memory, {settings.model.model}": str(resident)})
    if as_json:
        parts = resident.to_json()
        print(json.dumps({**facts, "resident_mib": parts.pop("total"), "resident_parts_mib": parts}))


@data_app.command()
def generate(
    out: Annotated[str, typer.Argument(help="The .csv or .parquet file to write.", metavar="OUT")],
    events: Annotated[int | None, typer.Option(help="Number of events.", show_default="60000")] = None,
    users: Annotated[int | None, typer.Option(help="Number of users.", show_default="1500")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items.", show_default="500")] = None,
    edge_features: Annotated[int | None, typer.Option(help="Width of the edge features.", show_default="0")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="0")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a synthetic stream to a file."""
    from mspipe_triton.cli.console import console
    from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_events
    from mspipe_triton.data.writers import check_target, write_events

    flags = {"events": events, "users": users, "items": items, "edge_features": edge_features, "seed": seed}
    config = SyntheticConfig(**{name: value for name, value in flags.items() if value is not None})
    check_target(Path(out), force)  # before the work
    generated = synthetic_events(config)
    write_events(*generated, Path(out), force)
    console.print(f"Wrote {len(generated.src):,} events to {out}")


for each in (*app.registered_commands, *data_app.registered_commands, *graphpipe_app.registered_commands):
    each.cls = PlainHelp


def main() -> None:
    """Run the command line; exits with 0 on success, 1 if a run failed, 2 on wrong input. Errors are one line."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except MspipeError as error:
        code = _fail(str(error), error.exit_code)
    except typer.exceptions.TyperException as error:
        code = _refuse(usage_message(error, app, sys.argv[1:]))
    except (typer.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 1)
    except OSError as error:
        code = _fail(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    print_error(message)
    return code


def _refuse(message: str) -> int:
    """Print an error of usage, once if this is one of several processes, which then end; return the exit status."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return _fail(message, ConfigError.exit_code)
    from mspipe_triton.processes.start import run_process

    def part(watch: Watch) -> int:
        raise ConfigError(message)

    return run_process(part, print_error)


def _show(title: str, facts: dict[str, Any], as_json: bool, rows: dict[str, Any] | None = None) -> None:
    """Print facts as a table, whose `rows` may differ from the facts, and with `as_json` as JSON too."""
    from mspipe_triton.cli.console import console, facts_table

    console.print(facts_table(title, rows or facts))
    if as_json:
        print(json.dumps(facts))
