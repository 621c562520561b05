"""Tables that users reported: their graph, counted in plain Python, is the one that is read."""

from __future__ import annotations

import csv
import datetime
import random
from pathlib import Path

import pytest

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.readers import read_stream
from mspipe_triton.errors import DataError


def plain_rows(path: Path, header: bool = True) -> list[list[str]]:
    """Source, destination and time of each row."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    delimiter = next(mark for mark in ("\t", ",", " ") if mark in lines[0])
    return [row[:3] for row in csv.reader(lines[header:], delimiter=delimiter)]


def events(stream: EventStream) -> list[list[str]]:
    """Events of a stream by the user's ids, without kinds, and times as text."""
    assert stream.ids is not None
    ends = (stream.ids.of(nodes) for nodes in (stream.src, stream.dst))
    src, dst = ([each[1] if isinstance(each, tuple) else each for each in side] for side in ends)
    return [[str(s), str(d), str(t)] for s, d, t in zip(src, dst, stream.t.tolist(), strict=True)]


@pytest.mark.parametrize("name", ["user_item_both_from_0.csv", "jodie_header.csv", "items_behind_users.csv"])
def test_users_and_items_are_numbered_apart(real_cases: Path, name: str) -> None:
    path = real_cases / "01-shared-ids" / name
    rows, stream = plain_rows(path), read_stream(path)
    users, items = ({row[column] for row in rows} for column in (0, 1))
    assert stream.ids is not None
    assert dict(zip(stream.ids.kinds, map(len, stream.ids.ids), strict=True)) == {"user": 101, "item": 40}
    assert (len(users), len(items), stream.num_nodes) == (101, 40, 141)
    assert events(stream) == [[s, d, str(int(float(t)))] for s, d, t in rows]
    assert not bool((stream.src == stream.dst).any())


def test_one_kind_numbers_users_and_items_together(real_cases: Path) -> None:
    path = real_cases / "01-shared-ids" / "user_item_both_from_0.csv"
    rows, stream = plain_rows(path), read_stream(path, one_kind=True)
    assert stream.num_nodes == len({end for row in rows for end in row[:2]}) == 105
    assert int((stream.src == stream.dst).sum()) == sum(row[0] == row[1] for row in rows) == 9


@pytest.mark.parametrize("name", ["headerless.csv", "snap.txt", "comment.csv"])
def test_a_file_without_a_header_loses_no_event(real_cases: Path, name: str) -> None:
    path = real_cases / "09-headerless" / name
    rows = plain_rows(path, header=False)
    with pytest.raises(DataError, match="the first line is data, not a header: 89, 128, 853; use --no-header"):
        read_stream(path)
    with pytest.raises(DataError, match="use --no-header"):
        read_stream(path, {"src": "89", "dst": "128", "t": "853"})
    stream = read_stream(path, no_header=True)
    assert (len(rows), stream.num_nodes) == (300, len({end for row in rows for end in row[:2]}))
    assert events(stream) == rows


def test_tabs_are_recognised(real_cases: Path) -> None:
    path = real_cases / "09-headerless" / "tab.tsv"
    assert events(read_stream(path)) == plain_rows(path)


@pytest.mark.parametrize("name", ["dates.csv", "datetimes.csv"])
def test_dates_are_unix_seconds(real_cases: Path, name: str) -> None:
    path = real_cases / "10-dates" / name
    rows = plain_rows(path)
    times = [datetime.datetime.fromisoformat(row[2]).replace(tzinfo=datetime.UTC).timestamp() for row in rows]
    assert read_stream(path).t.tolist() == times
    assert int(times[0]) // 86_400 * 86_400 == 1_475_280_000


def test_the_table_of_node_features_is_read(real_cases: Path) -> None:
    path = real_cases / "13-node-feature-message" / "events.csv"
    assert events(read_stream(path)) == plain_rows(path)


def test_ids_may_be_text(real_cases: Path) -> None:
    for name, kinds in (("jodie_alphanumeric.csv", ("user", "item")), ("names.csv", ())):
        path = real_cases / "16-text-ids" / name
        rows, stream = plain_rows(path), read_stream(path)
        assert stream.ids is not None
        assert (stream.ids.kinds, stream.num_nodes) == (kinds, 79)
        assert events(stream) == [[s, d, str(int(float(t)))] for s, d, t in rows]
    path = real_cases / "16-text-ids" / "jodie_alphanumeric.csv"
    assert read_stream(path, {"src": "user"}).num_nodes == 79


def test_real_streams_keep_their_events(real_data: Path) -> None:
    for name in ("uci.csv", "wiki.csv"):
        rows = plain_rows(real_data / name)
        assert [[s, d, str(int(float(t)))] for s, d, t in rows] == events(read_stream(real_data / name))


def test_ratings_with_overlapping_ids(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [[draw.randint(1, 60), draw.choice(range(1, 900, 7)), 4.5, 964_982_703 + n] for n in range(2000)]
    with open(tmp_path / "ratings.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["userId", "movieId", "rating", "timestamp"], *rows])
    users, movies = ({row[column] for row in rows} for column in (0, 1))
    assert users & movies
    stream = read_stream(tmp_path / "ratings.csv")
    assert stream.ids is not None
    assert [each.to_pylist() for each in stream.ids.ids] == [sorted(users), sorted(movies)]
    assert events(stream) == [[str(row[0]), str(row[1]), str(row[3])] for row in rows]
