"""New events in a run's vocabulary: columns, features, times and ids as in the run's own table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.new_events import NewEvents, Reading, new_events_of, read_new_events
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.source import Contents, data_of, record
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import DataError

START = 1_767_225_600  # 2026-01-01
COLOURS = ("red", "blue", "", "NA", "007")
ROWS = [
    {"user": f"u{n % 5}", "item": n % 3, "when": START + 60 * n, "amount": n * n, "colour": COLOURS[n % 5], "label": 0}
    for n in range(20)
]
NEW = [
    {"user": "u1", "item": 9, "when": START + 9000, "amount": 3, "colour": "green"},
    {"user": "new", "item": 1, "when": START + 9001, "amount": 4.5, "colour": "007"},
    {"user": "2", "item": 2, "when": START + 9002, "amount": 400, "colour": "NA"},
]


def write(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names or list(rows[0]), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return path


def reading(stream: EventStream, data: DataConfig | None = None) -> Reading:
    """The reading of a run, by way of its data.json."""
    text = json.dumps(record(stream, Contents.of(stream), TimeScale.of(stream.t, 1)))
    return Reading.from_record(json.loads(text), data or data_of(stream, DataConfig()))


@pytest.fixture
def run(tmp_path: Path) -> EventStream:
    return read_stream(write(tmp_path / "run.csv", ROWS), {"features": "amount,colour"})


def ends(events: NewEvents, ids: LiveIds) -> list[list[Any]]:
    return [ids.of(nodes) for nodes in events.numbers(ids, add=True)]


def plain_features(run: EventStream, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Features by the numbers of the run's training part, computed without the transformation."""
    amounts = np.array([row["amount"] for row in ROWS[: run.split().train_end]], dtype=np.float64)
    mean, deviation = amounts.mean(), amounts.std()
    values = sorted(COLOURS)
    return [
        [(row["amount"] - mean) / deviation, *((row["colour"] == each) * 1.0 for each in values),
         (row["colour"] not in values) * 1.0]
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ("user", "item", "when", "amount", "colour"),
        ("colour", "WHEN", "amount", "extra", "item", "src", "user"),
        ("x", "colour", "Amount", "dst", "when", "item", "user"),
    ],
)
def test_columns_are_those_of_the_run(run: EventStream, names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{**dict.fromkeys(names, 5), **row, "WHEN": row["when"], "Amount": row["amount"]} for row in NEW]
    events = read_new_events(write(tmp_path / "new.csv", rows, names), reading(run))
    assert run.ids is not None
    ids = LiveIds(run.ids)
    assert ends(events, ids) == [[("user", row["user"]) for row in NEW], [("item", row["item"]) for row in NEW]]
    assert ids.of(range(run.num_nodes, len(ids))) == [("item", 9), ("user", "new"), ("user", "2")]
    assert (events.t.dtype, events.t.tolist()) == (torch.int64, [row["when"] for row in NEW])
    assert (len(events), events.order) == (3, None)
    assert events.features is not None
    assert events.features.dtype == torch.float32
    expected = torch.tensor(plain_features(run, NEW), dtype=torch.float64)
    torch.testing.assert_close(events.features.double(), expected, rtol=1e-6, atol=1e-6)


def test_the_runs_own_table_is_read_again(run: EventStream, tmp_path: Path) -> None:
    events = read_new_events(tmp_path / "run.csv", reading(run))
    assert run.ids is not None
    sources, destinations = events.numbers(LiveIds(run.ids))
    assert sources.tolist() == run.src.tolist()
    assert destinations.tolist() == run.dst.tolist()
    assert events.t.equal(run.t)
    assert events.features is not None
    assert events.features.equal(run.edge_rows())


