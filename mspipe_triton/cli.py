"""The commands of `mspipe-triton`: parse, call, print. Tables and progress go to stderr, `--json` to stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.exceptions

from mspipe_triton.errors import ConfigError, MspipeError, TrainingError

if TYPE_CHECKING:
    from mspipe_triton.config import RunConfig

app = typer.Typer(
    help="Train memory-based temporal graph neural networks on event streams, fast.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at event streams and make them.")
app.add_typer(data_app, name="data")

Data = Annotated[
    str | None, typer.Argument(help="CSV or Parquet file, a folder of them, or `synthetic` (the default).")
]
Columns = Annotated[
    str | None, typer.Option(help="Which column plays which role: src=user_id,dst=item_id,t=timestamp,features=f*")
]
Sort = Annotated[bool | None, typer.Option("--sort", help="Sort events by time instead of refusing disorder.")]
NodeFeatures = Annotated[str | None, typer.Option(help="A .npy file with a row of features per node id.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


@app.command()
def train(
    data: Data = None,
    model: Annotated[str | None, typer.Option(help="tgn, jodie, apan or tgat", show_default="tgn")] = None,
    task: Annotated[str | None, typer.Option(help="link, or node: then labels too.", show_default="link")] = None,
    epochs: Annotated[int | None, typer.Option(show_default="3")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Events an iteration.", show_default="600")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.", show_default="0.001")] = None,
    fanout: Annotated[int | None, typer.Option(help="Neighbours a root.", show_default="10")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of attention.", show_default="tgn 1, tgat 2")] = None,
    slots: Annotated[int | None, typer.Option(help="Mails a node keeps in apan.", show_default="10")] = None,
    dim: Annotated[int | None, typer.Option(help="Width of memory and embeddings.", show_default="100")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.", show_default="2")] = None,
    dropout: Annotated[float | None, typer.Option(show_default="0.0")] = None,
    sampler: Annotated[str | None, typer.Option(help="recent or uniform", show_default="recent")] = None,
    aggregator: Annotated[str | None, typer.Option(help="last or mean", show_default="last")] = None,
    time_encoder: Annotated[str | None, typer.Option(help="fixed or learned", show_default="fixed")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64", show_default="float32")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="auto, serial, prefetch, mspipe, fixed or exact", show_default="auto")
    ] = None,
    staleness: Annotated[int | None, typer.Option(help="Updates that schedule fixed misses.")] = None,
    mitigation: Annotated[str | None, typer.Option(help="none or similarity", show_default="none")] = None,
    backend: Annotated[str | None, typer.Option(help="auto or torch", show_default="auto")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda", show_default="auto")] = None,
    placement: Annotated[str | None, typer.Option(help="auto, device or host", show_default="auto")] = None,
    negatives: Annotated[int | None, typer.Option(help="N random negatives of the MRR.", show_default="49")] = None,
    seed: Annotated[int | None, typer.Option(show_default="0")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0: torch's choice.", show_default="0")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="The same bits every run; implies --no-autotune.")
    ] = None,
    no_autotune: Annotated[bool, typer.Option("--no-autotune", help="Take the shipped settings as they are.")] = False,
    columns: Columns = None,
    sort: Sort = None,
    node_features: NodeFeatures = None,
    config: Annotated[str | None, typer.Option(help="A TOML file; flags go over it.", metavar="FILE.toml")] = None,
    out: Annotated[str | None, typer.Option(help="Run folder.", show_default="runs/DATASET-MODEL-N")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Leave trace.json, which Perfetto opens.")] = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate, and leave a run folder."""
    from mspipe_triton.screens import TrainingScreen, console, result_table
    from mspipe_triton.training.trainer import train as run

    settings = _settings(
        config, columns, data, sort=sort, node_features=node_features, model=model, epochs=epochs, dim=dim, heads=heads,
        batch_size=batch_size, lr=lr, fanout=fanout, dropout=dropout, sampler=sampler, aggregator=aggregator,
        time_encoder=time_encoder, dtype=dtype, schedule=schedule, backend=backend, device=device, seed=seed,
        placement=placement, negatives=negatives, threads=threads, deterministic=deterministic, staleness=staleness,
        mitigation=mitigation, layers=layers, slots=slots, task=task,
    )  # fmt: skip
    screen = TrainingScreen()
    try:
        result = run(settings, out=out, resume=resume, observer=screen, trace=trace)
    except KeyboardInterrupt:
        raise TrainingError(
            "interrupted; the same command with --out RUN and --resume goes on after the last whole epoch"
        ) from None
    finally:
        screen.close()
    console.print(result_table(result))
    if as_json:
        print(json.dumps(result))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder.", metavar="RUN")],
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    negatives: Annotated[
        int | None, typer.Option(help="N random negatives of the MRR.", show_default="the run's")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's best epoch again; at the run's own settings the numbers are those of result.json."""
    from mspipe_triton.screens import console, split_table
    from mspipe_triton.training.evaluate import SPLITS, evaluate_run

    if split not in SPLITS:
        raise ConfigError(f"--split must be val or test, not {split!r}")
    if negatives is not None and negatives < 1:
        raise ConfigError(f"--negatives must be at least 1, not {negatives}")
    metrics, ranked = evaluate_run(run, split, negatives)
    console.print(split_table(split, metrics, ranked, run))
    if as_json:
        print(json.dumps(metrics))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, and why not."""
    from mspipe_triton.doctor import diagnose

    _show("This machine", diagnose(), as_json)


@app.command()
def plan(
    times: Annotated[str, typer.Option(help="Time of every stage, in any unit.", metavar="STAGE=TIME,...")],
    schedule: Annotated[str, typer.Option(help="mspipe, exact, fixed, prefetch or serial")] = "mspipe",
    staleness: Annotated[
        int | None, typer.Option(help="Updates that training may miss.", show_default="the smallest at full throughput")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan a pipeline: its period, the smallest staleness that reaches it, the start of every stage.

    For instance --times sample=2,features=3,memory=2,train=6,update=3
    """
    from mspipe_triton.pipeline.plan import make_plan, parse_times

    made = make_plan(schedule, parse_times(times), staleness)
    if as_json:
        print(json.dumps(made.to_json()))
        return
    from mspipe_triton.screens import console, plan_table

    console.print(plan_table(made))


@data_app.command()
def info(
    data: Data = None, columns: Columns = None, sort: Sort = None, node_features: NodeFeatures = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Describe a stream: counts, span, repetition, new nodes in test, ties."""
    from mspipe_triton.data.describe import describe
    from mspipe_triton.training.session import load_stream

    settings = _settings(None, columns, data, sort=sort, node_features=node_features)
    facts = describe(load_stream(settings.data))
    _show(str(facts.pop("name")), facts, as_json)


@data_app.command()
def generate(
    out: Annotated[str, typer.Argument(help="The .csv or .parquet file to write.", metavar="OUT")],
    events: Annotated[int | None, typer.Option(show_default="60000")] = None,
    users: Annotated[int | None, typer.Option(show_default="1500")] = None,
    items: Annotated[int | None, typer.Option(show_default="500")] = None,
    edge_features: Annotated[int | None, typer.Option(help="Width of the features.", show_default="0")] = None,
    seed: Annotated[int | None, typer.Option(show_default="0")] = None,
) -> None:
    """Write a synthetic stream to a file."""
    from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
    from mspipe_triton.data.writers import write_stream
    from mspipe_triton.screens import console

    given = {"events": events, "users": users, "items": items, "edge_features": edge_features, "seed": seed}
    stream = synthetic_stream(SyntheticConfig(**{name: value for name, value in given.items() if value is not None}))
    write_stream(stream, Path(out))
    console.print(f"Wrote {len(stream):,} events to {out}")


def main() -> None:
    """Run the command line: exit 0 done, 1 a run failed, 2 the user's input is wrong; errors are one line."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except MspipeError as error:
        code = _fail(str(error), error.exit_code)
    except typer.exceptions.TyperException as error:
        code = _fail(f"{error.format_message().rstrip('.')}. See --help.", 2)
    except (typer.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 1)
    except OSError as error:
        code = _fail(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    print(f"mspipe-triton: {' '.join(message.split())}", file=sys.stderr)
    return code


def _settings(config: str | None, columns: str | None, data: str | None, **flags: Any) -> RunConfig:
    """The settings of a TOML file, or the defaults, with the flags that were given over them."""
    from mspipe_triton.config import RunConfig, load_config
    from mspipe_triton.data.readers import parse_columns

    base = RunConfig() if config is None else load_config(config)
    path = data if data in (None, "synthetic") else str(Path(str(data)).absolute())
    if flags.get("node_features") is not None:
        flags["node_features"] = str(Path(flags["node_features"]).absolute())
    return base.with_flags({**flags, "path": path, "columns": None if columns is None else parse_columns(columns)})


def _show(title: str, facts: dict[str, Any], as_json: bool) -> None:
    from mspipe_triton.screens import console, facts_table

    console.print(facts_table(title, facts))
    if as_json:
        print(json.dumps(facts))
