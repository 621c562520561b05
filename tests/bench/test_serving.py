"""The measurement of the service: short runs of its parts on a small stream, and what counts as lost or doubled."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.predictor.__main__ import Events
from bench.report import RESULTS
from bench.serving.__main__ import PARTS, measured
from bench.serving.client import FAULTS, Continuation, Load
from bench.serving.load import measure_load, outcome
from mspipe_triton import read_stream
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from tests.serving.served import trained

ENDPOINTS = {"observe", "rank_exact", "rank_cached", "score", "score_100", "embed_100"}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> EventStream:
    """A small stream, in a file."""
    path = tmp_path_factory.mktemp("stream") / "small.csv"
    write_stream(synthetic_stream(SyntheticConfig(events=1500, users=60, items=30)), path, False)
    return read_stream(path)


@pytest.fixture(scope="module")
def run(stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), stream, "tgn")


@pytest.mark.slow
def test_a_short_load(run: Path, stream: EventStream, tmp_path: Path) -> None:
    facts = measure_load(run, tmp_path, Events.of(stream), "cached", 1.0)
    check_load(facts)
    assert facts["seconds"] >= 1.0


def check_load(facts: dict[str, Any]) -> None:
    assert facts["replay_equal"]
    assert facts["faults_not_refused"] == []
    assert facts["answers"].keys() >= {"observe 200", "rank 200", "fault 400", "fault 422"}
    assert not [each for each in facts["answers"] if each.split()[1] >= "500"]
    assert facts["latency_ms"].keys() == {"observe", "rank", "fault"}
    assert all(0 < each["p50"] <= each["p99"] <= each["max"] for each in facts["latency_ms"].values())
    assert 0 < facts["server_cpu_share"] < 8
    assert 0 < facts["clients_cpu_share"] < 1
    assert (facts["lost"], facts["doubled"]) == (0, 0)
    assert facts["found_once"] == facts["acknowledged"] == facts["logged"] == facts["answers"]["observe 200"]


@pytest.mark.slow
def test_a_short_measurement_of_each_endpoint(run: Path, stream: EventStream) -> None:
    report = measured(run, stream, ["latency"], 0, 3, 0, 0)
    assert report.keys() == {"latency"}
    assert report["latency"].keys() == ENDPOINTS
    assert all(each["calls"] == 3 for each in report["latency"].values())


@pytest.mark.slow
def test_all_parts(run: Path, stream: EventStream) -> None:
    report = measured(run, stream, PARTS, 4.0, 5, 3, 4000)
    assert tuple(report) == PARTS
    assert [each["mode"] for each in report["load"]] == ["exact", "cached"]
    for each in report["load"]:
        check_load(each)
    rows = report["throughput"]
    assert [(row["batch"], row["form"], row["clients"]) for row in rows] == [
        (batch, form, clients) for batch in (1, 10, 200, 1000) for form in ("json", "arrow") for clients in (1, 4)
    ]
    assert all(row["events_per_s"] > 0 for row in rows)
    kills = report["kills"]
    assert (kills["kills"], kills["lost"], kills["doubled"]) == (3, 0, 0)
    assert kills["found_once"] == kills["acknowledged"] == kills["logged"] > 30
    assert 0 < kills["restart_seconds"]["p50"] <= kills["restart_seconds"]["max"]
    memory = report["memory"]
    assert [number for number, _ in memory["rss_mb"]] == [0, 1000, 2000, 3000, 4000]
    assert set(memory["table_bytes_per_event"]) == {
        "src", "dst", "t", "t as the user has it", "features", "adjacency", "pair index",
    }  # fmt: skip
    total = sum(memory["table_bytes_per_event"].values()) + memory["other_bytes_per_event"]
    assert total == pytest.approx(memory["rss_bytes_per_event"])
    assert all(memory[name] > 0 for name in ("events_per_s", "log_bytes_per_event", "snapshot_bytes", "stop_seconds"))
    assert all(memory[name] > 0 for name in ("snapshot_seconds", "restart_seconds", "rss_peak_mb"))


def test_committed_figures_hold_what_a_service_promises() -> None:
    report = json.loads((RESULTS / "serving-wiki.json").read_text(encoding="utf-8"))
    for load in report["load"]:
        check_load(load)
        assert (load["clients"], load["rate"], round(load["seconds"])) == (10, 100, 60)
        assert load["latency_ms"]["observe"]["per_s"] == pytest.approx(100, rel=0.01)
    kills, memory = report["kills"], report["memory"]
    assert (kills["kills"], kills["lost"], kills["doubled"]) == (20, 0, 0)
    assert kills["found_once"] == kills["acknowledged"] == kills["logged"]
    assert memory["events"] == 1_000_000
    assert memory["other_bytes_per_event"] < 0.25 * memory["rss_bytes_per_event"], "the rest is flat"


def test_lost_and_doubled_events_are_counted(stream: EventStream, tmp_path: Path) -> None:
    load = Load(Continuation(Events.of(stream), 100), 1, 1.0, "")
    load.acknowledged = {"a": (1, 2, 3), "b": (1, 2, 4), "c": (1, 2, 5)}
    with closing(sqlite3.connect(tmp_path / "events.db")) as database, database:
        database.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, key TEXT)")
        database.execute("CREATE TABLE events (entry, src, dst, t)")
        database.executemany("INSERT INTO entries VALUES (?, ?)", [(1, "a"), (2, "b"), (3, "b")])
        database.executemany("INSERT INTO events VALUES (?, 1, 2, ?)", [(1, 3), (2, 4), (3, 4)])
    assert outcome(load, tmp_path) == {"acknowledged": 3, "found_once": 1, "lost": 1, "doubled": 1, "logged": 3}


def test_events_go_on_after_the_last_one(stream: EventStream) -> None:
    events = Events.of(stream)
    continuation = Continuation(events, 3)
    rows = [continuation.next() for _ in range(6)]
    assert [t - int(events.t[-1]) for _, _, t in rows] == [1, 2, 3, 4, 5, 6]
    assert {(src, dst) for src, dst, _ in rows} == set(zip(events.src[-3:], events.dst[-3:], strict=True))
    assert len({fault.path for fault in FAULTS}) == 5
