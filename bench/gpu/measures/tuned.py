"""Tuning on a GPU: checks that all candidate settings compute the same, and a tuning run within a budget."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from bench.gpu.setup import Rows, Setup
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.errors import TrainingError
from mspipe_triton.settings import default_settings
from mspipe_triton.tuning import ProfileStore, autotune
from mspipe_triton.tuning.runs.gate import RunGate


def checks(setup: Setup, kind: str, schedule: str, features: str, gather: str) -> Rows:
    """Check that a way of moving rows to the device, under a schedule, gives the results of the shipped way."""
    config = _config(setup, kind)
    settings = replace(default_settings(config.train), schedule=schedule, features=features, gather=gather)
    try:
        reason = RunGate(config, setup.synthetic(), poison=not setup.stub).refusal(settings)
    except TrainingError as error:  # the shipped settings fail too; on a stub, whatever memory held is their result
        reason = str(error)
    row = {"check": "settings", "model": kind, "schedule": schedule, "features": features, "gather": gather}
    yield "correctness", {**row, "passed": setup.verdict(reason is None), "reason": reason}


def tuning(setup: Setup, kind: str, budget: float) -> Rows:
    """Tune a model for `budget` seconds and report its profile."""
    with tempfile.TemporaryDirectory() as folder:
        store, config = ProfileStore(Path(folder)), _config(setup, kind)
        profile = autotune(config, setup.synthetic(), 3.0 if setup.quick else budget, store)
    yield "tuned", {"model": kind, "budget": budget, "profile": profile.to_json()}


def _config(setup: Setup, kind: str) -> RunConfig:
    size = 100 if setup.quick else 600
    return RunConfig(model=ModelConfig(kind), train=TrainConfig(batch_size=size, device=setup.device, placement="host"))
