"""Numbers of table columns: of every numeric type, in text, and in lists; a bad value is reported with its row."""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.origin import Origin
from mspipe_triton.errors import DataError

Column: TypeAlias = pa.ChunkedArray | np.ndarray
SHARE = 0.9  # of the values of a text column that must be numbers; then the others are faults

_PLAIN = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))"
_THOUSANDS = r"[+-]?[$€£¥]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s?[$€£¥]?"
NUMBER = rf"^\s*(?:{_PLAIN}|{_THOUSANDS})\s*$"
MISSING = r"^\s*(?:NA|N/A|NaN|nan|null|NULL|None|\\N)\s*$"
_MANY = rf"\s*{_PLAIN}(?:(?:\s*[,;]\s*|\s+){_PLAIN})"
LIST = rf"^(?:{_MANY}+\s*|\s*\[{_MANY}*\s*\]\s*)$"
_PAIR = r"^\s*[+-]?\d+,\d+\s*$"

_CORRECT = "correct it, or remove the row"
_FILL = "fill it in, or remove the row"
_WORKING = "numbers, booleans, dates, timestamps, text, and lists of numbers work"


def is_text(kind: pa.DataType) -> bool:
    """True for text of every kind."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def kind_of(name: str, column: Column, origin: Origin) -> str:
    """Tell a column's kind: "number", "list" of numbers or "text", which means categories.

    Text is of the kind of most of its values: if two of those that are not empty are numbers, and at most a tenth (or
    one) are neither numbers nor words for a missing number, the column is numeric and the others are faults. Thousands
    separators and currency signs are allowed. The same holds for lists, as in "0.1,0.2" or "[0.1, 0.2]".

    Raises:
        DataError: the type is unsupported, or values such as "12,5" may be numbers and lists.
    """
    if isinstance(column, np.ndarray):
        return "list"
    kind = column.type
    if pa.types.is_dictionary(kind):
        return "text" if is_text(kind.value_type) else kind_of(name, pc.cast(column, kind.value_type), origin)
    if _is_list(kind):
        if _is_number(kind.value_type):
            return "list"
    elif _is_number(kind):
        return "number"
    elif is_text(kind):
        return _kind_of_text(name, column, origin)
    place = ", ".join(part for part, _ in origin.parts[:1])
    raise DataError(f"{place}: {name} is of type {kind}; {_WORKING}; convert it, or leave the column out")


def numbers(name: str, column: Column, origin: Origin) -> np.ndarray:
    """Convert a column of kind "number" to [E, 1], or of kind "list" to [E, F], float64; times become seconds.

    Raises:
        DataError: a value is empty, not a number or not finite, or a list is of another width than that of row 1.
    """
    if isinstance(column, np.ndarray):
        values = column.astype(np.float64, copy=False)
    else:
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if _is_list(column.type):
            values = _from_lists(name, column, origin)
        elif not is_text(column.type):
            values = _from_numbers(name, column, origin)
        elif kind_of(name, column, origin) == "list":
            values = _from_text_lists(name, column, origin)
        else:
            values = _from_text(name, column, origin)
    values = np.require(values, requirements="W")  # torch warns of read-only memory
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, place = (int(each) for each in np.argwhere(wrong)[0])
        label = name if values.shape[1] == 1 else f"value {place + 1} of {name}"
        origin.fail(row, label, values[row, place], "not finite", _CORRECT)
    return values


def refuse_empty(name: str, empty: pa.Array | pa.ChunkedArray, origin: Origin) -> None:
    """Refuse the first row of a column for which the mask `empty` holds.

    Raises:
        DataError: a row is empty.
    """
    row = pc.index(empty, True).as_py()
    if row >= 0:
        origin.fail(row, name, None, "", _FILL)


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(test(kind) for test in (*numeric, types.is_date, types.is_timestamp, types.is_null))


def _kind_of_text(name: str, column: pa.ChunkedArray, origin: Origin) -> str:
    """Tell the kind of text: "number", "list" or "text"."""
    filled = pc.fill_null(pc.cast(column, pa.string()), "")
    filled = filled.filter(pc.not_equal(pc.utf8_trim_whitespace(filled), ""))
    for kind, pattern in (("number", NUMBER), ("list", LIST)):
        fitting = _count(filled, pattern)
        if fitting >= 2:
            others = len(filled) - fitting - _count(filled, MISSING)
            if others <= max(1, (1 - SHARE) * len(filled)):
                if kind == "list" and _count(filled, _PAIR) == len(filled):
                    first = int(pc.index(pc.match_substring_regex(pc.cast(column, pa.string()), _PAIR), True).as_py())
                    decimal, pair = filled[0].as_py().strip().replace(",", "."), filled[0].as_py().strip()
                    fault, fix = "a number or a list of two", f"write {decimal} or [{pair}]"
                    origin.fail(first, name, column[first].as_py(), fault, fix)
                return kind
    return "text"


def _count(column: pa.ChunkedArray, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(column, pattern)).as_py() or 0)


def _from_numbers(name: str, column: pa.ChunkedArray, origin: Origin) -> np.ndarray:
    """Convert a column of a numeric type to [E, 1]."""
    if column.null_count:
        refuse_empty(name, pc.is_null(column), origin)
    return _floats(column).reshape(-1, 1)


def _floats(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Convert values of a numeric type without nulls to float64."""
    kind = values.type
    if pa.types.is_date(kind):
        values, unit = pc.cast(values, pa.timestamp("s")), "s"
    elif pa.types.is_timestamp(kind):
        unit = kind.unit
    else:
        return np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    ticks = np.asarray(pc.cast(values, pa.int64()).to_numpy(zero_copy_only=False))
    return ticks / {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]


