"""The result of a run, the content of `result.json` without its notes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mspipe_triton.kernels.runtime.fusion import fusion_enabled
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.training.stopping import stops
from mspipe_triton.training.strategy import Strategy
from mspipe_triton.training.usage import peak_device_mb, peak_rss_mb, versions
from mspipe_triton.training.way import Way

# Settings of training in `result.json`.
_SETTINGS = (
    "lr", "lr_schedule", "warmup", "weight_decay", "clip_norm", "patience", "loss", "train_negatives", "negative_kind",
    "negatives",
)  # fmt: skip
_PEAKS = ("peak_rss_mb", "peak_device_mb")


def peaks_since(result: Mapping[str, Any], earlier: Path) -> dict[str, float]:
    """Return the peaks of memory in a result, or in the file of an earlier process of the run, if they are higher."""
    try:
        before = json.loads(earlier.read_text(encoding="utf-8"))
        return {name: max(result[name], float(before[name])) for name in _PEAKS}
    except (OSError, ValueError, KeyError, TypeError):
        return {name: result[name] for name in _PEAKS}


def result_of(
    way: Way, strategy: Strategy, history: Sequence[dict[str, Any]], evaluation: Mapping[str, dict[str, Any]],
    seconds: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return the result of a run.

    Args:
        way, strategy: of the run, after its last epoch.
        history: metrics by epoch.
        evaluation: scores of the best epoch by split.
        seconds: of the start and of the evaluation, by their names in the result.
    """
    session, config = way.session, way.session.config
    # A run resumed on another number of cores or ranks may use another schedule, whose epochs have other stages.
    stages = set(stage_names(way.schedule, shared=not session.ranks.alone))
    same_stages = [epoch for epoch in history if epoch["stage_seconds"].keys() == stages]
    fastest = min(same_stages or history, key=lambda epoch: epoch["seconds"])
    best = max(history, key=lambda epoch: (epoch["val"]["ap"], -epoch["epoch"]))
    staleness = sum((Counter(epoch["staleness_measured"]) for epoch in history), Counter[str]())
    scores = [epoch["val"]["ap"] for epoch in history]
    return {
        "model": config.model.model,
        "task": config.train.task,
        "dataset": session.stream.name,
        "events": len(session.stream),
        "history": session.stream.start,
        "nodes": session.stream.num_nodes,
        "split_events": {
            "train": session.training_events,
            **{split: stop - first for split, (first, stop, _) in way.spans().items()},
        },
        "schedule": way.schedule,
        "backend": "torch",
        "fused": fusion_enabled(),
        "device": session.state.placement.device.type,
        "ranks": session.ranks.count,
        "batch_size": config.train.batch_size,
        "epochs": len(history),
        "stopped_early": len(history) < config.train.epochs and stops(scores, config.train.patience),
        "seed": config.train.seed,
        "train_events_per_s": fastest["events_per_s"],
        "epoch_seconds": [epoch["seconds"] for epoch in history],
        "compile_seconds": sum(epoch["compile_seconds"] for epoch in history),
        **seconds,
        "best_epoch": best["epoch"],
        **{name: getattr(config.train, name) for name in _SETTINGS},
        "protocol": config.train.protocol,
        "pair_features": config.model.pair_features,
        **evaluation,
        "losses": [epoch["loss"] for epoch in history],
        "stage_seconds": fastest["stage_seconds"],
        "exchange": fastest.get("exchange"),
        "settings": asdict(way.session.settings),
        "captured": fastest.get("captured", False),
        "tuning": strategy.result(fastest["stage_seconds"]),
        "plan": way.plan(fastest["stage_seconds"]) if same_stages else None,
        "staleness_measured": dict(sorted(staleness.items(), key=lambda item: int(item[0]))),
        "peak_rss_mb": peak_rss_mb(),
        "peak_device_mb": peak_device_mb(session.state.placement.device),
        "versions": versions(),
    }
