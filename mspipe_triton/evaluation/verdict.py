"""The verdict on a run: notes that say that its scores are bad, and what usually helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Adam moves a weight by about the learning rate per iteration: in 100 iterations at 0.001 by 0.1, the size of initial
# weights at width 100. On the first 10,000 events of streams, AP rises with more iterations up to about there.
FEW_ITERATIONS = 100
_SMALL_BATCH = 10  # events; with fewer, an epoch takes long


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on the faults of a run's test scores, followed by advice; none if there are no faults.

    A score is a fault if it is below 1 and not above EdgeBank's, or if it is an AUC that is not above 0.5 by two
    standard errors.

    Args:
        result: the content of `result.json`.
    """
    faults = [*_behind_edgebank(result["test"]), *_at_chance(result["test"], result["split_events"]["test"])]
    return [*faults, _advice(result)] if faults else []


def _behind_edgebank(test: Mapping[str, Any]) -> list[str]:
    bank = test["edgebank"]
    scores = [
        f"{name.upper()} {test[name]:.4f} against {bank[name]:.4f}"
        for name in ("ap", "auc", "mrr")
        if not test[name] > bank[name] and test[name] != 1
    ]
    if not scores:
        return []
    return [f"On test, the model does not beat EdgeBank, which only remembers pairs: {', '.join(scores)}."]


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
    if iterations < FEW_ITERATIONS:
        smaller = max(_SMALL_BATCH, _rounded(events / (2 * FEW_ITERATIONS)))
        sizes = f"--batch-size {smaller} ({math.ceil(events / smaller):,} per epoch) or " if smaller < size else ""
        return f"{training}, which is few: try {sizes}more --epochs."
    if result["best_epoch"] == epochs:
        return f"{training}, and its last epoch was the best: try --epochs {2 * epochs}; --resume continues this run."
    return f"{training}, and epoch {result['best_epoch']} was the best: try a smaller --lr, or another --model."


def _rounded(size: float) -> int:
    """Round a batch size to one digit."""
    return int(float(f"{size:.0e}"))
