"""Log of a service: every batch of events that it has acknowledged, in an SQLite file that other programs can read."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.errors import RunFolderError
from mspipe_triton.serving.incoming import Unnumbered
from mspipe_triton.serving.service.work import LogError, Place, Rejected

FORMAT = 1
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,     -- 1, 2, … in the order in which they were taken in
    received REAL NOT NULL,     -- Unix seconds
    events INTEGER NOT NULL,    -- number of events
    dropped INTEGER NOT NULL,   -- number of late events that were left out
    total INTEGER NOT NULL,     -- number of events of the predictor after them
    key TEXT UNIQUE,            -- Idempotency-Key of the request
    digest BLOB,                -- of the request
    parameters BLOB,            -- new parameters (safetensors), in an entry without events
    verdict TEXT                -- the validation that chose them, JSON
);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, -- of the predictor's events
    entry INTEGER NOT NULL,
    src NOT NULL, dst NOT NULL, t NOT NULL,
    features BLOB               -- final features, float32
);
CREATE TABLE places (source TEXT PRIMARY KEY, lines INTEGER NOT NULL, offset INTEGER NOT NULL);
CREATE TABLE rejected (
    source TEXT NOT NULL, line INTEGER NOT NULL, received REAL NOT NULL, reason TEXT NOT NULL, content TEXT NOT NULL
);
"""
_COLUMNS = "received, events, dropped, total, key, digest, parameters, verdict"
_PLACE = "INSERT OR REPLACE INTO places VALUES (?, ?, ?)"
_PATIENCE = 1.0  # seconds to wait for another program that writes
_LARGE = 2**63  # integers from here on are text in SQLite


@dataclass(frozen=True, eq=False)
class Entry:
    """Record that is written to the log as a whole: a batch of events, or new parameters.

    Args:
        events: M events as `Predictor.prepare` returns them, or None. dropped: number of late ones beside them.
        total: number of the predictor's events after them. received: Unix seconds.
        key, digest, place: see `Batch`. rejected: lines of the place's source that are no events.
        parameters: of the model, as safetensors, and the verdict that chose them.
    """

    events: Unnumbered | None
    dropped: int
    total: int
    received: float = field(default_factory=time.time)
    key: str | None = None
    digest: bytes = b""
    place: Place | None = None
    rejected: Sequence[Rejected] = ()
    parameters: bytes | None = None
    verdict: str | None = None

    @property
    def count(self) -> int:
        """Number of events, M."""
        return 0 if self.events is None else self.events.t.numel()

    @property
    def is_empty(self) -> bool:
        """True if nothing of it need be remembered."""
        return not self.count and self.key is None and self.place is None and self.parameters is None

    def rows(self, most: int) -> list[tuple[Any, Any, Any]]:
        """Return src, dst and t of the last events, at most so many."""
        if self.events is None:
            return []
        ends = [_plain(each[-most:]) for each in (self.events.src, self.events.dst)]
        return list(zip(*ends, self.events.t[-most:].tolist(), strict=True))


