"""Tuning of runs and kernels: search spaces, measurement, Optuna studies and profiles, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.lazy import load_lazily

if __name__ != "mspipe_triton.tuning":
    raise ImportError(
        f"this package installs as mspipe_triton.tuning, not as {__name__!r}: write `import mspipe_triton.tuning`"
    )

if TYPE_CHECKING:
    from mspipe_triton.tuning.online import OnlineTuning
    from mspipe_triton.tuning.profile.key import Key
    from mspipe_triton.tuning.profile.profile import Profile, apply, restore
    from mspipe_triton.tuning.profile.store import ProfileStore
    from mspipe_triton.tuning.strategy import strategy_for
    from mspipe_triton.tuning.tuner import TuningObserver, autotune

_PUBLIC = {
    "Key": "profile.key",
    "OnlineTuning": "online",
    "Profile": "profile.profile",
    "ProfileStore": "profile.store",
    "TuningObserver": "tuner",
    "apply": "profile.profile",
    "autotune": "tuner",
    "restore": "profile.profile",
    "strategy_for": "strategy",
}

__all__ = [
    "Key", "OnlineTuning", "Profile", "ProfileStore", "TuningObserver", "apply", "autotune", "restore", "strategy_for",
]  # fmt: skip


__getattr__, __dir__ = load_lazily(
    __name__, {name: f"mspipe_triton.tuning.{module}" for name, module in _PUBLIC.items()}
)
