"""The verdict on a run: notes that say that its scores are bad, and what usually helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mspipe_triton.choices import either
from mspipe_triton.config import MODELS
from mspipe_triton.evaluation.baselines import NAMES

# Adam moves a weight by about the learning rate per iteration: in 100 iterations at 0.001 by 0.1, the size of initial
# weights at width 100. On the first 10,000 events of streams, AP rises with more iterations up to about there.
FEW_ITERATIONS = 100
_METRICS = ("ap", "auc", "mrr")
_SMALL_BATCH = 10  # events; with fewer, an epoch takes long
_FALLING = 2  # epochs after the best one that show that more of them do not help
_PATIENCE = 3  # epochs, at most, to wait for a better one


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on the faults of a run's test scores, followed by advice; none if there are no faults.

    A score is a fault if it is below 1 and not above the best baseline's, or if it is an AUC that is not above 0.5 by
    two standard errors.

    Args:
        result: the content of `result.json`.
    """
    faults = [*behind_baselines(result["test"]), *_at_chance(result["test"], result["split_events"]["test"])]
    return [*faults, _advice(result)] if faults else []


def behind_baselines(test: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the test scores that are below 1 and not above the best baseline's; none if all are."""
    best = {metric: max(NAMES, key=lambda name: test[name][metric]) for metric in _METRICS}
    scores = {
        metric: f"{metric.upper()} {test[metric]:.4f} against {test[name][metric]:.4f} ({NAMES[name]})"
        for metric, name in best.items()
        if _behind(test, name, metric)
    }
    if not scores:
        return []
    beats = either([metric.upper() for metric in _METRICS if metric not in scores], "and")
    lacks = either([metric.upper() for metric in scores])
    start = f"beats the best baseline in {beats}, but not in {lacks}" if beats else "does not beat the best baseline"
    return [f"On test, the model {start}: {', '.join(scores.values())}."]


def _behind(test: Mapping[str, Any], name: str, metric: str) -> bool:
    """Return True if the model's score is below 1 and not above the baseline's."""
    return bool(test[metric] != 1 and not test[metric] > test[name][metric])


def _at_chance(test: Mapping[str, Any], events: int) -> list[str]:
    scores = [("AUC", test["auc"], events, events)]
    if "node" in test and test["node"]["auc"] is not None:
        node = test["node"]
        scores.append(("AUC of labels", node["auc"], node["positives"], node["events"] - node["positives"]))
    notes = []
    for name, auc, positives, negatives in scores:
        # The Mann-Whitney statistic's standard error where positives and negatives score alike.
        error = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
        if not auc > 0.5 + 2 * error:
            notes.append(
                f"On test, the {name} is {auc:.4f}, no better than chance: 0.5 ± {2 * error:.4f} (two standard errors)."
            )
    return notes


def _advice(result: Mapping[str, Any]) -> str:
    events, size, epochs = result["split_events"]["train"], result["batch_size"], result["epochs"]
    iterations = math.ceil(events / size)
    plural = "" if iterations == 1 else "s"
    training = f"Training had {iterations:,} iteration{plural} per epoch, {iterations * epochs:,} in all"
    behind = any(_behind(result["test"], "pair_features", metric) for metric in _METRICS)
    free = not result.get("history")  # a run that continues another has its model
    options = ["--pair-features"] if free and behind and not result.get("pair_features", False) else []
    falls = epochs - result["best_epoch"] >= _FALLING
    end = f" {_overfitting(result, free)}" if falls else ""
    if iterations < FEW_ITERATIONS:
        smaller = max(_SMALL_BATCH, _rounded(events / (2 * FEW_ITERATIONS)))
        shrinks = smaller < size and result["protocol"] == "default"  # other protocols prescribe the batch size
        options += [f"--batch-size {smaller} ({math.ceil(events / smaller):,} per epoch)"] if shrinks else []
        options += [] if falls else ["more --epochs"]
        tries = f": try {_either(options)}" if options else ""
        return f"{training}, which is few{tries}.{end}"
    if result["best_epoch"] == epochs:
        options.append(f"--epochs {2 * epochs}")
        return f"{training}, and its last epoch was the best: try {_either(options)}; --resume continues this run."
    options += ["a smaller --lr", *(["another --model"] if free else [])]
    best = "" if falls else f", and epoch {result['best_epoch']} was the best"
    return f"{training}{best}: try {_either(options)}.{end}"


def _overfitting(result: Mapping[str, Any], free: bool) -> str:
    """Return a sentence on a run whose best epoch is long past, with the flags against overfitting that it lacks."""
    best, epochs = result["best_epoch"], result["epochs"]
    options = [] if result["patience"] else [f"--patience {min(_PATIENCE, epochs - best)}"]
    if free and "heads" in MODELS.get(result["model"], {}):  # dropout is in attention layers
        options.append("--dropout 0.1")
    options += [] if result["weight_decay"] else ["--weight-decay 0.01"]
    tries = f"; try {_either(options)}" if options else ""
    return f"Validation AP has fallen since epoch {best} of {epochs}: more epochs do not help{tries}."


def _either(options: list[str]) -> str:
    """Join options as in "a, b or c"."""
    return " or ".join(part for part in (", ".join(options[:-1]), options[-1]) if part)


def _rounded(size: float) -> int:
    """Round a batch size to one digit."""
    return int(float(f"{size:.0e}"))
