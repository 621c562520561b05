"""Tuning of runs and kernels: search spaces, measurement, Optuna studies and profiles, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.lazy import load_lazily

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


__getattr__, __dir__ = load_lazily(
    __name__, {name: f"mspipe_triton.tuning.{module}" for name, module in _PUBLIC.items()}
)
