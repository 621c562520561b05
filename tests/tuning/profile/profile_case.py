"""A run, parts of a profile, and helpers that save profiles and list files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.tuning.profile.profile import Profile
from mspipe_triton.tuning.profile.store import ProfileStore

CONFIG = RunConfig(model=ModelConfig(dim=8), train=TrainConfig(batch_size=100))
ATTENTION = {"blocks": {"BLOCK": 32, "HELD": 4096}, "num_warps": 2, "num_stages": 1}
STAGES = {"sample": 2e-3, "features": 1e-3, "memory": 2e-3, "patch": 1e-4, "train": 6e-3, "update": 3e-3}


def configuration(blocks: dict[str, int], num_warps: int, num_stages: int) -> dict[str, Any]:
    """Return a kernel's configuration in the format of a profile."""
    return {"blocks": blocks, "num_warps": num_warps, "num_stages": num_stages}


def save(store: ProfileStore, profile: Profile) -> Path:
    """Save a profile, and fail the test if that fails."""
    path = store.save(profile)
    assert path is not None, store.notices
    return path


def files(store: ProfileStore) -> list[str]:
    """Return the names of all files in a store."""
    return sorted(path.name for path in store.folder.iterdir())
