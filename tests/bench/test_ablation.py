"""Arithmetic of the ablation: pairs by seed, the loss against serial and its error, the curve of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.studies.ablation import VARIANTS, Curve, _row, _summary

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def result(ap: float, speed: float, losses: list[float], missed: dict[str, int]) -> dict[str, Any]:
    return {
        "train_events_per_s": speed, "stage_seconds": {"memory": 0.002}, "plan": {"staleness": 1},
        "staleness_measured": missed, "losses": losses, "best_epoch": 1, "test": {"ap": ap, "auc": ap, "mrr": ap / 2},
    }  # fmt: skip


def test_schedules_are_compared_seed_by_seed() -> None:
    serial = [result(0.90, 100.0, [1.0, 0.5], {"0": 10}), result(0.92, 200.0, [1.1, 0.6], {"0": 10})]
    stale = [result(0.89, 150.0, [1.0, 0.5], {"0": 5, "2": 15}), result(0.925, 200.0, [1.1, 0.7], {"1": 20})]
    runs = {name: [_summary(each, []) for each in results] for name, results in (("serial", serial), ("mspipe", stale))}
    row = _row(runs, "mspipe")
    assert row["speed_ratio"] == pytest.approx((1.5 + 1.0) / 2)
    assert row["ap_points_lost"] == pytest.approx(100 * (0.01 - 0.005) / 2)
    error = 100 * 0.0075  # half the difference of two values, which is the standard error of their mean
    assert row["ap_points_lost_at_most"] == pytest.approx(0.25 + 2 * error)
    assert row["mean_staleness"] == pytest.approx((1.5 + 1.0) / 2)
    assert row["memory_ms"] == pytest.approx(2.0)
    assert not row["same_losses_as_serial"]
    assert _row(runs, "serial")["same_losses_as_serial"]


def test_a_curve_has_a_fixed_number_of_points_per_epoch() -> None:
    curve = Curve()
    for loss in range(400):
        curve.batch(1, 600, float(loss))
    points = curve.points(2)
    assert len(points) == 40
    assert points[0] == pytest.approx(4.5)
    assert points == sorted(points)


@pytest.mark.parametrize("stream", ["wiki", "uci"])
def test_committed_ablation_is_within_its_limits(stream: str) -> None:
    report = json.loads((RESULTS / f"ablation-{stream}.json").read_text(encoding="utf-8"))
    schedules = report["schedules"]
    assert list(schedules) == list(VARIANTS)
    assert schedules["mspipe"]["seeds"] >= 5
    assert schedules["mspipe"]["ap_points_lost_at_most"] <= 0.3
    for name in ("prefetch", "exact"):
        assert schedules[name]["ap_points_lost"] == pytest.approx(0, abs=1e-9)
        assert schedules[name]["same_losses_as_serial"]
        assert schedules[name]["mean_staleness"] == 0
