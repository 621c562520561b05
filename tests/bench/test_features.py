"""The comparison of raw and scaled columns: its streams, its arithmetic, and the limit of the committed runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.studies.features import COLUMNS, compared, variants
from mspipe_triton.data.events import EventStream

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


@pytest.mark.parametrize("column", COLUMNS)
def test_variants_differ_in_scale_alone(column: str, small_stream: EventStream) -> None:
    streams = variants(small_stream, column)
    raw, scaled = (streams[name].edge_features for name in ("raw", "scaled"))
    assert raw is not None
    assert scaled is not None
    assert (scaled[raw[:, 0].argsort()].diff(dim=0) >= 0).all()
    part = scaled[: small_stream.split().train_end].double()
    assert abs(part.mean()) < 0.1, "clipping moves the mean a little"
    assert 0.8 < part.std() <= 1.001


def test_points_are_differences_of_mean_scores() -> None:
    result = compared({"ap": 0.8, "seeds": [0.8]}, {"ap": 0.6, "seeds": [0.6]}, {"ap": 0.81, "seeds": [0.81]})
    assert result["raw_minus_none"] == pytest.approx(-20)
    assert result["scaled_minus_none"] == pytest.approx(1)


def test_scaled_columns_cost_less_than_a_point() -> None:
    report = json.loads((RESULTS / "features.json").read_text(encoding="utf-8"))
    assert len(report["none"]["seeds"]) >= 5
    for name in COLUMNS:
        column = report["columns"][name]
        assert column == compared(report["none"], column["raw"], column["scaled"])
        assert column["scaled_minus_none"] > -1, name
