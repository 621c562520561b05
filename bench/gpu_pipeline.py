"""The schedules with memory and features in host memory beside a GPU: the same losses first, then their speed.

Writes gpu-pipeline.json. `--device cpu --quick` tries the script itself; its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu import commit, gpu, versions
from bench.machine import machine
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.training.batch import batches
from mspipe_triton.training.schedule import Scheduler
from mspipe_triton.training.session import Session

FILE = "gpu-pipeline.json"
MODELS = ("tgn", "jodie", "apan", "tgat")
MEASURED = ("serial", "prefetch", "mspipe", "exact")
CHECKED: dict[str, dict[str, Any]] = {
    "serial": {"schedule": "serial"},
    "prefetch": {"schedule": "prefetch"},
    "exact": {"schedule": "exact"},
    "fixed 2": {"schedule": "fixed", "staleness": 2},
}
TOLERANCE = 1e-9


def main() -> int:
    """Check, measure, write; 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="bench.gpu_pipeline", description=__doc__)
    parser.add_argument("out", type=Path, help=f"folder for {FILE}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny stream and no figure that means anything")
    parser.add_argument("--repeats", type=int, default=7, help="epochs of every schedule, in turn")
    parser.add_argument("--commit", default=None, help="what is measured, where git cannot say")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--device cpu --quick` tries the script on the CPU")
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = {"events": 1800, "edge_features": 4} if given.quick else {"events": 40_000, "edge_features": 172}
    stream = synthetic_stream(SyntheticConfig(**sizes))
    report: dict[str, Any] = {
        "command": " ".join(["python -m bench.gpu_pipeline", *sys.argv[1:]]),
        "commit": given.commit or commit(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": given.quick, "machine": {**machine(), **(gpu() if given.device == "cuda" else {})},
        "versions": versions(), "correctness": checks(stream, given.device, 100 if given.quick else 600),
    }  # fmt: skip
    failed = [check for check in report["correctness"] if not check["passed"]]
    if not failed:
        size = 100 if given.quick else 600
        repeats = 1 if given.quick else given.repeats
        report["measured"] = {name: measure(stream, name, given.device, size, repeats) for name in MODELS}
    (given.out / FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    return 1 if failed else 0


def checks(stream: EventStream, device: str, size: int, count: int = 12) -> list[dict[str, Any]]:
    """Losses in float64 against the CPU's: serial ones for every schedule without staleness, fixed's own for fixed."""
    found = []
    for kind in MODELS:
        model = ModelConfig(model=kind, dtype="float64", dim=32)
        for name, settings in CHECKED.items():
            alone = settings if name == "fixed 2" else CHECKED["serial"]
            expected = _losses(stream, "cpu", size, count, model, alone)
            ours = _losses(stream, device, size, count, model, settings)
            error = max(abs(a - b) / abs(b) for a, b in zip(ours, expected, strict=True))
            row = {"model": kind, "schedule": name, "iterations": count, "relative_error": error}
            found.append({**row, "passed": error <= TOLERANCE})
    return found


def _losses(
    stream: EventStream, device: str, size: int, count: int, model: ModelConfig, settings: dict[str, Any]
) -> list[float]:
    session = _session(stream, device, size, settings, model)
    items = batches(0, size * count, size, session.negatives, Purpose.TRAIN_NEGATIVES, 1)
    session.model.train()
    scheduler = Scheduler(session, lambda *_: None)
    return [float(done.loss) for done in scheduler.run(items, 1, StageTimes())]


def _session(stream: EventStream, device: str, size: int, settings: dict[str, Any], model: ModelConfig) -> Session:
    train = TrainConfig(batch_size=size, device=device, placement="host", **settings)
    return Session.create(RunConfig(model=model, train=train), stream)


def measure(stream: EventStream, kind: str, device: str, size: int, repeats: int) -> dict[str, Any]:
    """Seconds an iteration of every schedule, epoch by epoch in turn, after an epoch each that is not counted."""
    model = ModelConfig(model=kind)
    sessions = {name: _session(stream, device, size, {"schedule": name}, model) for name in MEASURED}
    schedulers = {name: Scheduler(session, lambda *_: None) for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in MEASURED}
    times = {name: StageTimes() for name in MEASURED}
    for epoch in range(repeats + 1):
        for name, session in sessions.items():
            session.state.reset()
            session.model.train()
            counted = times[name] if epoch else StageTimes()
            stop = session.split.train_end
            items = batches(0, stop, size, session.negatives, Purpose.TRAIN_NEGATIVES, epoch)
            start = time.perf_counter()
            iterations = sum(1 for _ in schedulers[name].run(items, epoch, counted))
            if device == "cuda":
                torch.cuda.synchronize()
            if epoch:
                seconds[name].append((time.perf_counter() - start) / iterations)
    stages = {name: times[name].per_iteration() for name in MEASURED}
    plans = {name: schedulers[name].planner.plan_for(stages[name]) for name in MEASURED}
    result: dict[str, Any] = {"batch_size": size, "dim_edge": stream.dim_edge}
    for name in MEASURED:
        ratios = [alone / own for alone, own in zip(seconds["serial"], seconds[name], strict=True)]
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


def show(report: dict[str, Any]) -> None:
    """A line a check, then a line a schedule."""
    for check in report["correctness"]:
        word = "passed" if check["passed"] else "FAILED"
        print(f"{check['model']:<6}{check['schedule']:<10}{word}, losses off by {check['relative_error']:.1e}")
    for model, name in [(model, name) for model in report.get("measured", {}) for name in MEASURED]:
        row = report["measured"][model][name]
        stages = "  ".join(f"{stage} {1e3 * seconds:.2f}" for stage, seconds in row["stage_seconds"].items())
        print(
            f"{model:<6}{name:<10}{1e3 * row['seconds_per_iteration']:7.2f} ms{row['events_per_s']:12,.0f} events/s"
            f"{row['speed_ratio']:7.2f} × serial, {row['share_of_allowed']:.0%} of what is allowed   ms: {stages}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
