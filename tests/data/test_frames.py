"""Streams from Python objects: data frames, Arrow, dictionaries and lists, and PyG's `TemporalData` both ways."""

from __future__ import annotations

import datetime
import decimal
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError, DataError

COLUMNS: dict[str, list[Any]] = {"src": [7, 9, 7], "dst": [9, 8, 8], "t": [1, 2, 2]}
LARGE = 2**64 - 1


def facts(frame: Any, *columns: Any, **options: Any) -> tuple[list[Any], list[Any], list[float]]:
    """Sources, destinations and times of a stream by the user's ids."""
    stream = EventStream.of(frame, *columns, **options)
    assert stream.ids is not None
    return stream.ids.of(stream.src), stream.ids.of(stream.dst), stream.t.tolist()


EXPECTED = (COLUMNS["src"], COLUMNS["dst"], COLUMNS["t"])


@pytest.mark.parametrize(
    "frame",
    [
        COLUMNS, {name: np.array(values) for name, values in COLUMNS.items()},
        {name: torch.tensor(values) for name, values in COLUMNS.items()}, pa.table(COLUMNS),
        {name: np.array(values, ">i8") for name, values in COLUMNS.items()},
        {name: tuple(values) for name, values in COLUMNS.items()}, pa.table(COLUMNS).to_batches()[0],
        pa.table(COLUMNS).to_pylist(),
        np.array([(7, 9, 1), (9, 8, 2), (7, 8, 2)], [("src", int), ("dst", int), ("t", int)]),
    ],
)  # fmt: skip
def test_tables_in_memory(frame: Any) -> None:
    assert facts(frame) == EXPECTED


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS, index=[5, 5, 5])
    assert facts(frame) == facts(frame.rename(columns={"src": 0}), 0) == EXPECTED
    assert facts(frame.astype({"src": "category", "dst": "Int64"})) == EXPECTED
    assert facts(frame.assign(src=["a", 1, None]).iloc[:2])[0] == ["a", "1"]
    days = ["1970-01-02", "1970-01-03", "1970-01-04"]
    for t in (
        pandas.to_datetime(days),
        pandas.PeriodIndex(days, freq="D"),
        [datetime.date(1970, 1, n) for n in (2, 3, 4)],
    ):
        assert facts(frame.assign(t=t))[2] == [86_400, 2 * 86_400, 3 * 86_400]
    zoned = pandas.to_datetime(days).tz_localize("Europe/Berlin")
    assert facts(frame.assign(t=zoned))[2] == [82_800, 169_200, 255_600]
    for column, values in (("src", pandas.array([1, None, 2], "Int64")), ("src", [1.0, np.nan, 2.0]),
                           ("t", pandas.to_datetime(["1970-01-02", None, None]))):  # fmt: skip
        with pytest.raises(DataError, match=f"frame: row 2: {column} is empty; fill it in, or remove the row"):
            EventStream.of(frame.assign(**{column: values}))
    with pytest.raises(DataError, match=r"frame: row 1: t is 1.0, float32"):
        EventStream.of(frame.astype({"t": "float32"}))
    with pytest.raises(DataError, match="frame: column 'src' appears twice; rename one of them"):
        EventStream.of(pandas.DataFrame([[1, 1, 2, 3]], columns=["src", "src", "dst", "t"]))
    with pytest.raises(DataError, match="frame: is a series, which is one column; pass a frame"):
        EventStream.of(frame["src"])