class EventLog:
    """Log in SQLite's WAL mode; `append` returns after the entries are on disk.

    One thread at a time may use it.

    Args:
        path: the file, which is made if there is none.
        about: facts that a log of this run has, by name. first: number of the run's events.
        width: E, of the edge features.

    Raises:
        RunFolderError: the file is no log, of another run or version, or cannot be opened.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], first: int, width: int) -> None:
        self.path, self.first, self.width = path, first, width
        facts = {"format": FORMAT, **about, "events": first}
        try:
            self._database = sqlite3.connect(path, _PATIENCE, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                with self._transaction():
                    for statement in _TABLES.split(";\n"):
                        self._database.execute(statement)
                    rows = [(name, json.dumps(value)) for name, value in facts.items()]
                    self._database.executemany("INSERT INTO about VALUES (?, ?)", rows)
            stored = {name: json.loads(value) for name, value in self._database.execute("SELECT * FROM about")}
            self._entries = self._count()
        except (sqlite3.Error, ValueError) as error:
            raise RunFolderError(f"{path}: is no log that can be read ({error}); name another folder") from error
        for name, value in facts.items():
            if stored.get(name) != value:
                raise RunFolderError(
                    f"{path}: its {name} is {stored.get(name)}, and that of the run is {value}; it is the log of "
                    "another run, so name another folder with --state"
                )

    def __len__(self) -> int:
        """Number of entries."""
        return self._entries

    @property
    def size(self) -> int:
        """Bytes on disk."""
        paths = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(path.stat().st_size for path in paths if path.exists())

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries, all of them or none.

        Raises:
            LogError: they cannot be written, as when the disk is full.
        """
        try:
            with self._transaction():
                for number, entry in enumerate(entries, self._entries + 1):
                    self._write(number, entry)
        except sqlite3.Error as error:
            raise LogError(f"{self.path}: events cannot be logged ({error}), so none is taken in; make room") from error
        self._entries += len(entries)

    def find(self, key: str) -> tuple[bytes, int, int, int] | None:
        """Return digest, events, dropped and total of the entry with a key, or None.

        Raises:
            LogError: the log cannot be read.
        """
        query = "SELECT digest, events, dropped, total FROM entries WHERE key = ?"
        try:
            row: tuple[bytes, int, int, int] | None = self._database.execute(query, (key,)).fetchone()
        except sqlite3.Error as error:
            raise LogError(f"{self.path}: cannot be read ({error}), so no event is taken in") from error
        return row

    def place(self, source: str) -> Place:
        """Return how far a source has been read."""
        row = self._database.execute("SELECT lines, offset FROM places WHERE source = ?", (source,)).fetchone()
        return Place(source, *(row or (0, 0)))

    @property
    def rejections(self) -> int:
        """Number of lines that were rejected."""
        return int(self._database.execute("SELECT count(*) FROM rejected").fetchone()[0])

    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yield the entries after the first so many, in order."""
        columns = "id, received, events, dropped, total, parameters, verdict"
        entries = self._database.execute(f"SELECT {columns} FROM entries WHERE id > ? ORDER BY id", (after,))
        for _, received, count, dropped, total, parameters, verdict in entries:
            events = self._events(total - count, total) if count else None
            yield Entry(events, dropped, total, received, parameters=parameters, verdict=verdict)

    def latest(self, count: int) -> list[dict[str, Any]]:
        """Return the latest events, newest first: src, dst, t and the time at which they were received."""
        columns = "src, dst, t, received"
        rows = self._database.execute(
            f"SELECT {columns} FROM events JOIN entries ON entries.id = entry ORDER BY number DESC LIMIT ?", (count,)
        )
        return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]

    def swaps(self) -> int:
        """Return the number of entries with new parameters."""
        return int(self._database.execute("SELECT count(parameters) FROM entries").fetchone()[0])

    def close(self) -> None:
        """Close the file; what has been appended is on disk already."""
        self._database.close()

    def _count(self) -> int:
        return int(self._database.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0])

    def _write(self, number: int, entry: Entry) -> None:
        count, parts = entry.count, (entry.key, entry.digest, entry.parameters, entry.verdict)
        self._database.execute(
            f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.received, count, entry.dropped, entry.total, *parts),
        )
        if entry.events is not None:
            src, dst, t, edges = entry.events[:4]
            rows = edges.float().numpy().astype("<f4")
            features = [row.tobytes() for row in rows] if self.width else [None] * count
            columns = (range(entry.total - count, entry.total), [number] * count, _plain(src), _plain(dst), t.tolist())
            self._database.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", zip(*columns, features, strict=True)
            )
        if entry.place is not None:
            place = entry.place
            self._database.execute(_PLACE, (place.source, place.lines, place.offset))
            lines = [(place.source, each.line, entry.received, each.reason, each.content) for each in entry.rejected]
            self._database.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?, ?)", lines)

    def _events(self, first: int, stop: int) -> Unnumbered:
        """Read events as `Predictor.prepare` returned them."""
        query = "SELECT src, dst, t, features FROM events WHERE number >= ? AND number < ? ORDER BY number"
        src, dst, t, features = zip(*self._database.execute(query, (first, stop)), strict=True)
        rows = np.frombuffer(b"".join(features), "<f4") if self.width else np.zeros(0, np.float32)
        edges = torch.from_numpy(rows.astype(np.float32).reshape(len(t), self.width))
        times = torch.tensor(t, dtype=torch.float64 if isinstance(t[0], float) else torch.int64)
        every = torch.ones(len(t), dtype=torch.bool)
        return Unnumbered(list(src), list(dst), times, edges, every, None, ("src", "dst"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run statements that are undone together on an error."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has undone them itself after some errors
                self._database.execute("ROLLBACK")
            raise


def _plain(ids: Any) -> list[Any]:
    """Return ids as SQLite takes them."""
    values = ids.to_pylist() if isinstance(ids, pa.Array) else ids
    return [str(each) if isinstance(each, int) and each >= _LARGE else each for each in values]
