"""Tuning on a GPU: settings that may be chosen compute the same, then kernels and runs are tuned, model by model.

Writes gpu-tuning.json. `--device cpu --quick` tries the script itself; its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.gpu import commit, gpu, versions
from bench.machine import machine
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.training.settings import default_settings
from mspipe_triton.tuning import ProfileStore, autotune
from mspipe_triton.tuning.run_gate import RunGate

FILE = "gpu-tuning.json"
MODELS = ("tgn", "jodie", "apan", "tgat")


def main() -> int:
    """Check, tune, write; 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="bench.gpu_tuning", description=__doc__)
    parser.add_argument("out", type=Path, help=f"folder for {FILE}, the profiles and the studies")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny stream and no figure that means anything")
    parser.add_argument("--budget", type=float, default=90.0, help="seconds of tuning a model")
    parser.add_argument("--commit", default=None, help="what is measured, where git cannot say")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--device cpu --quick` tries the script on the CPU")
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = {"events": 1800, "edge_features": 4} if given.quick else {"events": 40_000, "edge_features": 172}
    stream, size = synthetic_stream(SyntheticConfig(**sizes)), 100 if given.quick else 600
    configs = {
        name: RunConfig(
            model=ModelConfig(name), train=TrainConfig(batch_size=size, device=given.device, placement="host")
        )
        for name in MODELS[: 1 if given.quick else None]
    }
    report: dict[str, Any] = {
        "command": " ".join(["python -m bench.gpu_tuning", *sys.argv[1:]]),
        "commit": given.commit or commit(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": given.quick, "machine": {**machine(), **(gpu() if given.device == "cuda" else {})},
        "versions": versions(), "correctness": [row for each in configs.values() for row in checks(each, stream)],
    }  # fmt: skip
    failed = [check for check in report["correctness"] if not check["passed"]]
    if not failed:
        store, budget = ProfileStore(given.out), 3.0 if given.quick else given.budget
        report["profiles"] = {
            name: autotune(config, stream, budget, store).to_json() for name, config in configs.items()
        }
    (given.out / FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    return 1 if failed else 0


def checks(config: RunConfig, stream: EventStream) -> list[dict[str, Any]]:
    """Whether each way of bringing rows to the device, under each schedule, computes what the shipped way does."""
    gate, shipped, found = RunGate(config, stream), default_settings(config.train), []
    for schedule, features, gather in product(("serial", "exact"), ("host", "device"), ("copy", "kernel")):
        reason = gate.refusal(replace(shipped, schedule=schedule, features=features, gather=gather))
        row = {"model": config.model.model, "schedule": schedule, "features": features, "gather": gather}
        found.append({**row, "passed": reason is None, "reason": reason})
    return found


def show(report: dict[str, Any]) -> None:
    """A line a check, then a line a model and one for each kernel that was tuned."""
    for check in report["correctness"]:
        word = "passed" if check["passed"] else f"FAILED: {check['reason']}"
        print(f"{check['model']:<6}{check['schedule']:<8}{check['features']:<8}{check['gather']:<8}{word}")
    for model, profile in report.get("profiles", {}).items():
        facts = profile["search"]
        gain = "none" if facts["gain"] is None else f"{facts['gain']:+.1%}, noise {facts['noise']:.1%}"
        print(f"{model:<6}{profile['settings']}; gain {gain}, shipped kept: {facts['shipped_kept']}")
        for kernel, variants in profile["kernels"].items():
            print(f"      {kernel}: {variants}")
        print(f"      {profile['variants']}")


if __name__ == "__main__":
    raise SystemExit(main())
