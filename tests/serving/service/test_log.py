"""The log of a service: what it keeps to the bit, its tables as other programs see them, and faults of the file."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import RunFolderError
from mspipe_triton.serving.service.log import Entry, EventLog
from mspipe_triton.serving.service.work import LogError, Place, Rejected
from tests.serving.served import ONES, trained
from tests.serving.service.services import same_bits

ABOUT = {"model": "abc"}
ODD = ["a\0b", "é", "🙂", "\ud800", " x ", "007", "", "SELECT", "'; DROP TABLE events; --"]


def logged(predictor: Predictor, path: Path, batches: list[dict[str, Any]], width: int = 3) -> list[Entry]:
    """Write batches to a log while a predictor takes them in, and return what a later process reads."""
    log = EventLog(path, ABOUT, len(predictor), width)
    for batch in batches:
        events = predictor.prepare(**batch)
        log.append([Entry(events, 0, len(predictor) + events.t.numel())])
        predictor.take(events)
    log.close()
    again = EventLog(path, ABOUT, len(predictor) - sum(entry.count for entry in log_of(path, width)), width)
    entries = list(again.read())
    again.close()
    return entries


def log_of(path: Path, width: int) -> list[Entry]:
    """Read a log whose number of events is that of its own description."""
    database = sqlite3.connect(path)
    first = int(database.execute("SELECT value FROM about WHERE name = 'events'").fetchone()[0])
    database.close()
    log = EventLog(path, ABOUT, first, width)
    entries = list(log.read())
    log.close()
    return entries


def numbered(stream: EventStream, kind: str) -> EventStream:
    """The stream with ids or times of another kind."""
    if kind == "float times":
        return replace(stream, t=stream.t.double() / 7, borders=None)
    if kind == "whole float times":
        return replace(stream, t=stream.t.double(), borders=None)
    nodes = np.arange(stream.num_nodes)
    ids = (
        nodes.astype(np.uint64) + np.uint64(2**63 - 40)
        if kind == "large ids"
        else np.array([f"n{each}" for each in nodes])
    )
    ends = {name: ids[getattr(stream, name).numpy()] for name in ("src", "dst")}
    assert stream.edge_features is not None
    return EventStream.of({**ends, "t": stream.t.numpy()}, edge_features=stream.edge_features.numpy())


@pytest.mark.parametrize("kind", ["float times", "whole float times", "large ids", "text ids"])
def test_what_is_read_gives_the_same_bits(kind: str, small_stream: EventStream, tmp_path: Path) -> None:
    stream = numbered(small_stream, kind)
    trained(tmp_path, stream, "tgn")
    run = tmp_path / "tgn-float32"
    predictor, other = load(run, stream=stream), load(run, stream=stream)
    last = float(stream.t[-1]) if stream.t.is_floating_point() else int(stream.t[-1])
    old = predictor.nodes[:3]
    new = {
        "large ids": [2**64 - 1, 2**63, 5], "text ids": [each for each in ODD if each.strip()],
    }.get(kind, [2**62, 7000, -3])  # fmt: skip
    many = [*new, *old] * 100
    batches = [
        {"src": new, "dst": [*reversed(new)], "t": last + 0.5, "features": np.full((len(new), 3), 0.1)},
        {"src": many, "dst": [*reversed(many)], "t": last + 2, "features": np.full((len(many), 3), 1 / 3)},
        {"src": pa.array(old), "dst": np.array(old), "t": [last + 2, last + 2, last + 3.25], "features": [ONES] * 3},
    ]
    for entry in logged(predictor, tmp_path / "log.db", batches):
        assert entry.events is not None
        other.take(entry.events)
    same_bits(predictor, other)
    assert len(predictor.nodes) == len(stream.ids or range(stream.num_nodes)) + len(new)


def test_other_programs_can_read_it(predictor: Predictor, tmp_path: Path) -> None:
    path, last = tmp_path / "log.db", int(predictor.time)
    first = len(predictor)
    logged(predictor, path, [{"src": [1, 5000], "dst": [70, 71], "t": [last, last + 1], "features": [ONES, [1, 2, 3]]}])
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    rows = database.execute("SELECT number, entry, src, dst, t, features FROM events").fetchall()
    values = np.array([1, 2, 3], "<f4").tobytes()
    assert rows == [(first, 1, 1, 70, last, np.ones(3, "<f4").tobytes()), (first + 1, 1, 5000, 71, last + 1, values)]
    assert database.execute("SELECT id, events, dropped, total FROM entries").fetchall() == [(1, 2, 0, first + 2)]
    assert database.execute("SELECT value FROM about ORDER BY name").fetchall() == [
        (str(first),), ("1",), ('"abc"',),
    ]  # fmt: skip


def test_places_and_lines_put_aside(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.db", ABOUT, 5, 0)
    assert log.place("a") == Place("a", 0, 0)
    log.append([Entry(None, 0, 5, place=Place("a", 3, 40), rejected=[Rejected(2, "no id", "{")])])
    log.append([Entry(None, 0, 5, place=Place("a", 9, 99)), Entry(None, 0, 5, place=Place("b", 1, 7))])
    assert (log.place("a"), log.place("b"), log.rejections, len(log)) == (Place("a", 9, 99), Place("b", 1, 7), 1, 3)
    log.close()


def test_entries_are_written_all_or_none(predictor: Predictor, tmp_path: Path) -> None:
    log, last = EventLog(tmp_path / "log.db", ABOUT, len(predictor), 3), predictor.time
    events = predictor.prepare(1, 70, last, ONES)
    good, total = Entry(events, 0, len(predictor) + 1, key="k"), len(predictor)
    with pytest.raises(LogError, match=r"log\.db: events cannot be logged \(.*\), so none is taken in"):
        log.append([good, Entry(events, 0, total + 2, key="k")])  # a key is unique
    assert (len(log), list(log.read()), log.find("k")) == (0, [], None)
    log.append([good])
    assert (len(log), log.find("k")) == (1, (b"", 1, 0, total + 1))
    log._database.close()
    with pytest.raises(LogError):
        log.append([good])
    with pytest.raises(LogError, match="cannot be read"):
        log.find("k")


@pytest.mark.parametrize(
    ("about", "first", "fault"),
    [
        ({"model": "other"}, 5, "its model is abc, and that of the run is other"),
        (ABOUT, 6, "its events is 5, and that of the run is 6"),
    ],
)
def test_a_log_of_another_run_is_refused(about: dict[str, str], first: int, fault: str, tmp_path: Path) -> None:
    EventLog(tmp_path / "log.db", ABOUT, 5, 0).close()
    with pytest.raises(RunFolderError, match=fault):
        EventLog(tmp_path / "log.db", about, first, 0)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("src,dst,t\n" * 200, encoding="utf-8")
    database = sqlite3.connect(tmp_path / "other.db")
    database.execute("CREATE TABLE users (name)")
    database.close()
    for path in (tmp_path / "text.db", tmp_path / "other.db", tmp_path / "missing" / "log.db"):
        with pytest.raises(RunFolderError, match="is no log that can be read"):
            EventLog(path, ABOUT, 5, 0)


def test_times_keep_their_type(predictor: Predictor, tmp_path: Path) -> None:
    events = predictor.prepare([1, 2], [70, 71], predictor.time, [ONES] * 2)
    log = EventLog(tmp_path / "log.db", ABOUT, 1200, 3)
    log.append([Entry(events, 0, 1202), Entry(events._replace(t=events.t.double() + 0.1), 0, 1204)])
    whole, parts = (entry.events for entry in log.read())
    assert whole is not None
    assert parts is not None
    assert (whole.t.dtype, parts.t.dtype) == (torch.int64, torch.float64)
    assert torch.equal(parts.t, events.t.double() + 0.1)
    log.close()
