"""The flags that commands share: those of a run's data, model and training, and how they become its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mspipe_triton.config import RunConfig

Data = Annotated[
    str | None, typer.Argument(help="CSV or Parquet file, a folder of them, or `synthetic` (the default).")
]
Columns = Annotated[
    str | None, typer.Option(help="Which column plays which role: src=user_id,dst=item_id,t=timestamp,features=f*")
]
Sort = Annotated[bool | None, typer.Option("--sort", help="Sort events by time instead of refusing disorder.")]
NodeFeatures = Annotated[str | None, typer.Option(help="A .npy file with a row of features per node id.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def _flag(kind: Any, default: str | None = None, help: str | None = None) -> Any:
    return Annotated[kind | None, typer.Option(help=help, show_default=default or False)]


RUN_FLAGS = {
    "data": Data,
    "model": _flag(str, "tgn", "tgn, jodie, apan or tgat"),
    "task": _flag(str, "link", "link, or node: then labels too."),
    "epochs": _flag(int, "3"),
    "batch_size": _flag(int, "600", "Events an iteration."),
    "lr": _flag(float, "0.001", "Adam's learning rate."),
    "fanout": _flag(int, "10", "Neighbours a root."),
    "layers": _flag(int, "tgn 1, tgat 2", "Layers of attention."),
    "slots": _flag(int, "10", "Mails a node keeps in apan."),
    "dim": _flag(int, "100", "Width of memory and embeddings."),
    "heads": _flag(int, "2", "Attention heads."),
    "dropout": _flag(float, "0.0"),
    "sampler": _flag(str, "recent", "recent or uniform"),
    "aggregator": _flag(str, "last", "last or mean"),
    "time_encoder": _flag(str, "fixed", "fixed or learned"),
    "dtype": _flag(str, "float32", "float32 or float64"),
    "precision": _flag(str, "full", "full, tf32 (a GPU's products) or bf16 (memory and features too)."),
    "schedule": _flag(str, "auto", "auto, serial, prefetch, mspipe, fixed or exact"),
    "staleness": _flag(int, None, "Updates that schedule fixed misses."),
    "mitigation": _flag(str, "none", "none or similarity"),
    "backend": _flag(str, "auto", "auto or torch"),
    "device": _flag(str, "auto", "auto (a GPU where one is usable), cpu or cuda"),
    "placement": _flag(str, "auto", "Of memory and features: auto, host, or device: iterations run whole there."),
    "negatives": _flag(int, "49", "N random negatives of the MRR."),
    "seed": _flag(int, "0"),
    "threads": _flag(int, "0", "CPU threads; 0: torch's choice, or the tuner's."),
    "deterministic": Annotated[
        bool | None, typer.Option("--deterministic", help="The same bits every run; implies --no-autotune.")
    ],
    "columns": Columns,
    "sort": Sort,
    "node_features": NodeFeatures,
    "config": Annotated[str | None, typer.Option(help="A TOML file; flags go over it.", metavar="FILE.toml")],
}


# What device memory depends on, beside the stream.
PLANNED_FLAGS = (
    "data", "model", "batch_size", "fanout", "layers", "slots", "dim", "heads", "aggregator", "dtype", "precision",
    "negatives", "columns", "sort", "node_features",
)  # fmt: skip


def takes_run_flags(command: Callable[..., None], names: Iterable[str] = RUN_FLAGS) -> Callable[..., None]:
    """Give a command the flags of a run, or those of these names, before its own; it gets them by keyword."""
    keyword, given = inspect.Parameter.KEYWORD_ONLY, inspect.signature(command, eval_str=True).parameters.values()
    own = [each.replace(kind=keyword) for each in given if each.kind != each.VAR_KEYWORD]
    flags = [(name, RUN_FLAGS[name]) for name in names]
    shared = [inspect.Parameter(name, keyword, default=None, annotation=flag) for name, flag in flags]
    command.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*shared, *own)}
    return command


def run_config(flags: dict[str, Any]) -> RunConfig:
    """The settings of a TOML file, or the defaults, with the flags that were given over them."""
    from mspipe_triton.config import RunConfig, load_config
    from mspipe_triton.data.readers import parse_columns

    given = dict(flags)
    file, columns, data = given.pop("config", None), given.pop("columns", None), given.pop("data", None)
    base = RunConfig() if file is None else load_config(file)
    path = data if data in (None, "synthetic") else str(Path(str(data)).absolute())
    if given.get("node_features") is not None:
        given["node_features"] = str(Path(given["node_features"]).absolute())
    return base.with_flags({**given, "path": path, "columns": None if columns is None else parse_columns(columns)})
