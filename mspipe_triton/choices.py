"""The values that settings may have, and what refuses others."""

from __future__ import annotations

from typing import Any

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.schedules import RESIDENT

BUILT = {
    "task": ("link", "node"),
    "schedule": ("auto", "serial", "prefetch", "mspipe", "fixed", "exact"),
    "mitigation": ("none", "similarity"),
    "backend": ("auto", "torch"),
    "device": ("auto", "cpu", "cuda"),
    "placement": ("auto", "device", "host"),
    "sampler": ("recent", "uniform"),
    "aggregator": ("last", "mean"),
    "time_encoder": ("fixed", "learned"),
    "dtype": ("float32", "float64"),
    "precision": ("full", "tf32", "bf16"),
    "deduplicate": ("all", "roots"),
    "features": ("host", "device"),
    "gather": ("copy", "kernel"),
}


def check_choices(config: Any, *names: str) -> None:
    """Refuse a setting whose value is not among its choices.

    Raises:
        ConfigError: with the name, the value and the choices.
    """
    for name in names:
        value = getattr(config, name)
        if value not in BUILT[name]:
            more = "; --placement device runs so" if (name, value) == ("schedule", RESIDENT) else ""
            built = ", ".join(BUILT[name])
            raise ConfigError(f"{name.replace('_', '-')} {value!r} is none of {built}{more}")


def check_at_least(config: Any, least: int, *names: str) -> None:
    """Refuse a setting below `least`.

    Raises:
        ConfigError: with the name, the bound and the value.
    """
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name.replace('_', '-')} must be at least {least}, not {getattr(config, name)}")
