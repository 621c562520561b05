"""Commands that use a trained model: predict, rank and embed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mspipe_triton.cli.app import app
from mspipe_triton.cli.options import Json
from mspipe_triton.cli.transient import loading, transient
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.files import close_file

if TYPE_CHECKING:
    from mspipe_triton.cli.screens import EvaluationScreen
    from mspipe_triton.serving.predictor import Predictor

Run = Annotated[str, typer.Argument(help="Run folder, or folder of a saved predictor.", metavar="RUN")]
Data = Annotated[
    str | None,
    typer.Option(help="File of the run's events, if it has moved.", metavar="FILE", show_default="the run's"),
]
At = Annotated[
    str | None,
    typer.Option(help="State to start from: training, or that before a time.", show_default="after all events"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


@app.command()
def predict(
    run: Run,
    events: Annotated[str, typer.Argument(help="Table of new events, or folder of tables.", metavar="EVENTS")],
    out: Annotated[str, typer.Option(help="The .parquet or .csv file to write.", metavar="FILE")],
    at: At = None,
    late: Annotated[
        str, typer.Option(help="Events before the last one of the run: refuse, or drop (without a score).")
    ] = "refuse",
    sort: Annotated[
        bool, typer.Option("--sort", help="Sort events by time instead of refusing unsorted ones.")
    ] = False,
    edge_features: Annotated[
        str,
        typer.Option(help="A .npy file with one row of features per event, if the run had one.", show_default=False),
    ] = "",
    time_format: Annotated[
        str, typer.Option(help="Form of the new dates, as in %d.%m.%Y (strptime).", show_default="the run's")
    ] = "",
    data: Data = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Score new events, each right before it happens, and observe them; writes src, dst, t and score in file order."""
    from mspipe_triton.data.writers import check_target, write_table
    from mspipe_triton.serving.defaults import LATE

    if late not in LATE:
        raise ConfigError(f"--late must be refuse or drop, not {late!r}")
    if not Path(events).exists():
        fix = f"name a table of new events, or a folder of them{close_file(events)}"
        raise DataError(f"{events}: no such file; {fix}")
    check_target(Path(out), force)  # before the work
    refuse_own_files(out, run, events, data)
    with loading():
        from mspipe_triton.cli.console import console
        from mspipe_triton.cli.screens import EvaluationScreen
        from mspipe_triton.cli.use_screens import counted
        from mspipe_triton.cli.use_words import in_words_of_flags
        from mspipe_triton.data.new_events import read_new_events
        from mspipe_triton.serving.tables import score_table

    screen = EvaluationScreen()
    predictor = _load(run, data, at, screen)
    reading, nodes = predictor.reading, predictor.num_nodes
    if time_format:
        reading = replace(reading, data=replace(reading.data, time_format=time_format))
    table = read_new_events(Path(events), reading, sort or reading.data.sort, edge_features)
    since = time.perf_counter()
    try:
        with in_words_of_flags():
            scores = score_table(predictor, table, late, lambda count: screen.evaluation("events", count, len(table)))
    finally:
        screen.close()
    seconds = time.perf_counter() - since
    write_table(scores, Path(out), force)
    dropped = scores["score"].null_count
    new = predictor.num_nodes - nodes
    facts = {"events": len(table), "late": dropped, "new_nodes": new, "out": out, "seconds": seconds}
    rest = [counted(new, "new node")] if new else []
    rest += [f"{counted(dropped, 'late event')} without a score"] if dropped else []
    console.print(f"Scored {', '.join([counted(len(table) - dropped, 'event'), *rest])}: {out}")
    if as_json:
        print(json.dumps(facts))