def test_a_frame_is_read_as_a_file(run: EventStream) -> None:
    frame = {name: [row[name] for row in NEW] for name in NEW[0]}
    frame["item"] = np.array([9.0, 1.0, 2.0])
    events = new_events_of(frame, reading(run))
    assert run.ids is not None
    assert ends(events, LiveIds(run.ids))[1] == [("item", 9), ("item", 1), ("item", 2)]
    assert events.features is not None
    expected = torch.tensor(plain_features(run, NEW), dtype=torch.float64)
    torch.testing.assert_close(events.features.double(), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(DataError, match=r"^events: row 2: when is 1.*; sort the events with sort=True$"):
        new_events_of({**frame, "when": frame["when"][::-1]}, reading(run))


def test_unsorted_events(run: EventStream, tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", [NEW[2], NEW[0], NEW[1]])
    with pytest.raises(
        DataError, match=r"new\.csv: row 2: when is .*, earlier than in the row before; sort the events"
    ):
        read_new_events(path, reading(run))
    events, plain = read_new_events(path, reading(run), sort=True), write(tmp_path / "plain.csv", NEW)
    expected = read_new_events(plain, reading(run))
    assert events.order is not None
    assert events.order.tolist() == [1, 2, 0]
    assert [events.src.to_pylist(), events.dst.to_pylist()] == [expected.src.to_pylist(), expected.dst.to_pylist()]
    assert events.t.equal(expected.t)
    assert events.features is not None
    assert events.features.equal(expected.features)
    assert [events.place(event).rpartition("/")[2] for event in range(3)] == [
        f"new.csv: row {row}" for row in (2, 3, 1)
    ]


def test_other_usual_names_and_a_folder(tmp_path: Path) -> None:
    run = read_stream(write(tmp_path / "run.csv", ROWS), {"label": ""})
    folder = tmp_path / "new"
    folder.mkdir()
    write(folder / "a.csv", [{"customer": 1, "product": 9, "time": START + 9000}])
    write(folder / "b.csv", [{"customer": "u1", "product": 1.0, "time": START + 9001}])
    events = read_new_events(folder, reading(run))
    assert run.ids is not None
    assert ends(events, LiveIds(run.ids)) == [[("user", "1"), ("user", "u1")], [("item", 9), ("item", 1)]]
    assert (events.features, events.place(1).rpartition("/")[2]) == (None, "b.csv: row 1")


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({}, ("user", "item", "when", "amount"), "new.csv: no column 'colour', which is a feature of the run's events; "
         "the file has user, item, when, amount; add the column"),
        ({}, ("user", "item", "amount", "colour"), "new.csv: no column 'when', as the run's events have; the file has"),
        ({"item": "bob"}, (), "new.csv: row 2: item is 'bob', not an integer of int64, as the run's ids are; correct"),
        ({"user": " "}, (), "new.csv: row 2: user is empty; fill it in, or remove the row"),
        ({"item": ""}, (), "new.csv: row 2: item is empty"),
        ({"amount": ""}, (), "new.csv: row 2: amount is empty; fill it in"),
        ({"amount": "much"}, (), "new.csv: row 2: amount is 'much', not a number"),
        ({"when": 1}, (), "new.csv: row 2: when is '1', earlier than in the row before; sort the events with --sort"),
        ({"when": (START + 9001) * 1000}, (), "looks like Unix milliseconds, whereas the run's times are Unix seconds"),
        ({"when": "2026-02-01"}, (), "new.csv: row 2: when is '2026-02-01', not a number"),
        ({"when": START + 9000.5}, (), "new.csv: row 2: when is '1767234600.5', with a fraction, whereas the run's"),
    ],
)  # fmt: skip
def test_faults_are_named_in_one_line(
    run: EventStream, changes: dict[str, Any], names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert run.ids is not None
    path = write(tmp_path / "new.csv", [NEW[0], {**NEW[1], **changes}, NEW[2]], names)
    with pytest.raises(DataError) as error:
        read_new_events(path, reading(run)).numbers(LiveIds(run.ids), add=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_events(run: EventStream, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("user,item,when,amount,colour\n")
    with pytest.raises(DataError, match=r"new\.csv: no events below the header; add a row per event$"):
        read_new_events(path, reading(run))
    path.write_text("")
    with pytest.raises(DataError, match=r"new\.csv: the file is empty; it needs a header and a row per event$"):
        read_new_events(path, reading(run))
    with pytest.raises(DataError, match=r"^events: no events; add a row per event$"):
        new_events_of({name: [] for name in NEW[0]}, reading(run))


def test_a_matrix_of_features(tmp_path: Path) -> None:
    matrix = np.arange(60.0).reshape(20, 3) ** 2
    np.save(tmp_path / "run.npy", matrix)
    path = write(tmp_path / "run.csv", ROWS)
    run = read_stream(path, {"features": "amount"}, edge_features=tmp_path / "run.npy")
    from_python = EventStream.of(
        {name: [row[name] for row in ROWS] for name in ROWS[0]}, features="amount", edge_features=matrix
    )
    rows, new = [NEW[2], NEW[0], NEW[1]], matrix[[3, 4, 5]]
    np.save(tmp_path / "new.npy", new)
    np.save(tmp_path / "wide.npy", np.ones((3, 4)))
    np.save(tmp_path / "long.npy", np.ones((4, 3)))
    events = read_new_events(write(tmp_path / "new.csv", rows), reading(run), True, tmp_path / "new.npy")
    frame = {name: [row[name] for row in rows] for name in rows[0]}
    others = new_events_of(frame, reading(from_python), sort=True, edge_features=new)
    expected = run.edge_rows()
    assert expected is not None
    for each in (events, others):
        assert each.features is not None
        assert each.features[:, 1:].equal(expected[[4, 5, 3], 1:])
        assert each.features[:, 0].tolist() == pytest.approx([row[0] for row in plain_features(run, NEW)], rel=1e-6)
    for name, message in (
        ("wide", "wide.npy: has features of width 4, the run's have 3; give 3 columns"),
        ("long", "long.npy: the file has 4 rows for 3 events"),
        ("", "new.csv: the run has a matrix of features of width 3, .*; pass that of these events as --edge-features"),
    ):
        with pytest.raises(DataError, match=message):
            read_new_events(tmp_path / "new.csv", reading(run), True, tmp_path / f"{name}.npy" if name else "")
    for values, message in (
        (None, "events: the run has a matrix .* as edge_features$"),
        (np.ones((3, 4)), "edge_features: has features of width 4, the run's have 3"),
        (np.ones((2, 3)), r"edge_features: has shape \[2, 3\]; give a matrix with a row"),
    ):
        with pytest.raises(DataError, match=f"^{message}"):
            new_events_of(frame, reading(from_python), sort=True, edge_features=values)
    with pytest.raises(DataError, match=r"new\.csv: the run has no matrix of features; omit --edge-features"):
        read_new_events(tmp_path / "new.csv", reading(read_stream(path)), True, tmp_path / "new.npy")


def test_row_numbers_of_a_matrix(tmp_path: Path) -> None:
    matrix = np.arange(1.0, 41.0).reshape(20, 2)
    np.save(tmp_path / "run.npy", matrix)
    run = read_stream(write(tmp_path / "run.csv", ROWS), raw_features=True, edge_features=tmp_path / "run.npy")
    rows = [{**row, "idx": place} for row, place in zip(NEW, (7, 0, 3), strict=True)]
    events = read_new_events(write(tmp_path / "new.csv", rows), reading(run), edge_features=tmp_path / "run.npy")
    assert events.features is not None
    assert events.features.tolist() == matrix[[7, 0, 3]].tolist()


def test_a_run_from_tensors_takes_numbers_as_they_are() -> None:
    src, t = torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 2.0, 3.0, 4.5], dtype=torch.float64)
    run = EventStream(src, src.flip(0), t, torch.ones(4, 2))
    frame = {"src": [0, 7], "dst": [1, 0], "t": [5, 6]}
    features = {"f0": [1.0, 2.0], "f1": [3, 4]}
    expected = [[1.0, 3.0], [2.0, 4.0]]
    for events in (new_events_of({**frame, **features}, reading(run)),
                   new_events_of(frame, reading(run), edge_features=np.array(expected))):  # fmt: skip
        assert events.features is not None
        assert events.features.tolist() == expected
        assert (events.t.dtype, events.t.tolist()) == (torch.float64, [5.0, 6.0])
        assert ends(events, LiveIds(run.ids, run.num_nodes)) == [[0, 7], [1, 0]]
    for each, message in (
        ({"f0": [1, 2]}, "events: has features of width 1, the run's have 2; give 2 columns"),
        ({}, "events: there are no features, and the run's have width 2; call columns f0"),
    ):
        with pytest.raises(DataError, match=f"^{message}"):
            new_events_of({**frame, **each}, reading(run))


def split_table(path: Path, header: bool, folder: Path) -> tuple[Path, Path, list[list[str]]]:
    """Write the first part of a table and the rest as two files; return the values of the rest."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [line for line in lines if not line.startswith("#")]
    count = len(lines) * 3 // 4
    old, new = folder / f"old{path.suffix}", folder / f"new{path.suffix}"
    old.write_text("".join(lines[:count]))
    new.write_text("".join(([lines[0]] if header else []) + lines[count:]))
    delimiter = next(mark for mark in ("\t", ",", " ") if mark in lines[0])
    return old, new, [line.strip().split(delimiter)[:3] for line in lines[count:]]


@pytest.mark.parametrize(
    "name",
    ["01-shared-ids/user_item_both_from_0.csv", "01-shared-ids/jodie_header.csv", "09-headerless/headerless.csv",
     "09-headerless/snap.txt", "09-headerless/tab.tsv", "10-dates/dates.csv", "10-dates/datetimes.csv",
     "16-text-ids/jodie_alphanumeric.csv", "16-text-ids/names.csv"],
)  # fmt: skip
def test_the_rest_of_a_reported_table(real_cases: Path, name: str, tmp_path: Path) -> None:
    headerless = name.startswith("09") and not name.endswith("tab.tsv")
    old, new, rows = split_table(real_cases / name, not headerless, tmp_path)
    run, whole = (read_stream(path, no_header=headerless) for path in (old, real_cases / name))
    events = read_new_events(new, reading(run))
    ids = LiveIds(run.ids)
    plain = [[each[1] if ids.kinds else each for each in side] for side in ends(events, ids)]
    assert [[str(each) for each in side] for side in plain] == [[row[end] for row in rows] for end in (0, 1)]
    assert len(ids) == whole.num_nodes
    assert (events.t.dtype, events.t.tolist()) == (run.t.dtype, whole.t[-len(rows) :].tolist())


def test_a_headerless_run_takes_a_table_with_a_header(real_cases: Path, tmp_path: Path) -> None:
    run = read_stream(real_cases / "09-headerless" / "headerless.csv", no_header=True)
    events = read_new_events(write(tmp_path / "new.csv", [{"t": 2e9, "src": 1, "dst": 2}]), reading(run))
    assert (events.src.to_pylist(), events.dst.to_pylist(), events.t.tolist()) == (["1"], ["2"], [2_000_000_000])


def test_ids_that_would_be_numbers_alone(tmp_path: Path) -> None:
    run = EventStream.of({"src": ["NA", "6602.05", "DE"], "dst": ["DE", "NA", "007"], "t": [1, 2, 3]})
    ids, rows = LiveIds(run.ids), [{"src": "NA", "dst": "6602.05", "t": 4}, {"src": "007", "dst": "7", "t": 4}]
    events = read_new_events(write(tmp_path / "new.csv", rows), reading(run))
    assert ends(events, ids) == [["NA", "007"], ["6602.05", "7"]]
    assert len(ids) == run.num_nodes + 1
