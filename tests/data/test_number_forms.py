"""Forms of numbers in text, worked out by hand: decimals, thousands, percent and lists, and other text."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mspipe_triton.data.number_columns import kind_of, numbers
from mspipe_triton.data.origin import Origin
from mspipe_triton.errors import DataError


def read(*values: str) -> tuple[str, list[list[float]] | None]:
    """Kind of a text column, and its numbers."""
    column, origin = pa.chunked_array([values]), Origin((("x", len(values)),))
    kind = kind_of("a", column, origin)
    return kind, None if kind == "text" else numbers("a", column, origin).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("12,50", "1.234,56", "99,00"), [12.5, 1234.56, 99]), (("12,50", "99,00"), [12.5, 99]),
        (("1.234.567,5", "7"), [1234567.5, 7]), (("12,5 €", "3"), [12.5, 3]),
        (("1,5", "7", "-3,25"), [1.5, 7, -3.25]),
        (("1 234,56", "7"), [1234.56, 7]), (("1\u00a0234,5", "12\u202f345"), [1234.5, 12345]),
        (("1\u00a0234", "2\u00a0345"), [1234, 2345]), (("1\u2009234.5", "3"), [1234.5, 3]),
        (("1'234.5", "7.25"), [1234.5, 7.25]), (("1’234,5", "7"), [1234.5, 7]),
        (("$1,234.50", "$3"), [1234.5, 3]), (("1,234,567.50", "2,000,000.25"), [1234567.5, 2000000.25]),
        (("1,234", "999"), [1234, 999]), (("10%", "2.5 %"), [10, 2.5]), (("12,5 %", "3%"), [12.5, 3]),
        (("(3.50)", "4"), [-3.5, 4]), (("($1,000.00)", "$2.00"), [-1000, 2]), (("+1", "-1e+05"), [1, -100000]),
    ],
)  # fmt: skip
def test_numbers(values: tuple[str, ...], expected: list[float]) -> None:
    assert read(*values) == ("number", [[value] for value in expected])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("[1,5]", "[2,5]"), [[1, 5], [2, 5]]), (("[7]", "[8]"), [[7], [8]]),
        (("0.1,0.2", "3,4"), [[0.1, 0.2], [3, 4]]),
        (("1, 2", "3, 4"), [[1, 2], [3, 4]]), (("1;2", "3;4"), [[1, 2], [3, 4]]),
        (("1 2", "300 400"), [[1, 2], [300, 400]]),
        (("255 128 100", "0 0 0"), [[255, 128, 100], [0, 0, 0]]), (("1,2,3", "4,5,6"), [[1, 2, 3], [4, 5, 6]]),
    ],
)  # fmt: skip
def test_lists(values: tuple[str, ...], expected: list[list[float]]) -> None:
    assert read(*values) == ("list", expected)


@pytest.mark.parametrize(
    "values",
    [
        ("0170 1000000", "0171 2000000"), ("030 123 456", "040 123 456"), ("1 2", "1 2 3"), ("1,2,3", "1;2;3"),
        ("1-2", "3-4"), ("1.2.3", "1.2.4"), ("12", "x"), ("1,2,3,4", "x", "y"),
    ],
)  # fmt: skip
def test_other_text(values: tuple[str, ...]) -> None:
    assert read(*values) == ("text", None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("12,5", "3,75"), "row 1: a is '12,5', a number or a list of two; write 12.5 or [12,5]"),
        (("1,234", "5,678"), "row 1: a is '1,234', a number or a list of two; write 1234, 1.234 or [1,234]"),
        (("1 234", "5 678"), "row 1: a is '1 234', a number or a list of two; write 1234 or [1 234]"),
        (("12", "13", "x"), "row 3: a is 'x', not a number; correct it, or remove the row"),
        (("1.5", "2.5", "12,5"), "row 3: a is '12,5', not written as the others, such as '1.5'; correct it"),
        (("10%", "20%", "0.3"), "row 3: a is '0.3', not written as the others, such as '10%'; correct it"),
        (("[1, 2]", "[3, 4]", "5"), "row 3: a is '5', not a list of numbers; correct it"),
        (("0.5 1", *["1 2"] * 10, "x"), "row 12: a is 'x', not a list of numbers; correct it"),
        (("0.5 1", *["1 2"] * 10, "1 2 3"), "row 12: a is '1 2 3', not of the width 2 of row 1; give every row"),
    ],
)  # fmt: skip
def test_refused_values(values: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError) as error:
        read(*values)
    assert str(error.value).startswith(f"x: {message}")