@pytest.mark.filterwarnings("error")
def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(COLUMNS)
    assert facts(frame) == facts(frame.lazy()) == EXPECTED
    words = frame.with_columns(src=polars.Series(["b", "a", "b"], dtype=polars.Categorical))
    assert facts(words)[0] == ["b", "a", "b"]
    assert facts(frame.with_columns(src=polars.Series([LARGE, 1, 2], dtype=polars.UInt64)))[0] == [LARGE, 1, 2]
    moments = [datetime.datetime(1970, 1, 1, 0, 0, n) for n in (1, 2, 3)]
    assert facts(frame.with_columns(t=polars.Series(moments)))[2] == [1, 2, 3]
    large = frame.with_columns(src=polars.Series([2**100, 1, 2], dtype=polars.Int128))
    assert facts(large)[0] == [str(2**100), "1", "2"]
    uuids = [uuid.UUID(int=number) for number in (3, 1, 3)]
    objects = frame.with_columns(src=polars.Series(uuids, dtype=polars.Object))
    assert facts(objects)[0] == [str(each) for each in uuids]
    with pytest.raises(DataError, match="frame: is a series, which is one column"):
        EventStream.of(frame["src"])


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([LARGE, 1, 2], [LARGE, 1, 2]), ([2**70, 1, 2], [str(2**70), "1", "2"]), ([1, "a", 1], ["1", "a", "1"]),
        ([2**53 + 1, 2.0, 3], [2**53 + 1, 2, 3]), (np.array(["a", "b", "a"]), ["a", "b", "a"]),
        (np.array([b"a", b"b", b"a"]), ["a", "b", "a"]), ([uuid.UUID(int=1)] * 3, [str(uuid.UUID(int=1))] * 3),
        (range(3), [0, 1, 2]), (pa.chunked_array([[1], [2, 3]]), [1, 2, 3]), ([decimal.Decimal(5)] * 3, [5] * 3),
    ],
)  # fmt: skip
def test_ids(values: Any, ids: list[Any]) -> None:
    stream = EventStream.of({"user": values, "item": [1, 2, 3], "t": [1, 2, 3]})
    assert stream.ids is not None
    assert stream.ids.of(stream.src) == [("user", each) for each in ids]


def test_times() -> None:
    months = np.array(["1970-01", "1970-02", "1970-03"], "datetime64[M]")
    assert facts({**COLUMNS, "t": months})[2] == [0, 31 * 86_400, 59 * 86_400]
    assert facts({**COLUMNS, "t": ["1970-01-01", datetime.datetime(1970, 1, 2), "1970-01-03"]})[2] == [
        0,
        86_400,
        172_800,
    ]
    assert facts({**COLUMNS, "t": [3, 2, 1]}, sort=True) == ([7, 9, 7], [8, 8, 9], [1, 2, 3])
    assert facts({**COLUMNS, "t": [decimal.Decimal(2**60 + each) for each in range(3)]})[2] == [
        2**60,
        2**60 + 1,
        2**60 + 2,
    ]
    assert facts({**COLUMNS, "t": [decimal.Decimal("1.5"), 2, 2]})[2] == [1.5, 2.0, 2.0]
    with pytest.raises(DataError, match=r"row 1: t is 9007199254740993.5, which float64 would round; write integers"):
        EventStream.of({**COLUMNS, "t": [decimal.Decimal("9007199254740993.5")] * 3})
    for values in (np.ones(3, np.float32), torch.ones(3), torch.ones(3, dtype=torch.bfloat16), np.ones(3, np.float16)):
        with pytest.raises(DataError, match=r"frame: row 1: t is 1.0, float(32|16), which is minutes off"):
            EventStream.of({**COLUMNS, "t": values})


