"""Features from columns of every type: values worked out by hand, categories, text that holds numbers, messages."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.features import FeatureTransform
from mspipe_triton.data.origin import Origin
from mspipe_triton.errors import DataError

DAY = datetime.date(2024, 1, 1)
NOON = datetime.datetime(2024, 1, 1, 12)


def columns(**values: Any) -> dict[str, Any]:
    return {
        name: each
        if isinstance(each, np.ndarray)
        else pa.chunked_array([each if isinstance(each, pa.Array) else pa.array(each)])
        for name, each in values.items()
    }


def transformed(rows: int | None = None, raw: bool = False, **values: Any) -> tuple[torch.Tensor, FeatureTransform]:
    """Features of columns, fitted on all rows unless a number is given, and their transformation."""
    table = columns(**values)
    count = len(next(iter(table.values())))
    origin = Origin((("events.csv", count),))
    transform = FeatureTransform.fit(table, count if rows is None else rows, origin, raw)
    again = FeatureTransform.from_json(json.loads(json.dumps(transform.to_json())))
    features = transform.apply(table, origin)
    assert features.dtype == torch.float32
    assert features.shape == (count, transform.width)
    assert torch.equal(again.apply(table, origin), features)
    assert again.describe() == transform.describe()
    return features, transform


def fault(**values: Any) -> str:
    with pytest.raises(DataError) as error:
        transformed(**values)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 3], [1, 3]),
        (pa.array([1, 3], pa.uint64()), [1, 3]),
        (pa.array([1.5, 3], pa.float32()), [1.5, 3]),
        (pa.array([1.5, 3], pa.float16()), [1.5, 3]),
        ([True, False], [1, 0]),
        ([Decimal("1.25"), Decimal("-3")], [1.25, -3]),
        ([DAY, DAY + datetime.timedelta(2)], [1704067200, 1704240000]),
        ([NOON, NOON + datetime.timedelta(seconds=0.5)], [1704110400, 1704110400.5]),
        (pa.array([NOON, NOON], pa.timestamp("ns", "UTC")), [1704110400.0] * 2),
        (pa.array([7, 9]).dictionary_encode(), [7, 9]),
        (["12", " 3e2 "], [12, 300]),
        (["+1", ".5"], [1, 0.5]),
        (["$1,234.50", "-$3"], [1234.5, -3]),
        (["7 €", "1,000"], [7, 1000]),
    ],
)
def test_columns_that_are_numbers(values: Any, expected: list[float]) -> None:
    features, transform = transformed(raw=True, a=values)
    assert features[:, 0].tolist() == torch.tensor(expected, dtype=torch.float32).tolist()
    assert transform.describe() == ["a: number, not scaled"]


@pytest.mark.parametrize(
    "values",
    [
        [[1.0, 2.0], [3.0, 4.5]],
        pa.array([[1.0, 2.0], [3.0, 4.5]], pa.list_(pa.float32(), 2)),
        pa.array([[1.0, 2.0], [3.0, 4.5]], pa.large_list(pa.float64())),
        np.array([[1.0, 2.0], [3.0, 4.5]]),
        ["1.0,2", "3,4.5"],
        ["[1, 2]", " [3.0 4.5] "],
        ["1; 2", "3; 4.5"],
    ],
)
def test_columns_that_are_lists(values: Any) -> None:
    features, transform = transformed(raw=True, a=values)
    assert features.tolist() == [[1, 2], [3, 4.5]]
    assert transform.describe() == ["a: 2 numbers, not scaled"]


def test_numbers_are_scaled_by_the_training_part() -> None:
    features, transform = transformed(rows=2, a=[1, 3, 4], b=[[0, 5], [0, 7], [1, 6]])
    assert features.tolist() == [[-1, 0, -1], [1, 0, 1], [2, 1, 0]]
    assert transform.describe() == ["a: number", "b: 2 numbers"]


def test_a_long_tail_is_described() -> None:
    tail = [1.0] * 200 + [2.0] * 200 + [1e9]
    _, transform = transformed(amount=tail, both=np.stack([tail, np.arange(401)], 1))
    assert transform.describe() == ["amount: number, logarithm", "both: 2 numbers, 1 with logarithm"]


def test_categories_have_a_column_each_and_one_for_unknown_values() -> None:
    features, transform = transformed(rows=4, a=["x", "y", None, "", "z", "y"])
    assert features.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert transform.describe() == ["a: 3 categories"]
    encoded, _ = transformed(rows=4, a=pa.array(["x", "y", None, "", "z", "y"]).dictionary_encode())
    assert torch.equal(encoded, features)


def test_many_categories_are_hashed() -> None:
    names = [f"é{number}" for number in range(33)]
    features, transform = transformed(rows=33, a=[*names, "new", *names])
    assert transform.describe() == ["a: 33 categories, hashed to 32"]
    assert features.shape == (67, 33)
    assert features.sum(1).tolist() == [1] * 67
    assert features[33].argmax() == 32
    assert not features[:33, 32].any()
    assert torch.equal(features[:33], features[34:])
    empty, _ = transformed(rows=34, a=[*names, None, "new", ""])
    assert empty.shape == (36, 34)
    assert empty.argmax(1).tolist()[33:] == [33, 32, 33]
    assert torch.equal(empty[:33, :32], features[:33, :32])


def test_hashes_are_those_of_other_processes() -> None:
    names = [f"n{number}" for number in range(100)]
    features, _ = transformed(a=names)
    code = "import sys, zlib; print([zlib.crc32(name.encode('utf-8')) % 32 for name in sys.argv[1:]])"
    printed = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True).stdout
    assert features.argmax(1).tolist() == json.loads(printed)


def test_categories_take_cpu_seconds_of_vectors() -> None:
    names = np.char.add("m", np.random.default_rng(0).integers(0, 5000, 1_000_000).astype(str))
    table = columns(a=pa.array(names))
    begin = time.process_time()
    transform = FeatureTransform.fit(table, 700_000, Origin((("x", 1_000_000),)))
    transform.apply(table, Origin((("x", 1_000_000),)))
    # A loop over a million rows takes some seconds of Python; this takes a quarter of a second.
    assert time.process_time() - begin < 2


def test_mostly_numbers_is_a_numeric_column_with_faults() -> None:
    values = [str(number) for number in range(30)]
    values[16] = "12,5o"
    assert fault(amount=values) == "events.csv: row 17: amount is '12,5o', not a number; correct it, or remove the row"
    assert transformed(amount=["1", "2", "x", "y"])[1].describe() == ["amount: 4 categories"]
    assert transformed(amount=["1", "x"])[1].describe() == ["amount: 2 categories"]
    assert transformed(amount=["NA", "None", ""])[1].describe() == ["amount: 3 categories"]


@pytest.mark.parametrize("word", ["NA", "nan", "null", "None", "\\N", "NULL", "NaN"])
def test_words_for_missing_numbers(word: str) -> None:
    shown = repr(word)
    message = f"events.csv: row 2: a is {shown}, a word for a missing value; fill it in, or remove the row"
    assert fault(a=["1", word, "3", word, word, word]) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "", "3"], "row 2: a is empty; fill it in"),
        (["1", None, "3"], "row 2: a is empty; fill it in"),
        ([1.0, None], "row 2: a is empty; fill it in"),
        ([None, None], "row 1: a is empty; fill it in"),
        ([1.0, float("nan")], "row 2: a is nan, not finite; correct it"),
        (["1", "inf", "3"], "row 2: a is inf, not finite; correct it"),
        ([[1, 2], [3]], "row 2: a is [3], not of the width 2 of row 1; give every row the same"),
        ([[1, 2], None], "row 2: a is empty; fill it in"),
        ([[1, 2], [3, None]], "row 2: value 2 of a is empty; fill it in"),
        ([[1.0], [float("inf")]], "row 2: a is inf, not finite"),
        ([[1.0, 2.0], [3, float("nan")]], "row 2: value 2 of a is nan, not finite"),
        ([[], []], "row 1: a is [], without numbers"),
        (["[1, 2]", "[3, 4]", "[5]"], "row 3: a is '[5]', not of the width 2 of row 1"),
        (["[1, 2]", "[3, 4]", "[5, x]"], "row 3: a is '[5, x]', not a list of numbers; correct it"),
        (["", "12,5", "3,75"], "row 2: a is '12,5', a number or a list of two; write 12.5 or [12,5]"),
        (np.array([[1.0, 2.0], [np.inf, 1.0]]), "row 2: value 1 of a is inf, not finite"),
    ],
)
def test_wrong_values_are_reported_with_their_row(values: Any, message: str) -> None:
    assert fault(a=values).startswith(f"events.csv: {message}")


@pytest.mark.parametrize("values", [[{"x": 1}], [b"x"], [["x"]], [datetime.time(12)]])
def test_other_types_are_refused_with_those_that_work(values: Any) -> None:
    message = fault(a=values)
    assert message.startswith("events.csv: a is of type ")
    assert "numbers, booleans, dates, timestamps, text, and lists of numbers work" in message


def test_rows_are_counted_in_their_files() -> None:
    origin = Origin((("a.csv", 2), ("b.csv", 2)))
    with pytest.raises(DataError, match=r"^b\.csv: row 1: x is nan"):
        FeatureTransform.fit(columns(x=[1.0, 2.0, float("nan"), 1.0]), 2, origin)


def test_another_table_needs_the_widths_of_the_training_data() -> None:
    origin = Origin((("events.csv", 2),))
    transform = FeatureTransform.fit(columns(a=[[1, 2], [3, 4]]), 2, origin)
    with pytest.raises(DataError, match=r"row 1: a is \[1\.0\], of 1 numbers; give 2"):
        transform.apply(columns(a=[[1], [2]]), origin)
