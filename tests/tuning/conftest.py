"""Fixtures of the tuning tests: a key, its profile, and a store in an empty folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from mspipe_triton.data.events import EventStream
from mspipe_triton.execution import RunSettings
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.profile import Profile
from mspipe_triton.tuning.profile.store import ProfileStore
from tests.tuning.profile.profile_case import ATTENTION, CONFIG, STAGES, configuration


@pytest.fixture
def key(small_stream: EventStream) -> Key:
    return Key.of(CONFIG, small_stream)


@pytest.fixture
def profile(key: Key) -> Profile:
    return Profile(
        key=key,
        dataset="wiki.csv",
        created="2026-01-31T12:00:00+00:00",
        settings=asdict(RunSettings(schedule="exact", prefetch=4, threads=2)),
        kernels={
            "attention_kernel": {"float32": ATTENTION},
            "unique_count_kernel": {"float32": configuration({}, 1, 2)},
        },
        variants={"memory_gru": "split"},
        stage_seconds={name: {"median": time, "p90": 2 * time, "mean": time} for name, time in STAGES.items()},
        plan=make_plan("exact", STAGES).to_json(),
        search={"budget": 60.0, "trials": 17, "gain": 1.2, "kept_default": False},
    )


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")
