"""Flags that commands share, for a run's data, model and training, and their conversion to a `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspipe_triton.choices import either
from mspipe_triton.cli.help import MOST_USED
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config, read_settings
from mspipe_triton.errors import ConfigError
from mspipe_triton.recipes import RECIPES, set_flags

if TYPE_CHECKING:
    from mspipe_triton.training.run_folder import RunFolder

Json = Annotated[
    bool, typer.Option("--json", help="Print the results as one JSON object on stdout.", rich_help_panel="Output")
]
EXAMPLES = """
Examples
  mspipe-triton {0} events.csv
  mspipe-triton {0} orders.csv --columns src=customer,dst=product,t=date
  mspipe-triton {0} pay.csv --columns src=from,dst=to,t=day,features=a,b

A file for --config has the same names with _ in place of -, in the sections
[data], [model] and [train].
"""
_HOMES: dict[type[Any], str] = {DataConfig: "Data", ModelConfig: "Model", TrainConfig: "Training"}


def _flag(each: Field[Any], home: str | None = None) -> Any:
    """Flag of a setting, in the help's group `home` unless the setting names another; None unless the user sets it."""
    facts, kind, group = each.metadata, type(each.default), each.metadata["group"] or home
    if kind is bool:  # a --no-... flag only where the default is True
        name = each.name.replace("_", "-")
        names = f"--{name}/--no-{name}" if each.default else f"--{name}"
        shown = "yes" if each.default else False
        return Annotated[
            bool | None, typer.Option(names, help=facts["help"], rich_help_panel=group, show_default=shown)
        ]
    shown, metavar = facts["default_text"] or False, facts["metavar"] or ("NAME" if facts["choices"] else None)
    return Annotated[
        kind | None,
        typer.Option(help=facts["help"] or None, show_default=shown, rich_help_panel=group, metavar=metavar),
    ]


def flags_of(*settings: type[Any]) -> dict[str, Any]:
    """Flags of all settings of dataclasses, by name."""
    return {each.name: _flag(each, _HOMES.get(kind)) for kind in settings for each in fields(kind) if each.metadata}


RUN_FLAGS: dict[str, Any] = {
    "data": Annotated[
        str | None,
        typer.Argument(
            help="Table of events, or a folder of tables.",
            show_default="the built-in `synthetic`",
            rich_help_panel=MOST_USED,
        ),
    ],
    "columns": Annotated[
        str | None,
        typer.Option(
            help="Names of your columns for source, destination and time, if they are not found: src=A,dst=B,t=C.",
            metavar="ROLE=NAME,...",
            rich_help_panel=MOST_USED,
            show_default="found by their names",
        ),
    ],
    **flags_of(ModelConfig, TrainConfig),
    "recipe": Annotated[
        str | None,
        typer.Option(
            help=f"Settings for a purpose, which flags override: {either(RECIPES)}.",
            metavar="NAME",
            rich_help_panel="Training",
        ),
    ],
    **flags_of(DataConfig),
    "config": Annotated[
        str | None,
        typer.Option(
            help="Read settings from this TOML file; flags override them.",
            metavar="FILE.toml",
            rich_help_panel="Training",
        ),
    ],
}


# Flags that determine the device memory of a run, besides the stream.
PLANNED_FLAGS = (
    "data", "model", "batch_size", "fanout", "layers", "slots", "dim", "heads", "aggregator", "dtype", "precision",
    "pair_features", "train_negatives", "negative_kind", "negatives", "recipe", "columns",
    *(each.name for each in fields(DataConfig) if each.metadata),
)  # fmt: skip


def takes_run_flags(command: Callable[..., None], names: Iterable[str] = RUN_FLAGS) -> Callable[..., None]:
    """Add the flags of a run, or those named, before a command's other parameters; it gets them by keyword."""
    return takes_flags(command, {name: RUN_FLAGS[name] for name in names})


def takes_flags(command: Callable[..., None], added: Mapping[str, Any], last: bool = False) -> Callable[..., None]:
    """Add flags by name before a command's other parameters, or after them if `last`.

    It gets them by keyword, and None if they are not set.
    """
    keyword, parameters = inspect.Parameter.KEYWORD_ONLY, inspect.signature(command, eval_str=True).parameters
    others = [each.replace(kind=keyword) for each in parameters.values() if each.kind != each.VAR_KEYWORD]
    shared = [inspect.Parameter(name, keyword, default=None, annotation=flag) for name, flag in added.items()]
    all_parameters = [*others, *shared] if last else [*shared, *others]
    command.__signature__ = inspect.Signature(all_parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {each.name: each.annotation for each in all_parameters}
    return command


def run_config(flags: dict[str, Any]) -> RunConfig:
    """Settings of the TOML file, or the defaults, overridden by the flags that are not None.

    Raises:
        InputError: a setting is wrong, or the table of events does not exist, which is said before torch is loaded.
    """
    from mspipe_triton.data.origin import check_exists

    file = flags.get("config")
    config = (RunConfig() if file is None else load_config(file)).with_flags(_values(flags))
    if config.data.path not in ("", "synthetic"):
        check_exists(Path(config.data.path))
    return config


def resumed_config(flags: dict[str, Any], folder: RunFolder) -> RunConfig:
    """Settings of the run in a folder, overridden by the TOML file's and by the flags that are not None.

    Raises:
        RunFolderError: a setting of its model or training differs.
    """
    values, saved = settings_of(flags), load_config(folder.config)
    folder.refuse_changes(saved, values)  # before they meet the run's other settings, which may not fit them
    return saved.with_flags(values)


def continued_config(flags: dict[str, Any], run: str, resume: bool) -> RunConfig:
    """Settings of the run that is continued, overridden by the TOML file's and by the flags that are not None.

    Raises:
        InputError: there is no run, a setting of its model differs, or no new events are named.
    """
    from mspipe_triton.training.continuation import continuation

    if resume:
        raise ConfigError("--continue starts a run after another one, and --resume goes on with one; omit either")
    values = settings_of(flags)
    return continuation(run, values.pop("path", ""), **values)


def settings_of(flags: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, from the TOML file, and from the flags that override it."""
    sections = {} if flags.get("config") is None else read_settings(flags["config"])
    values = {
        name: value for section in ("data", "model", "train") for name, value in sections.get(section, {}).items()
    }
    return values | set_flags(_values(flags))


def seconds(budget: float | None) -> float | None:
    """Return a number of seconds that a flag gives.

    Raises:
        ConfigError: it is not above 0.
    """
    if budget is not None and not 0 < budget < float("inf"):
        raise ConfigError(f"--budget must be a number of seconds above 0, not {budget:g}")
    return budget


def _values(flags: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, from flags; None for a flag that the user has not set."""
    from mspipe_triton.data.names import parse_columns

    values = {name: value for name, value in flags.items() if name != "config"}
    columns, data = values.pop("columns", None), values.pop("data", None)
    path = data if data in (None, "synthetic") else str(Path(str(data)).absolute())
    if values.get("split_at") == "":
        raise ConfigError("--split-at is empty; give the starts of validation and test, as in 0.7,0.85, or omit it")
    for name in ("edge_features", "node_features"):
        if values.get(name):
            values[name] = str(Path(values[name]).absolute())
    return {**values, "path": path, "columns": None if columns is None else parse_columns(columns)}
