"""Columns of ids: integers and text of any form, as int64, uint64 or string, and never rounded."""

from __future__ import annotations

import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.origin import Origin

# The largest integer up to which all are exact, and numpy's name of the type.
_EXACT = {"float": (2**24, "float32"), "halffloat": (2**11, "float16"), "double": (2**53, "float64")}
_INTEGER, _WHOLE, _NUMBER = r"^(0|-?[1-9]\d*)$", r"^-?\d+(\.0*)?$", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# Words for a missing value, in lower case.
ABSENT = pa.array(["", "na", "n/a", "nan", "null", "none", "<na>", "\\n", "nil"])
_FULL = "write ids in full, as integers or text; codes with a point need a letter, as in x6602.05"


def id_column(column: pa.ChunkedArray, name: str, origin: Origin) -> pa.Array:
    """Convert a column to ids: integers become int64 or uint64, anything else text.

    Text is an integer only if it is written as one: "7" and "7.0" are 7, "007" stays text. Blanks around text are no
    part of an id. Floats are integers if they are whole and small enough to be exact.

    Raises:
        DataError: a value is empty, a fraction, or may have been rounded; or the type holds no ids.
    """
    values = plain(column)
    kind = values.type
    _refuse_empty(values, name, origin)
    if pa.types.is_uint64(kind):
        return _as_integers(values)
    if pa.types.is_integer(kind):
        return pc.cast(values, pa.int64())
    if pa.types.is_floating(kind):
        return _from_floats(values, name, origin)
    if pa.types.is_string(kind):
        return _from_text(values, name, origin)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _from_bytes(values)
    if pa.types.is_nested(kind):
        origin.fail(0, name, values[0], f"of type {kind}", "name a column of integers or text")
    return _from_text(pc.cast(values, pa.string()), name, origin)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Combine a column to one array without dictionaries and extension types, with text as `string`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        parts = [plain(pa.chunked_array([chunk.dictionary])).take(chunk.indices) for chunk in column.chunks]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = pc.cast(column, pa.string())
    return column.combine_chunks()


def _refuse_empty(values: pa.Array, name: str, origin: Origin) -> None:
    if values.null_count:
        missing = pc.is_null(values).to_numpy(zero_copy_only=False)
        origin.refuse(missing, name, values, "", "fill it in, or remove the row")


def _as_integers(values: pa.Array) -> pa.Array:
    """Convert integers to int64, or to uint64 if one is too large for it."""
    try:
        return pc.cast(values, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(values, pa.uint64())


def _from_floats(values: pa.Array, name: str, origin: Origin) -> pa.Array:
    limit, kind = _EXACT[str(values.type)]
    floats = values.to_numpy(zero_copy_only=False).astype(np.float64)
    fix = "fill it in, or remove the row"
    origin.refuse(np.isnan(floats), name, floats, "not an id", fix)
    origin.refuse(~np.isfinite(floats) | (floats != np.floor(floats)), name, floats, "not an integer", _FULL)
    rounded = f"which {kind} may have rounded, as every integer above {limit:,}"
    origin.refuse(np.abs(floats) > limit, name, floats, rounded, "store ids as int64, uint64 or text")
    return pa.array(floats.astype(np.int64))


def _from_text(values: pa.Array, name: str, origin: Origin) -> pa.Array:
    if _all_match(values, _INTEGER):
        return _in_smallest_type(values)
    values = pc.utf8_trim_whitespace(values)
    empty = pc.equal(values, "").to_numpy(zero_copy_only=False)
    origin.refuse(empty, name, values, "", "fill it in, or remove the row")
    missing = pc.is_in(pc.utf8_lower(values), value_set=ABSENT)
    others = values.filter(pc.invert(missing)) if pc.any(missing).as_py() else values
    if not _all_match(others, _NUMBER):
        return values
    # All values are numbers, so a word such as "NA" is a gap, not the name of a node.
    origin.refuse(missing.to_numpy(zero_copy_only=False), name, values, "not an id among integers", "remove the row")
    if _all_match(values, _WHOLE):
        values = pc.replace_substring_regex(values, r"\.0*$", "")
    else:
        values = pa.array([_whole(value, row, name, origin) for row, value in enumerate(values.to_pylist())])
    return _in_smallest_type(values) if _all_match(values, _INTEGER) else values  # otherwise such as 007


def _in_smallest_type(values: pa.Array) -> pa.Array:
    """Convert integers written as text to int64, or to uint64; larger ones stay text."""
    for kind in (pa.int64(), pa.uint64()):
        try:
            return pc.cast(values, kind)
        except pa.ArrowInvalid:
            continue
    return values


def _whole(text: str, row: int, name: str, origin: Origin) -> str:
    """Write a number such as 1e+05 in full; one with a fraction, or whose last digits are unknown, is refused."""
    number = Decimal(text)
    if number != number.to_integral_value():
        origin.fail(row, name, Decimal(text), "not an integer", _FULL)
    if "e" in text.lower() and abs(number) > 2**53:
        origin.fail(row, name, Decimal(text), "rounded by the program that wrote it", _FULL)
    return str(int(number)) if "e" in text.lower() or "." in text else text


def _all_match(values: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False


def _from_bytes(values: pa.Array) -> pa.Array:
    """Convert bytes to text: values of 16 bytes are UUIDs, others UTF-8 or else hexadecimal digits, all in one form."""
    texts = values.to_pylist()
    if all(len(text) == 16 for text in texts) and not all(text.isascii() and text.isalnum() for text in texts):
        return pa.array([str(uuid.UUID(bytes=text)) for text in texts], pa.string())
    try:
        return pa.array([text.decode() for text in texts], pa.string())
    except UnicodeDecodeError:
        return pa.array([text.hex() for text in texts], pa.string())
