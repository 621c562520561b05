"""The measurement of the predictor: its quantiles, a short run, and the committed figures against their targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.predictor.__main__ import Events, ages, latencies, quantiles, throughput
from bench.report import RESULTS
from mspipe_triton import load
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from tests.serving.served import trained


def test_quantiles_are_in_milliseconds() -> None:
    facts = quantiles([0.001 * number for number in range(200, 0, -1)])
    assert facts == pytest.approx({"calls": 200, "p50": 101, "p99": 199, "max": 200})


def test_a_short_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = synthetic_stream(SyntheticConfig(events=1500, users=60, items=30))
    monkeypatch.setattr("bench.predictor.__main__.WARM_UP", 2)
    monkeypatch.setattr("bench.predictor.__main__.load", lambda run, at: load(run, at=at, stream=stream))
    run, events, split = trained(tmp_path, stream, "tgn"), Events.of(stream), stream.split()
    rates = throughput(lambda: load(run, stream=stream, at="training"), events, split.train_end, split.val_end)
    assert rates["observe_events_per_s"] > 0
    facts = latencies(load(run, stream=stream, at=int(stream.t[split.val_end])), events, split.val_end, 20)
    assert facts["observe"]["calls"] == 20
    assert facts["observe_and_rank_exact"]["p50"] <= facts["observe_and_rank_exact"]["p99"]
    rows = ages(str(run), stream, events, split.val_end, 30)
    assert [row["share"] for row in rows] == [0.0, 0.1, 0.25, 0.5, 1.0, 2.0]
    assert all(0 < row["mrr"] <= 1 and row["events"] <= 30 for row in rows)
    computed = [row["computed"] for row in rows]
    assert computed == sorted(computed, reverse=True), "a larger age computes fewer embeddings"


def test_committed_figures_reach_the_targets() -> None:
    report = json.loads((RESULTS / "predictor-wiki.json").read_text(encoding="utf-8"))
    latency, rows = report["latency_ms"], report["mrr"]
    assert report["batches"]["observe_events_per_s"] >= 10_000
    assert latency["candidates"] >= 990
    assert latency["observe"]["p99"] <= 5
    assert latency["observe_and_rank_cached"]["p50"] <= 3
    assert latency["observe_and_rank_exact"]["p50"] <= 15
    assert latency["observe_and_rank_exact"]["p99"] <= 30
    assert all(abs(row["mrr"] - rows[0]["mrr"]) < 0.001 for row in rows)
