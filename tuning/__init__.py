"""Tuning of runs and kernels: search spaces, measurement, Optuna studies and profiles, loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "mspipe_triton.tuning":
    raise ImportError(
        f"this package installs as mspipe_triton.tuning, not as {__name__!r}: write `import mspipe_triton.tuning`"
    )

if TYPE_CHECKING:
    from mspipe_triton.tuning.profile.key import Key
    from mspipe_triton.tuning.profile.profile import Profile, apply, restore
    from mspipe_triton.tuning.profile.store import ProfileStore
    from mspipe_triton.tuning.tuner import TuningObserver, autotune, settings_for

_PUBLIC = {
    "Key": "profile.key",
    "Profile": "profile.profile",
    "ProfileStore": "profile.store",
    "TuningObserver": "tuner",
    "apply": "profile.profile",
    "autotune": "tuner",
    "restore": "profile.profile",
    "settings_for": "tuner",
}

__all__ = ["Key", "Profile", "ProfileStore", "TuningObserver", "apply", "autotune", "restore", "settings_for"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, since users of the kernels alone need `apply` but not the trainer."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mspipe_triton.tuning.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
