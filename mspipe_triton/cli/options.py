"""The flags that commands share: those of a run's data, model and training, and how they become its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig, load_config

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def _flag(each: Field[Any]) -> Any:
    """The flag of a setting; it is None where the user has not given it."""
    facts, kind = each.metadata, type(each.default)
    if kind is bool:  # without a flag for False
        return Annotated[bool | None, typer.Option(f"--{each.name}", help=facts["help"])]
    return Annotated[kind | None, typer.Option(help=facts["help"] or None, show_default=facts["shown"] or False)]


RUN_FLAGS: dict[str, Any] = {
    "data": Annotated[
        str | None, typer.Argument(help="CSV or Parquet file, a folder of them, or `synthetic` (the default).")
    ],
    **{each.name: _flag(each) for kind in (ModelConfig, TrainConfig) for each in fields(kind)},
    "columns": Annotated[
        str | None, typer.Option(help="Which column plays which role: src=user_id,dst=item_id,t=timestamp,features=f*")
    ],
    **{each.name: _flag(each) for each in fields(DataConfig) if each.metadata},
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
    from mspipe_triton.data.readers import parse_columns

    given = dict(flags)
    file, columns, data = given.pop("config", None), given.pop("columns", None), given.pop("data", None)
    base = RunConfig() if file is None else load_config(file)
    path = data if data in (None, "synthetic") else str(Path(str(data)).absolute())
    if given.get("node_features") is not None:
        given["node_features"] = str(Path(given["node_features"]).absolute())
    return base.with_flags({**given, "path": path, "columns": None if columns is None else parse_columns(columns)})
