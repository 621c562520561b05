"""Columns of ids: integers and text of every kind stay apart, and nothing is rounded."""

from __future__ import annotations

import decimal
import uuid

import numpy as np
import pyarrow as pa
import pytest

from mspipe_triton.data.id_columns import id_column
from mspipe_triton.data.joins import joined_ids
from mspipe_triton.data.origin import Origin
from mspipe_triton.errors import DataError

UUIDS = [uuid.UUID(int=number) for number in (1, 2**100)]


def ids(values: object, kind: pa.DataType | None = None) -> tuple[str, list[object]]:
    """Type and values of the ids of a column."""
    column = pa.chunked_array([pa.array(values, kind)])
    result = id_column(column, "src", Origin((("x", len(column)),)))
    return str(result.type), result.to_pylist()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([3, -1], pa.int8(), ("int64", [3, -1])), ([2**64 - 1, 0], pa.uint64(), ("uint64", [2**64 - 1, 0])),
        ([5, 6], pa.uint64(), ("int64", [5, 6])), ([1.0, -2.0], pa.float64(), ("int64", [1, -2])),
        ([2.0**53], pa.float64(), ("int64", [2**53])), (np.array([7], np.float16), None, ("int64", [7])),
        (["7", "-7", "0"], None, ("int64", [7, -7, 0])), (["7.0", "7"], None, ("int64", [7, 7])),
        (["1e+05", "2"], None, ("int64", [100_000, 2])), (["18446744073709551615"], None, ("uint64", [2**64 - 1])),
        (["9007199254740993", "9007199254740992"], None, ("int64", [2**53 + 1, 2**53])),
        ([str(2**70), "-1"], None, ("string", [str(2**70), "-1"])), (["007", "7"], None, ("string", ["007", "7"])),
        ([" a ", "A"], None, ("string", ["a", "A"])), (["NA", "nan", "x"], None, ("string", ["NA", "nan", "x"])),
        (["1E3", "2"], None, ("string", ["1E3", "2"])), (["1e17"], None, ("string", ["1e17"])),
        (["1e+05", "007"], None, ("string", ["1e+05", "007"])), (["7.0", "007"], None, ("string", ["7.0", "007"])),
        ([str(each).upper() for each in UUIDS], None, ("string", [str(each) for each in UUIDS])),
        (["1.5", "x"], None, ("string", ["1.5", "x"])), (["+1", "1"], None, ("string", ["+1", "1"])),
        ([each.bytes for each in UUIDS], pa.binary(16), ("string", [str(each) for each in UUIDS])),
        ([each.bytes for each in UUIDS], pa.binary(), ("string", [str(each) for each in UUIDS])),
        ([each.bytes for each in UUIDS], pa.uuid(), ("string", [str(each) for each in UUIDS])),
        ([b"ff", b"a"], pa.large_binary(), ("string", ["ff", "a"])),
        ([b"\xff", b"ff"], None, ("string", ["0xff", "0x6666"])),
        ([b"customer-0000001"], None, ("string", ["customer-0000001"])),
        (["a", "b"], pa.large_string(), ("string", ["a", "b"])), (["a", "b"], pa.string_view(), ("string", ["a", "b"])),
        ([decimal.Decimal(10**25), decimal.Decimal(2)], None, ("string", [str(10**25), "2"])),
        ([decimal.Decimal("1.00")], None, ("int64", [1])), ([True, False], None, ("string", ["true", "false"])),
    ],
)  # fmt: skip
def test_ids_of_any_kind(values: object, kind: pa.DataType | None, expected: tuple[str, list[object]]) -> None:
    assert ids(values, kind) == expected


@pytest.mark.parametrize("values", [["b", "a", "b"], [3, 1, 3]])
def test_dictionaries_are_decoded(values: list[object]) -> None:
    encoded = pa.array(values).dictionary_encode()
    assert id_column(pa.chunked_array([encoded]), "src", Origin((("x", 3),))).to_pylist() == values
    parts = [encoded, pa.array(values[::-1]).dictionary_encode()]
    assert id_column(pa.chunked_array(parts), "src", Origin((("x", 6),))).to_pylist() == values + values[::-1]
    if isinstance(values[0], str):
        view = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string_view()))
        assert id_column(pa.chunked_array([view]), "src", Origin((("x", 3),))).to_pylist() == values


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, None], None, "row 2: src is empty; fill it in, or remove the row"),
        (["a", ""], None, "row 2: src is empty"),
        ([" ", "a"], None, "row 1: src is empty"),
        (["1", "None"], None, "row 2: src is 'None', not an id among integers"),
        ([1.0, 2.5], None, "row 2: src is 2.5, not an integer"),
        (["1", "2.5"], None, "row 2: src is 2.5, not an integer"),
        ([1.0, float("nan")], None, "row 2: src is nan, not an id"),
        ([float("inf")], None, "src is inf, not an integer"),
        ([2.0**54], None, "which float64 may have rounded, as every integer above 9,007,199,254,740,992"),
        (np.array([2**25], np.float32), None, "which float32 may have rounded, as every integer above 16,777,216"),
        (["1e+17"], None, "row 1: src is 1E.17, rounded by the program that wrote it"),
        (["5", "1.23457e+18"], None, "row 2: src is '1.23457e.18', rounded by the program that wrote it"),
        (["1.0E+2", "5"], None, "row 1: src is '1.0E.2', rounded by the program that wrote it"),
        (["491511", "4.91511E+12"], None, "row 2: src is '4.91511E.12', rounded by the program that wrote it"),
        (["1234567890123461120.0", "1"], None, "row 1: src is '1234567890123461120.0', which a float may have rounded"),
        ([{"a": 1}], None, "row 1: src is {'a': 1}, of type struct"), ([[1]], None, "of type list"),
        ([None], pa.null(), "row 1: src is empty"),
    ],
)  # fmt: skip
def test_refused_ids(values: object, kind: pa.DataType | None, message: str) -> None:
    with pytest.raises(DataError, match=f"^x: .*{message}"):
        ids(values, kind)


def joined(*parts: object) -> tuple[str, list[object]]:
    """Ids of files whose columns have different types."""
    columns = [pa.chunked_array([pa.array(part)]) for part in parts]
    result = joined_ids(columns, "src", Origin(tuple((f"f{n}", len(part)) for n, part in enumerate(columns))))
    return str(result.type), result.to_pylist()


def test_files_of_different_types() -> None:
    large = pa.array([2**64 - 1], pa.uint64())
    assert joined([1], np.array([2], np.int8)) == ("int64", [1, 2])
    assert joined([1], large) == ("uint64", [1, 2**64 - 1])
    assert joined([-1], large) == ("string", ["-1", str(2**64 - 1)])
    assert joined([2**53 + 1], [2.0]) == ("int64", [2**53 + 1, 2])
    assert joined([1], ["1", "x"]) == ("string", ["1", "1", "x"])
    assert joined([1.0], ["1", "2"]) == ("int64", [1, 1, 2])
    assert joined(pa.array(["a"]).dictionary_encode(), ["a"]) == ("string", ["a", "a"])
    assert joined(pa.array([], pa.int64()), ["a"]) == ("string", ["a"])
    with pytest.raises(DataError, match=r"f1: row 2: src is empty"):
        joined([1], ["a", None])
    with pytest.raises(DataError, match=r"f0: row 1: src is 33554432\.0, which float32 may have rounded"):
        joined(np.array([2**25], np.float32), [1.0])
    with pytest.raises(DataError, match=r"f1: row 1: src is {'a': 1}, of type struct"):
        joined([1], [{"a": 1}])
