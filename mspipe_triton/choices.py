"""Settings as dataclass fields, with their default, choices or minimum, and the help of their flag."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import field, fields
from typing import Any

from mspipe_triton.errors import ConfigError, suggestion
from mspipe_triton.pipeline.schedules import RESIDENT

_SYNONYMS = {"gpu": "cuda"}  # words that users know for choices, whose letters differ
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def setting(
    default: Any,
    help: str = "",
    *,
    choices: tuple[str, ...] = (),
    minimum: int | None = None,
    default_text: str | None = None,
    group: str = "",
    metavar: str = "",
) -> Any:
    """Make a dataclass field for a setting.

    Args:
        help: help text of the flag; the choices if omitted. choices: all values allowed. minimum: the smallest allowed.
        default_text: default that the help shows, if it differs from the field's. group: of flags in the help; the
            group of the field's class if omitted. metavar: word for the value in the help, if it is no number.
    """
    default_text = str(default) if default_text is None else default_text
    facts = {"help": help or either(choices), "choices": choices, "minimum": minimum, "default_text": default_text}
    return field(default=default, metadata={**facts, "group": group, "metavar": metavar})


def either(names: Collection[str], word: str = "or") -> str:
    """Join names as in "tgn, jodie or apan"; "" without names."""
    *others, last = names or ("",)
    return f"{', '.join(others)} {word} {last}" if others else last


def multiples(value: int, factor: int) -> str:
    """Name the multiples above 0 that are nearest to a number which is none, as in "32 or 34"."""
    below = value // factor * factor
    return either([str(each) for each in (below, below + factor) if each > 0])


def check_settings(config: Any) -> None:
    """Refuse a setting whose value has another type, is not among its choices, is below its minimum, or is not finite.

    Raises:
        ConfigError: with the name, the value and the allowed values.
    """
    for each in fields(config):
        choices, minimum = each.metadata.get("choices"), each.metadata.get("minimum")
        name, value = each.name.replace("_", "-"), getattr(config, each.name)
        kind = type(each.default)
        if kind in KINDS and type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(f"{name} must be {KINDS[kind]}, not {value!r}")
        if choices and value not in choices:
            device = (name, value) == ("schedule", RESIDENT)
            hint = "; use --placement device instead" if device else suggestion(_SYNONYMS.get(value, value), choices)
            raise ConfigError(f"{name} {value!r} is not one of {', '.join(choices)}{hint}")
        if minimum is not None and value < minimum:
            raise ConfigError(f"{name} must be at least {minimum}, not {value}")
        if minimum is not None and not math.isfinite(value):
            raise ConfigError(f"{name} must be finite, not {value}")