@app.command()
def rank(
    run: Run,
    src: Annotated[str, typer.Option(help="Source whose destinations are ranked.", metavar="ID")],
    time: Annotated[
        str | None,
        typer.Option(
            help="Time of the question; the state is that before it.",
            metavar="TIME",
            show_default="just after the last event",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of destinations.")] = 10,
    new: Annotated[bool, typer.Option("--new", help="Rank for an ID that no event has, too.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Rank all destinations of a source at a time, the likeliest first."""
    if top < 1:
        raise ConfigError(f"--top must be at least 1, not {top}")
    with loading():
        from mspipe_triton.cli.console import console
        from mspipe_triton.cli.screens import EvaluationScreen
        from mspipe_triton.cli.use_screens import ranking_lines, ranking_table
        from mspipe_triton.cli.use_words import in_words_of_flags
        from mspipe_triton.serving.files import is_saved

    predictor = _load(run, data, None if is_saved(Path(run)) else time, EvaluationScreen(), "--time")
    with in_words_of_flags("--time"), transient(f"Ranking {predictor.destinations:,} destinations ..."):
        ranked = predictor.rank(src, time, top, new=new)
        source, moment = predictor.known(src), predictor.time_of(time)
    console.print(ranking_lines(source, time, predictor))
    console.print(ranking_table(ranked, predictor))
    if as_json:
        best = [{"dst": destination, "score": score} for destination, score in ranked]
        print(json.dumps({"src": source, "time": moment, "top": best}))


@app.command()
def embed(
    run: Run,
    out: Annotated[str, typer.Option(help="The .parquet or .csv file to write.", metavar="FILE")],
    at: At = None,
    data: Data = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the embeddings of all nodes: node, kind if there are two, and the numbers e0, e1, …

    They are those at the time of --at, otherwise just after the last event.
    """
    from mspipe_triton.data.writers import check_target, write_table

    check_target(Path(out), force)
    refuse_own_files(out, run, data)
    with loading():
        from mspipe_triton.cli.console import console
        from mspipe_triton.cli.screens import EvaluationScreen
        from mspipe_triton.cli.use_words import in_words_of_flags
        from mspipe_triton.serving.loading import TRAINING
        from mspipe_triton.serving.tables import embedding_table

    predictor = _load(run, data, at, EvaluationScreen())
    with in_words_of_flags(), transient(f"Embedding {predictor.num_nodes:,} nodes ..."):
        moment = None if at == TRAINING else at
        table = embedding_table(predictor, moment)
        shown = predictor.time_of(moment)
    write_table(table, Path(out), force)
    console.print(f"Wrote {table.num_rows:,} embeddings of width {predictor.dim} at {shown}: {out}")
    if as_json:
        print(json.dumps({"nodes": table.num_rows, "dim": predictor.dim, "time": shown, "out": out}))


def _load(run: str, data: str | None, at: str | None, screen: EvaluationScreen, flag: str = "--at") -> Predictor:
    """Load a predictor in the state of `at`, which a flag names, and show the events that this takes."""
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.use_words import in_words_of_flags
    from mspipe_triton.serving.loading import load

    notes = list[str]()
    try:
        with in_words_of_flags(flag), transient(f"Loading {run} ..."):
            predictor = load(run, data, at, progress=partial(screen.evaluation, "earlier events"), note=notes.append)
    finally:
        screen.close()
    for note in notes:
        console.print(f"Note: {note}", soft_wrap=True)  # its command can be pasted
    return predictor


def refuse_own_files(out: str, run: str, *tables: str | None) -> None:
    """Refuse an output inside the run folder, and one that would replace a table that is read.

    Raises:
        ConfigError: it is one of these.
    """
    from mspipe_triton.config_file import load_config

    path, config = Path(out).resolve(), Path(run) / "config.toml"
    if path.is_relative_to(Path(run).resolve()):
        raise ConfigError(f"--out {out} is inside the run folder {run}; name a file elsewhere")
    read = [*tables, load_config(config).data.path if config.exists() else None]
    if any(table and path == Path(table).resolve() for table in read):
        raise ConfigError(f"--out {out} is a table that this command reads; name another file")
