"""Checks of the schedules with memory and features in host memory, against the CPU in float64, and their speed."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from bench.gpu.bundle.references import Results, reference
from bench.gpu.setup import Rows, Setup
from bench.roofline import matmul_precision
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.training.staged import Staged

SCHEDULES = ("serial", "prefetch", "mspipe", "exact")
CHECKS: dict[str, dict[str, Any]] = {
    "serial": {"schedule": "serial"},
    "prefetch": {"schedule": "prefetch"},
    "exact": {"schedule": "exact"},
    "fixed 2": {"schedule": "fixed", "staleness": 2},
}
TOLERANCE = 1e-9
CHECK_BATCHES = 12
REPEATS = 3


def losses(setup: Setup, kind: str, name: str) -> Rows:
    """Compare float64 losses with the CPU's: fixed with its own, every schedule without staleness with serial's."""
    truth = on_cpu(setup, kind, "fixed 2" if name == "fixed 2" else "serial")
    actual = torch.tensor(_losses(setup, setup.device, kind, CHECKS[name]), dtype=torch.float64)
    error = float(((actual - truth["losses"]) / truth["losses"]).abs().max())
    row = {"check": "losses", "model": kind, "schedule": name, "iterations": actual.numel(), "relative_error": error}
    yield "correctness", {**row, "reference_kept": truth["kept"], "passed": setup.verdict(error <= TOLERANCE)}


def on_cpu(setup: Setup, kind: str, name: str) -> Results:
    """Return a schedule's losses [12] on the CPU."""

    def compute() -> Results:
        return {"losses": torch.tensor(_losses(setup, "cpu", kind, CHECKS[name]), dtype=torch.float64)}

    return reference(setup, f"schedule {kind} {name}", setup.synthetic(), compute)


def _losses(setup: Setup, device: str, kind: str, settings: dict[str, Any]) -> list[float]:
    size = 100 if setup.quick else 600
    model = ModelConfig(model=kind, dtype="float64", dim=32)
    run = _build(setup.synthetic(), device, size, settings, model)
    stop = size * min(CHECK_BATCHES, run.session.split.train_end // size)
    return run.train_epoch(1, stop=stop).losses.tolist()


def _build(stream: EventStream, device: str, size: int, settings: dict[str, Any], model: ModelConfig) -> Staged:
    train = TrainConfig(batch_size=size, device=device, placement="host", **settings)
    return Staged(Session.create(RunConfig(model=model, train=train), stream))


def speeds(setup: Setup, kind: str) -> Rows:
    """Time every schedule with rows in host memory, with the fastest float32 matmul."""
    size = 20 if setup.quick else 600
    with matmul_precision(setup.fastest):
        figures = measure(setup, setup.synthetic(), kind, size)
    yield "host", {"model": kind, "precision": next(iter(setup.precisions)), **figures}


def measure(setup: Setup, stream: EventStream, kind: str, size: int) -> dict[str, Any]:
    """Time iterations of every schedule, which take turns epoch by epoch; the first epoch of each does not count."""
    model = ModelConfig(model=kind)
    runs = {name: _build(stream, setup.device, size, {"schedule": name}, model) for name in SCHEDULES}
    seconds: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    times = {name: StageTimes() for name in SCHEDULES}
    for epoch in range(setup.rounds(REPEATS) + 1):
        for name, run in runs.items():
            run.session.state.reset()
            run.session.model.train()
            stage_times = times[name] if epoch else StageTimes()
            items = run.training_batches(epoch, setup.stop(run.session.split.train_end, size))
            start = time.perf_counter()
            iterations = sum(1 for _ in run.run(items, epoch, stage_times))
            run.settle()
            if epoch:
                seconds[name].append((time.perf_counter() - start) / iterations)
    stages = {name: times[name].per_iteration() for name in SCHEDULES}
    plans = {name: runs[name].planner.plan_for(stages[name]) for name in SCHEDULES}
    result: dict[str, Any] = {"batch_size": size, "dim_edge": stream.dim_edge}
    for name in SCHEDULES:
        ratios = [serial / other for serial, other in zip(seconds["serial"], seconds[name], strict=True)]
        allowed = sum(stages["serial"].values()) / float(plans[name].period)
        ratio = statistics.median(ratios)
        result[name] = {
            "seconds_per_iteration": statistics.median(seconds[name]),
            "events_per_s": size / statistics.median(seconds[name]),
            "speed_ratio": ratio,
            "allowed_ratio": allowed,
            "share_of_allowed": ratio / allowed,
            "stage_seconds": stages[name],
            "plan": plans[name].to_json(),
        }
    return result
