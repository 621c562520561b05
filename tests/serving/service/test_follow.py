"""Following of a source: files that grow, standard input, lines put aside, and places that survive a restart."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.errors import DataError
from mspipe_triton.serving.service.follow import Follower
from mspipe_triton.serving.service.work import Place
from tests.serving.service.services import Started, same_bits, started, wait_for

HEADER = "user,item,when,amount,channel\n"


def row(number: int) -> str:
    """A line of a CSV file of purchases."""
    return f"u{number % 9},{100 + number % 7},2024-04-{1 + number // 24:02}T{number % 24:02}:00:00,{number % 5}.5,web\n"


def record(number: int, **values: Any) -> str:
    """The same purchase as a JSON line."""
    user, item, when, amount, channel = row(number).strip().split(",")
    fields = {"user": user, "item": int(item), "when": when, "amount": float(amount), "channel": channel}
    return json.dumps(fields | values) + "\n"


@contextmanager
def followed(run: Path, folder: Path, source: Path | str, **options: Any) -> Iterator[tuple[Started, Follower]]:
    """Follow a source with a service."""
    settings = {"late": "refuse", "repeats": False, "size": 10} | options
    with started(run, folder, observing=False) as parts:
        place, reading = parts.log.place(str(source)), parts.predictor.reading
        follower = Follower(str(source), place, reading, note=parts.notes.append, **settings)
        follower.start(parts.service, lambda: None)
        try:
            yield parts, follower
        finally:
            follower.stop()


def wait_for_events(parts: Started, count: int) -> None:
    """Wait until so many events have been observed."""
    wait_for(lambda: parts.service.status().observed >= count)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def observed(run: Path, numbers: range) -> Predictor:
    """A predictor that has observed purchases one by one."""
    predictor = load(run)
    for number in numbers:
        user, item, when, amount, channel = row(number).strip().split(",")
        predictor.observe(user, item, when, {"amount": amount, "channel": channel})
    return predictor


def request(number: int) -> str:
    """The same purchase in the form of a request."""
    user, item, when, amount, channel = row(number).strip().split(",")
    features = {"amount": float(amount), "channel": channel}
    return json.dumps({"src": user, "dst": int(item), "t": when, "features": features}) + "\n"


@pytest.mark.parametrize("form", ["csv", "jsonl", "windows", "request", "mark"])
def test_a_file_that_grows(form: str, shop_run: Path, tmp_path: Path) -> None:
    windows = lambda number: row(number).replace("\n", "\r\n")  # noqa: E731
    line, header = {
        "csv": (row, HEADER), "jsonl": (record, ""), "windows": (windows, HEADER), "request": (request, ""),
        "mark": (record, "\ufeff"),
    }[form]  # fmt: skip
    path = tmp_path / "events.log"
    path.touch()
    with followed(shop_run, tmp_path / "state", path, size=1) as (parts, _):
        append(path, header + line(0) + line(1) + line(2)[:9])
        wait_for_events(parts, 2)
        append(path, line(2)[9:] + "\n")
        wait_for_events(parts, 3)
    append(path, line(3))
    with followed(shop_run, tmp_path / "state", path, size=1) as (parts, follower):
        wait_for_events(parts, 4)
        append(path, line(4) + line(5))
        wait_for_events(parts, 6)
        assert (parts.service.status().rejected, follower.failure) == (0, None)
        lines = 7 + header.count("\n")
        wait_for(lambda: parts.log.place(str(path)).lines == lines)
        assert parts.log.place(str(path)).offset == path.stat().st_size
    same_bits(parts.predictor, observed(shop_run, range(6)))


def test_many_lines_are_taken_in_together(shop_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + "".join(map(row, range(95))), encoding="utf-8")
    with followed(shop_run, tmp_path / "state", path, size=40) as (parts, _):
        wait_for_events(parts, 95)
        assert [entry.count for entry in parts.log.read()] == [39, 40, 16]


def test_lines_that_do_not_fit_are_put_aside(shop_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    bad = {
        3: ("{oops\n", "is not JSON"), 5: (record(5, when="no date"), "when is 'no date', not a number or a date"),
        6: ("[1, 2]\n", "is no JSON object"), 8: (record(8, item="x"), "item is 'x', not an integer"),
        9: (record(0), "is late: its time is 2024-04-01, and the last"), 11: ("\xff\n", "is not UTF-8"),
        12: ('{"src": "u1", "dst": 100, "t": "2024-05-01", "features": 7}\n', "features is 7; features must be"),
        13: ('{"src": ["u1"], "dst": 100, "t": "2024-05-01", "features": {}}\n', 'src is ["u1"], neither text nor'),
        14: (record(14, item=10**30), "item is '1000000000000000000000000000000', not an integer of int64"),
        15: (record(15).replace('"item": 101', f'"item": {"9" * 5000}'), "has an integer of too many digits"),
        16: (record(16, user=True), "user is true, neither text nor a number"),
    }  # fmt: skip
    lines = [bad[number][0] if number in bad else record(number) for number in range(19)]
    path.write_bytes("".join([*lines[:7], "\n", *lines[7:]]).encode("latin-1"))
    with followed(shop_run, tmp_path / "state", path, size=50) as (parts, follower):
        wait_for(lambda: parts.service.status().observed + parts.service.status().rejected == 19)
        status = parts.service.status()
        assert (status.observed, status.rejected, follower.failure) == (8, 11, None)
        rows = parts.log._database.execute("SELECT line, reason, content FROM rejected ORDER BY line").fetchall()
    assert [number for number, _, _ in rows] == [4, 6, 7, 10, 11, 13, 14, 15, 16, 17, 18]
    for (_, reason, content), (text, fault) in zip(rows, bad.values(), strict=True):
        assert fault in reason
        assert "\n" not in reason
        assert not re.search(r"/|events\.jsonl|row 1|event 0", reason)  # names of a copy of the line
        assert content == ("\\xff" if "\xff" in text else text.strip())


def test_late_lines_can_be_dropped(shop_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + row(3) + row(1) + row(4), encoding="utf-8")
    with followed(shop_run, tmp_path / "state", path, late="drop") as (parts, _):
        wait_for_events(parts, 2)
        assert (parts.service.status().observed, parts.service.status().rejected) == (2, 0)


def test_standard_input_goes_on_or_repeats(shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(lines: list[str], total: int, **options: Any) -> Started:
        source, target = os.pipe()
        os.write(target, "".join(lines).encode())
        os.close(target)
        with monkeypatch.context() as patch, os.fdopen(source, "rb") as file:
            patch.setattr(sys, "stdin", io.TextIOWrapper(file))
            with followed(shop_run, tmp_path / "state", "-", size=1, **options) as (parts, _):
                wait_for(lambda: parts.notes and parts.service.status().observed == total)
        return parts

    records = [record(number) for number in range(6)]
    parts = run(records[:3], 3)
    assert parts.notes == ["Standard input has ended after line 3. Questions are still answered."]
    assert run([records[3].strip()], 4).log is not None  # the last line needs no line feed
    parts = run(records, 6, repeats=True)
    assert parts.notes == ["Standard input has ended after line 6. Questions are still answered."]
    same_bits(parts.predictor, observed(shop_run, range(6)))


def test_a_file_that_is_replaced_stops_the_service(shop_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    with pytest.raises(DataError, match=r"events\.csv: cannot be followed: No such file"):
        Follower(str(path), Place(str(path), 0, 0), load(shop_run).reading, 10, "refuse", False, print)
    path.write_text(HEADER + row(0) + row(1), encoding="utf-8")
    with followed(shop_run, tmp_path / "state", path) as (parts, follower):
        wait_for_events(parts, 2)
        path.write_text(HEADER, encoding="utf-8")
        wait_for(lambda: follower.failure is not None)
        assert "was cut or replaced while it was followed; append to it instead" in str(follower.failure)
        place = parts.log.place(str(path))
    with pytest.raises(DataError, match="is not the file that was followed, of which"):
        Follower(str(path), place, parts.predictor.reading, 10, "refuse", False, print)
    path.write_text("x" * 10_000, encoding="utf-8")
    with pytest.raises(DataError, match="is not the file that was followed, of which"):
        Follower(str(path), place, parts.predictor.reading, 10, "refuse", False, print)


def test_following_waits_for_room_on_the_disk(shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mspipe_triton.serving.service.follow._RETRY", 0.05)
    path = tmp_path / "events.csv"
    path.write_text(HEADER, encoding="utf-8")
    with followed(shop_run, tmp_path / "state", path, size=2) as (parts, follower):
        wait_for(lambda: parts.log.place(str(path)).lines == 1)
        pages = parts.log._database.execute("PRAGMA page_count").fetchone()[0]
        parts.log._database.execute(f"PRAGMA max_page_count = {pages}")
        append(path, "".join(map(row, range(300))))
        wait_for(lambda: parts.notes)
        assert "Following waits: " in parts.notes[0]
        assert "database or disk is full" in parts.notes[0]
        assert not parts.service.status().writable
        parts.log._database.execute("PRAGMA max_page_count = 100000")
        wait_for_events(parts, 300)
        assert follower.failure is None
    other = load(shop_run)
    for start in range(0, 300, 2):
        rows = [row(number).strip().split(",") for number in (start, start + 1)]
        users, items, dates, amounts, channels = (list(column) for column in zip(*rows, strict=True))
        other.observe(users, items, dates, {"amount": amounts, "channel": channels})
    assert (len(other), other.time) == (len(parts.predictor), parts.predictor.time)
