"""Recipes and protocols: settings for a purpose and for a way of evaluation, by the names that flags take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mspipe_triton.choices import either
from mspipe_triton.errors import ConfigError

# Settings for a purpose, by the name that --recipe takes.
RECIPES: dict[str, Mapping[str, Any]] = {
    "ranking": {
        "loss": "softmax", "train_negatives": 10, "negative_kind": "mixed", "batch_size": 200, "lr": 3e-4, "epochs": 2,
    },
}  # fmt: skip
# Settings that a protocol of evaluation prescribes.
PROTOCOLS: dict[str, Mapping[str, Any]] = {"default": {}, "tgb": {"batch_size": 200, "split_at": "tgb"}}


def set_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that are not None, with the settings of "recipe" and "protocol", which the flags override.

    Raises:
        ConfigError: there is no such recipe.
    """
    values = {name: value for name, value in flags.items() if value is not None}
    recipe, protocol = values.pop("recipe", None), values.get("protocol", "default")
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; use {either(RECIPES)}")
    return {**RECIPES.get(recipe, {}), **PROTOCOLS.get(protocol, {}), **values}