def test_labels() -> None:
    for values, labels in (
        ([True, False, True], [1, 0, 1]), (["0", "1", "1"], [0, 1, 1]), ([0.5, 1, 2], [0.5, 1.0, 2.0]),
    ):  # fmt: skip
        assert EventStream.of({**COLUMNS, "label": values}).labels.tolist() == labels
    for values in ([1, None, 0], ["1", "", "0"], ["True", "NA", "false"]):
        labels = EventStream.of({**COLUMNS, "label": values}).labels
        assert torch.equal(labels.nan_to_num(-1), torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    words = EventStream.of({**COLUMNS, "label": ["1", "good", "0"]})
    assert words.labels is None
    assert words.source.label_fault == "frame: row 2: label is 'good', not a label; use 0 and 1, or nothing"
    off = EventStream.of({**COLUMNS, "label": ["1", "good", "0"]}, label="")
    assert (off.labels, off.source.label_fault) == (None, None)


def test_kinds() -> None:
    frame = {"a": [1, 2, 3], "item": [1, 2, 4], "t": [1, 2, 3]}
    assert EventStream.of(frame, src="a").ids.kinds == ("a", "item")
    assert EventStream.of(frame, "a", one_kind=True).num_nodes == 4
    assert EventStream.of(COLUMNS, bipartite=True).num_nodes == 4
    with pytest.raises(ConfigError, match="exclude each other"):
        EventStream.of(COLUMNS, bipartite=True, one_kind=True)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "a stream cannot be made of NoneType; pass a pandas or polars frame"),
        ("x.csv", "is 'x.csv', not a table; pass the table itself, or read files with read_stream"),
        (Path("x.csv"), "is 'x.csv', not a table"),
        ([], "is an empty list, with no events or rows; give a list of dictionaries, one per row"),
        ([(1, 2, 3)], "row 1: is of type tuple, no dictionary; give a list of dictionaries, one per row"),
        ([{"src": 1}, 3], "row 2: is of type int, no dictionary; give a list of dictionaries"),
        (np.ones((3, 3)), ".*made of ndarray"),
        ({}, "no column for src, dst, t; the frame has no columns"), ({**COLUMNS, "src": 5}, "src: is 5, not a column"),
        ({**COLUMNS, "src": "abc"}, "src: is 'abc', not a column"), ({"src": [], "dst": [], "t": []}, "no events; add"),
        ({**COLUMNS, "src": [1]}, r"the columns differ in length \(src 1, dst 3, t 3\)"),
        ({**COLUMNS, "src": np.ones(3, complex)}, "src: holds complex128; use numbers or text"),
        ({**COLUMNS, "src": np.ones((3, 2))}, r"row 1: src is \[1.0, 1.0\], of type fixed_size_list"),
        ({**COLUMNS, "dst": [1, None, 2]}, "row 2: dst is empty"),
        ({**COLUMNS, "t": [2, 1, 3]}, "row 2: t is 1, earlier"),
    ],
)  # fmt: skip
def test_refused_objects(frame: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^frame: {message}"):
        EventStream.of(frame)


def test_temporal_data_both_ways() -> None:
    data = pytest.importorskip("torch_geometric.data").TemporalData
    parts = {name: torch.tensor(values) for name, values in COLUMNS.items()}
    message, labels = torch.rand(3, 2), torch.tensor([0, 1, 0])
    stream = EventStream.of(data(**parts, msg=message, y=labels))
    assert (stream.src.tolist(), stream.dst.tolist(), stream.t.tolist()) == EXPECTED
    assert (stream.num_nodes, stream.ids) == (10, None)
    assert torch.equal(stream.edge_features, message)
    again = stream.to_temporal_data()
    assert all(torch.equal(getattr(again, name), part) for name, part in {**parts, "msg": message, "y": labels}.items())
    assert EventStream.of(data(**parts, msg=torch.ones(3, 0))).edge_features is None
    narrow = {name: part.int() for name, part in parts.items()}
    assert EventStream.of(data(**narrow)).t.tolist() == COLUMNS["t"]
    with pytest.raises(DataError, match=r"t is torch.float32; give float64 or int64"):
        EventStream.of(data(**{**parts, "t": parts["t"].float()}))
    for options, message in (
        (
            {"sort": True},
            r"temporal data: TemporalData takes no options but name and split_at; sort the events before",
        ),
        ({"foo": 1}, "temporal data: TemporalData takes no options but name and split_at; omit foo"),
        ({"name": 5}, "name is 5, not text"),
    ):
        with pytest.raises(DataError, match=f"^{message}"):
            EventStream.of(data(**parts), **options)
    for name in ("src", "dst", "t"):
        others = {each: part for each, part in parts.items() if each != name}
        with pytest.raises(DataError, match=f"temporal data: has no {name}; TemporalData needs src, dst and t"):
            EventStream.of(data(**others))
    with pytest.raises(DataError, match=r"sort the events, as in data\[data.t.argsort\(stable=True\)\]"):
        EventStream.of(data(**{**parts, "t": torch.tensor([3, 2, 1])}))
