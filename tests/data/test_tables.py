"""Tables from Python objects: columns keep their values by type, or are refused with row, type and fix."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.tables import column_to_arrow, table_of
from mspipe_triton.errors import DataError

DAY, NANOSECONDS = dt.datetime(2020, 1, 1), 1_577_836_800_123_456_789
ID = uuid.UUID(int=2**100)


class Size(enum.IntEnum):
    SMALL = 5


class Word(enum.StrEnum):
    HM = "hm"


def column(values: Any) -> tuple[str, list[Any]]:
    """Type and values of a column; timestamps as integers in their unit."""
    array = column_to_arrow(values, "frame", "x")
    return str(array.type), (array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array).to_pylist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2], ("int64", [1, None, 2])), ([1.0, float("nan")], ("double", [1.0, None])), ([], ("null", [])),
        ([1, 2.5], ("double", [1.0, 2.5])), ([True, None], ("bool", [True, None])), ([None], ("null", [None])),
        ([2**53 + 1, 2.0], ("string", [str(2**53 + 1), "2"])), ([2**70, 1], ("string", [str(2**70), "1"])),
        ([1, "a", 1.0, 1.5, True], ("string", ["1", "a", "1", "1.5", "true"])), (["a", None], ("string", ["a", None])),
        ([np.int64(5), np.float32(2), np.str_("x")], ("string", ["5", "2", "x"])),
        ([np.int64(5), np.int8(2), torch.tensor(3), np.array(4)], ("int64", [5, 2, 3, 4])),
        ([Decimal("1.50"), "a", Decimal("2.0")], ("string", ["1.50", "a", "2"])), ([Size.SMALL, 1], ("int64", [5, 1])),
        ([Decimal("NaN"), "a", Decimal("1E+400")], ("string", [None, "a", "1E+400"])), ([Word.HM], ("string", ["hm"])),
        ([ID, None], ("string", [str(ID), None])), ([ID, 5], ("string", [str(ID), "5"])), ([b"a"], ("binary", [b"a"])),
        ([b"a", "b"], ("string", ["a", "b"])), ([b"\xff", b"a", "61"], ("string", ["0xff", "0x61", "61"])),
        (["\ud800", "a"], ("string", ["\\ud800", "a"])), (torch.tensor([1.5], requires_grad=True), ("float", [1.5])),
        ([DAY, None], ("timestamp[us]", [NANOSECONDS // 10**9 * 10**6, None])),
        ([np.datetime64(NANOSECONDS, "ns"), np.datetime64("NaT")], ("timestamp[ns]", [NANOSECONDS, None])),
        ([DAY, dt.date(2020, 1, 1)], ("timestamp[us]", [NANOSECONDS // 10**9 * 10**6] * 2)),
        ([DAY.replace(tzinfo=dt.UTC)], ("timestamp[us, tz=UTC]", [NANOSECONDS // 10**9 * 10**6])),
        ([dt.date(2020, 1, 1), None], ("date32[day]", [dt.date(2020, 1, 1), None])),
        ([DAY, "2020-01-02"], ("string", ["2020-01-01T00:00:00", "2020-01-02"])),
        ([np.ones(2), [1, 2.5], torch.tensor([3.0])], ("list<item: double>", [[1, 1], [1, 2.5], [3]])),
        (np.arange(4)[::-1], ("int64", [3, 2, 1, 0])),
        (np.ones((2, 2, 2)), ("fixed_size_list<item: double>[4]", [[1.0] * 4] * 2)),
        (np.ones((0, 2)), ("fixed_size_list<item: double>[2]", [])),
    ],
)  # fmt: skip
def test_values_keep_their_type(values: Any, expected: tuple[str, list[Any]]) -> None:
    assert column(values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, object()], "row 2: x is of type object, not a number, text, a date or a UUID; convert it, as by str"),
        ([{"a": 1}], "row 1: x is of type dict, not"), ([None, dt.timedelta(1)], "row 2: x is of type timedelta, not"),
        ([1j], "row 1: x is of type complex"),
        ([1, torch.ones(1).to_sparse()], "row 2: x is a tensor of layout torch.sparse_coo; pass a dense one"),
        ([np.timedelta64(1, "ns")], "row 1: x is of type timedelta64"),
        ([dt.time(1)], "row 1: x is of type time"),
        ([[1], ["a"]], "row 2: x holds a str in a list; lists may hold numbers"),
        ([[1], 2], "row 2: x is no list, whereas other rows are; give every row a list"),
        ([DAY.replace(tzinfo=dt.UTC), DAY], "row 2: x has no time zone, whereas other rows have; give every row one"),
        ([np.datetime64(1, "ns"), dt.datetime(9000, 1, 1)], "x has nanoseconds, and years beyond 1677 to 2262"),
        (np.zeros((3, 0)), r"x: has shape \[3, 0\]; give every row the same"),
        (np.ones(2, complex), "x: holds complex128; use numbers"),
        (torch.ones(2, dtype=torch.complex64), "x: holds complex64"),
        (torch.ones(2).to_sparse(), "x: is a tensor of layout"),
        (torch.ones(2, device="meta"), "x: is a tensor on the meta device"),
        (5, "x: is 5, not a column; give an array"),
        (np.array(5), "x: is array.5., not a column"), ("abc", "x: is 'abc', not a column"),
    ],
)  # fmt: skip
def test_refused_values(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^frame: {message}"):
        column(values)


def test_pandas_objects() -> None:
    pandas = pytest.importorskip("pandas")
    moment = pandas.Timestamp(NANOSECONDS)
    assert column(pandas.Series([moment, pandas.NaT, None], dtype=object)) == (
        "timestamp[ns]",
        [NANOSECONDS, None, None],
    )
    assert column([moment.tz_localize("UTC")]) == ("timestamp[ns, tz=UTC]", [NANOSECONDS])
    assert column(pandas.Series([1, pandas.NA, "a"], dtype=object)) == ("string", ["1", None, "a"])
    assert column(pandas.Series([ID, ID]).astype("category")) == ("string", [str(ID)] * 2)
    assert column(pandas.arrays.SparseArray([1, 0])) == ("int64", [1, 0])
    with pytest.raises(DataError, match="frame: row 1: x is of type Period"):
        column(pandas.Series([pandas.Period("2020")], dtype=object))
    with pytest.raises(DataError, match="frame: column '1' appears twice; rename one of them"):
        table_of(pandas.DataFrame([[1, 2]], columns=[1, "1"]), "frame")


def test_polars_objects() -> None:
    polars = pytest.importorskip("polars")
    assert column(polars.Series([ID, None], dtype=polars.Object)) == ("string", [str(ID), None])
    assert table_of(polars.DataFrame({"a": polars.Series([ID], dtype=polars.Object), "b": [1]}), "f").to_pylist() == [
        {"a": str(ID), "b": 1}
    ]


def test_columns_that_nothing_uses_may_hold_anything() -> None:
    frame = {"src": [1, 2], "dst": [2, 1], "t": [1, 2], "x": [object(), {}]}
    assert len(EventStream.of(frame)) == 2
    with pytest.raises(DataError, match="frame: row 1: x is of type object"):
        EventStream.of(frame, features=["x"])
    with pytest.raises(DataError, match="frame: no column for dst; the frame has src, z, t, x; name the right ones"):
        EventStream.of({"src": [1, 2], "z": [2, 1], "t": [1, 2], "x": [object(), {}]})
    with pytest.raises(DataError, match="node_features: row 1: x is of type object"):
        EventStream.of({"src": [1, 2], "dst": [2, 1], "t": [1, 2]}, node_features={"node": [1], "x": [object()]})
