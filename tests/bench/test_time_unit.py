"""The study of time encoders: its encoders, its arithmetic, its store of runs, and the committed runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.studies.time_unit import ENCODERS, Encoder, compared, jittered, main, node_gap
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.time_scale import TimeScale

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def test_node_gaps_are_of_training_events() -> None:
    src, dst, t = [0, 0, 1, 0, 1, 0], [2, 3, 2, 2, 3, 2], [0, 5, 7, 7, 20, 21]
    stream = EventStream(torch.tensor(src), torch.tensor(dst), torch.tensor(t))
    assert node_gap(stream, 2, 0.01) == 5, "node 0"
    assert node_gap(stream, 4, 0.01) == 2, "nodes 0 and 2; the gap 0 does not count"
    assert node_gap(stream, 4, 0.5) == 5
    assert node_gap(replace(stream, t=stream.t * 10), 4, 0.01) == 20


def test_jitter_keeps_the_seconds(small_stream: EventStream) -> None:
    stream = jittered(small_stream)
    assert torch.equal(stream.t.floor(), small_stream.t.double())
    assert stream.t.unique().numel() == len(stream)


def test_encoders_replace_the_packages_while_they_are_used(small_stream: EventStream) -> None:
    stop, before = small_stream.split().train_end, TimeScale.of
    encoders = {name: Encoder.of(name, small_stream) for name in ENCODERS}
    for encoder in encoders.values():
        with encoder.used():
            scale = TimeScale.of(small_stream.t, stop)
        assert scale == TimeScale(small_stream.t[0].item(), encoder.gap, encoder.decades)
    assert TimeScale.of is before
    span = (small_stream.t[stop - 1] - small_stream.t[0]).item()
    assert encoders["span"].gap * 10 ** encoders["span"].decades == pytest.approx(span, rel=1e-12)
    ours = TimeScale.of(small_stream.t, stop)
    assert encoders["resolution"] == Encoder(ours.gap, ours.decades)


def test_points_are_of_pairs() -> None:
    ours, theirs = [{"ap": 0.5}, {"ap": 0.6}], [{"ap": 0.52}, {"ap": 0.66}]
    points = compared(ours, theirs)
    assert points["points"] == pytest.approx(4)
    assert points["standard_error"] == pytest.approx(math.sqrt(8) / math.sqrt(2))
    assert compared(ours[:1], theirs[:1])["standard_error"] is None


def test_finished_runs_are_not_repeated(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setattr("bench.studies.time_unit.load_stream", lambda data: small_stream)
    out, store = tmp_path / "study.json", tmp_path / "study.jsonl"

    def study(seeds: int) -> list[float]:
        main(
            "x.csv",
            "resolution,span",
            "days",
            False,
            "jodie",
            epochs=1,
            seeds=seeds,
            batch_size=200,
            threads=1,
            out=out,
        )
        report = json.loads(out.read_text(encoding="utf-8"))
        assert report["units"]["days"]["resolution"] == report["encoders"]["resolution"]["seeds"][0]
        assert not store.exists()
        return [row["ap"] for row in report["encoders"]["span"]["seeds"]]

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changes:
        changes.setattr("bench.studies.time_unit.in_unit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study(1)
    lines = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    assert [(line["key"]["encoder"], line["key"]["seed"]) for line in lines] == [("resolution", 0), ("span", 0)]
    lines[1]["result"]["ap"] = 2.0
    store.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    results = study(2)
    assert results[0] == 2.0, "read from the file"
    assert 0 < results[1] <= 1


def test_the_unit_changes_nothing_in_the_committed_runs() -> None:
    for path in RESULTS.glob("time-unit-*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        encoders = report["encoders"]
        for encoder in encoders.values():
            assert compared(encoders["resolution"]["seeds"], encoder["seeds"]).items() <= encoder.items()
        for unit, runs in report["units"].items():
            assert runs["resolution"] == encoders["resolution"]["seeds"][0], (path.name, unit)