def _from_text(name: str, column: pa.ChunkedArray, origin: Origin) -> np.ndarray:
    """Convert text to [E, 1]."""
    text = _checked(name, column, NUMBER, "not a number", origin)
    return _parsed(pc.replace_substring_regex(text, r"[$€£¥,\s]", "")).reshape(-1, 1)


def _from_text_lists(name: str, column: pa.ChunkedArray, origin: Origin) -> np.ndarray:
    """Convert text of lists to [E, F]."""
    text = _checked(name, column, LIST, "not a list of numbers", origin)
    text = pc.utf8_trim(text, " \t\r\n[]")
    parts = pc.split_pattern_regex(text, r"\s*[,;]\s*|\s+").combine_chunks()
    return _parsed(pc.list_flatten(parts)).reshape(-1, _width(name, column, parts, origin))


def _parsed(text: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Parse numbers without separators; Arrow does not read a plus sign."""
    values = pc.cast(pc.replace_substring_regex(text, r"^\+", ""), pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _checked(name: str, column: pa.ChunkedArray, pattern: str, fault: str, origin: Origin) -> pa.ChunkedArray:
    """Return text as strings, after refusing the first that is empty, a word for that, or does not fit a pattern."""
    text = pc.fill_null(pc.cast(column, pa.string()), "")
    wrong = pc.invert(pc.match_substring_regex(text, pattern)).to_numpy()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = text[row].as_py()
        if re.match(MISSING, value) or not value.strip():
            origin.fail(row, name, value.strip(), "a word for a missing value", _FILL)
        origin.fail(row, name, value, fault, _CORRECT)
    return text


def _from_lists(name: str, column: pa.ChunkedArray, origin: Origin) -> np.ndarray:
    """Convert lists to [E, F]."""
    lists = column.combine_chunks()
    if lists.null_count:
        refuse_empty(name, pc.is_null(lists), origin)
    width, flat = _width(name, column, lists, origin), pc.list_flatten(lists)
    if flat.null_count:
        row, place = divmod(int(pc.index(pc.is_null(flat), True).as_py()), width)
        origin.fail(row, f"value {place + 1} of {name}", None, "", _FILL)
    return _floats(flat).reshape(-1, width)


def _width(name: str, column: pa.ChunkedArray, lists: pa.Array, origin: Origin) -> int:
    """Return the width of lists, after refusing the first that is of another width than that of row 1, or empty."""
    widths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    if widths.size == 0:
        return 1
    origin.refuse(widths == 0, name, column, "without numbers", "give every row the same number of numbers")
    width = int(widths[0])
    fix = "give every row the same number of numbers"
    origin.refuse(widths != width, name, column, f"not of the width {width} of row 1", fix)
    return width
