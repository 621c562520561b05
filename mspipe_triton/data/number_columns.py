"""Numbers of table columns: of every numeric type, in text, and in lists; a bad value is reported with its row."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.number_forms import PLAIN, ListForm, NumberForm, checked, form_of
from mspipe_triton.data.origin import Origin
from mspipe_triton.errors import DataError

Column: TypeAlias = pa.ChunkedArray | np.ndarray

_CORRECT = "correct it, or remove the row"
_FILL = "fill it in, or remove the row"
_WORKING = "numbers, booleans, dates, timestamps, text, and lists of numbers work"


def is_text(kind: pa.DataType) -> bool:
    """True for text of every kind."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def kind_of(name: str, column: Column, origin: Origin) -> str:
    """Tell a column's kind: "number", "list" of numbers or "text", which means categories.

    Text holds numbers or lists if `form_of` recognises their form.

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
        form = form_of(name, _filled(column), origin)
        return "text" if form is None else "number" if isinstance(form, NumberForm) else "list"
    place = ", ".join(part for part, _ in origin.parts[:1])
    raise DataError(f"{place}: {name} is of type {kind!s:.60}; {_WORKING}; convert it, or leave the column out")


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
        elif is_text(column.type):
            values = _from_text(name, _filled(column), origin)
        else:
            values = _from_numbers(name, column, origin)
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


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text as strings, with "" for null."""
    return pc.fill_null(pc.cast(column, pa.string()), "")


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


def _from_text(name: str, text: pa.ChunkedArray, origin: Origin) -> np.ndarray:
    """Convert text to [E, F]; one that is neither numbers nor lists as plain numbers, to report its first fault."""
    form = form_of(name, text, origin) or PLAIN
    text = checked(name, text, form, origin)
    if isinstance(form, ListForm):
        parts = form.lists(text)
        return PLAIN.floats(pc.list_flatten(parts)).reshape(-1, _width(name, text, parts, origin))
    return form.floats(text).reshape(-1, 1)


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
