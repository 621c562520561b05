"""Metrics against their definitions."""

from __future__ import annotations

import pytest
import torch
import torchmetrics.functional.classification  # noqa: F401  # its first use loads it, which takes longer than an example may
from hypothesis import given
from hypothesis import strategies as st

from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.iteration.step import reciprocal_ranks

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=25)


def plain_ap(positive: list[int], negative: list[int]) -> float:
    """Sum of recall step · precision over distinct thresholds, from the highest down."""
    total, before = 0.0, 0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits, false = sum(p >= threshold for p in positive), sum(n >= threshold for n in negative)
        total += (hits - before) / len(positive) * hits / (hits + false)
        before = hits
    return total


@given(SCORES)
def test_ap_and_auc_by_definition(scores: list[tuple[int, int]]) -> None:
    positive, negative = (list(column) for column in zip(*scores, strict=True))
    result = summarise(Predictions(torch.tensor(positive), torch.tensor(negative), None, [len(scores)]))
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert result["ap"] == pytest.approx(plain_ap(positive, negative), abs=1e-6)
    assert result["auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert result["mrr"] is None


def test_large_logits_do_not_tie() -> None:
    predictions = Predictions(torch.tensor([40.0, 30.0]), torch.tensor([35.0, 25.0]), None, [2])
    assert summarise(predictions)["auc"] == 0.75


def test_mean_over_batches_and_masks() -> None:
    positive, negative = torch.tensor([3.0, 1.0, 5.0]), torch.tensor([2.0, 2.0, 0.0])
    predictions = Predictions(positive, negative, torch.tensor([1.0, 0.5, 0.25]).double(), [2, 1])
    result = summarise(predictions)
    assert result["ap_batch_mean"] == pytest.approx((plain_ap([3, 1], [2, 2]) + 1.0) / 2)
    assert result["mrr"] == pytest.approx(1.75 / 3)
    assert summarise(predictions, torch.tensor([False, True, False]))["mrr"] == 0.5
    assert summarise(predictions, torch.zeros(3, dtype=torch.bool)) == {"ap": None, "auc": None, "mrr": None}


def test_ties_share_their_mean_rank() -> None:
    candidates = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert reciprocal_ranks(torch.tensor([2.0, 1.0, 1.0]), candidates).tolist() == [1 / 2.5, 1 / 2.5, 1.0]
