"""Link-prediction metrics: average precision, AUC and mean reciprocal rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Predictions:
    """Scores of a range of events: positives [E], negatives [E], reciprocal ranks [E] or None, and batch sizes."""

    positive: torch.Tensor
    negative: torch.Tensor
    reciprocal_ranks: torch.Tensor | None
    batch_sizes: list[int]


def area_under_curve(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Return the area under the receiver operating characteristic, over all scores together."""
    return _roc_area(*_scores_and_labels(positive, negative))


def average_precision(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Return the area under the precision-recall curve, over all scores together."""
    return _precision_recall_area(*_scores_and_labels(positive, negative))


def summarise(predictions: Predictions, mask: torch.Tensor | None = None) -> dict[str, float | None]:
    """Compute `ap`, `auc` and `mrr` over all predictions, or over the events in `mask` [E]; without it `ap_batch_mean`.

    `ap_batch_mean` is the mean of the batches' average precisions, which TGL and MSPipe report. Metrics over no events
    are None, and so is `mrr` without ranking.
    """
    positive, negative, ranks = predictions.positive, predictions.negative, predictions.reciprocal_ranks
    result: dict[str, float | None] = {}
    if mask is None:
        parts = zip(positive.split(predictions.batch_sizes), negative.split(predictions.batch_sizes), strict=True)
        precisions = [average_precision(*part) for part in parts]
        result["ap_batch_mean"] = sum(precisions) / len(precisions)
    else:
        positive, negative = positive[mask], negative[mask]
        ranks = None if ranks is None else ranks[mask]
    if positive.numel() == 0:
        return {"ap": None, "auc": None, "mrr": None}
    scores, labels = _scores_and_labels(positive, negative)
    result["ap"] = _precision_recall_area(scores, labels)
    result["auc"] = _roc_area(scores, labels)
    result["mrr"] = None if ranks is None else float(ranks.mean())
    return result


def _scores_and_labels(positive: torch.Tensor, negative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # torchmetrics would apply a sigmoid to logits, and large ones would tie at 1; ranks keep the order exactly.
    _, ranks = torch.cat([positive, negative]).unique(return_inverse=True)
    scores = ranks.double() / max(1, int(ranks.max()))
    return scores, torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).long()


# torchmetrics imports matplotlib where it is installed, which takes some tenths of a second: not before it is used.
def _roc_area(scores: torch.Tensor, labels: torch.Tensor) -> float:
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(scores, labels))


def _precision_recall_area(scores: torch.Tensor, labels: torch.Tensor) -> float:
    from torchmetrics.functional.classification import binary_average_precision

    return float(binary_average_precision(scores, labels))
