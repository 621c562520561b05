"""A setting as a field of a dataclass: its default, its choices or least value, and the help of its flag."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field, fields
from typing import Any

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.schedules import RESIDENT


def setting(
    default: Any, help: str = "", *, choices: tuple[str, ...] = (), least: int | None = None, shown: str | None = None
) -> Any:
    """A field for `dataclass`.

    Args:
        help: of its flag; left out, the choices. shown: as the flag's default, where that is not the field's.
        choices: all values that it may have. least: the smallest.
    """
    shown = str(default) if shown is None else shown
    facts = {"help": help or either(choices), "choices": choices, "least": least, "shown": shown}
    return field(default=default, metadata=facts)


def either(names: Collection[str]) -> str:
    """Names as in "tgn, jodie or apan"; "" of none."""
    *others, last = names or ("",)
    return f"{', '.join(others)} or {last}" if others else last


def check_settings(config: Any) -> None:
    """Refuse a setting whose value is not among its choices, or below the least one.

    Raises:
        ConfigError: with the name, the value and what is allowed.
    """
    for each in fields(config):
        choices, least = each.metadata.get("choices"), each.metadata.get("least")
        name, value = each.name.replace("_", "-"), getattr(config, each.name)
        if choices and value not in choices:
            more = "; --placement device runs so" if (name, value) == ("schedule", RESIDENT) else ""
            raise ConfigError(f"{name} {value!r} is none of {', '.join(choices)}{more}")
        if least is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
