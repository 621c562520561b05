"""Columns of ids: integers and text of any form, as int64, uint64 or string, and never rounded."""

from __future__ import annotations

import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.lost_digits import lost_digits
from mspipe_triton.data.objects import bytes_as_text, hexadecimal
from mspipe_triton.data.origin import Origin

# The largest integer up to which all are exact, and numpy's name of the type.
_EXACT = {"float": (2**24, "float32"), "halffloat": (2**11, "float16"), "double": (2**53, "float64")}
_INTEGER, _WHOLE = r"^(0|-?[1-9]\d*)$", r"^-?\d+(\.0*)?$"
# An exponent needs a sign, as R and C write it: 1E3 may be the code of a product.
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]\d+)?$"
UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
# Words for a missing value, in lower case.
ABSENT = pa.array(["", "na", "n/a", "nan", "null", "none", "<na>", "\\n", "nil"])
_UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_HEAD = 1024  # values that are looked at first
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
    if _is_bytes(kind):
        return _from_bytes(values)
    if pa.types.is_nested(kind):
        origin.fail(0, name, values[0], f"of type {kind}", "name a column of integers or text")
    return _from_text(pc.cast(values, pa.string()), name, origin)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Combine a column to one array without dictionaries, extension types and views, with text as `string`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        parts = [plain(pa.chunked_array([chunk.dictionary])).take(chunk.indices) for chunk in column.chunks]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = pc.cast(column, pa.string())
    if pa.types.is_binary_view(column.type):
        column = pc.cast(column, pa.binary())
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
    if not (_are_numbers(values.slice(0, _HEAD)) and _are_numbers(values)):
        return pc.utf8_lower(values) if _all_match(values, _UUID) else values
    # All values are numbers, so a word such as "NA" is a gap, not the name of a node.
    missing = pc.is_in(pc.utf8_lower(values), value_set=ABSENT).to_numpy(zero_copy_only=False)
    origin.refuse(missing, name, values, "not an id among integers", "remove the row")
    fault = "rounded by the program that wrote it"
    origin.refuse(lost_digits(values), name, values, fault, _FULL)
    fractional = pc.match_substring_regex(values, r"\.").to_numpy(zero_copy_only=False)
    if fractional.any():
        large = np.abs(pc.cast(values, pa.float64()).to_numpy()) > 2**53
        origin.refuse(fractional & large, name, values, "which a float may have rounded", _FULL)
    if _all_match(values, _WHOLE):
        whole = pc.replace_substring_regex(values, r"\.0*$", "")
    else:
        whole = pa.array([_whole(value, row, name, origin) for row, value in enumerate(values.to_pylist())])
    return _in_smallest_type(whole) if _all_match(whole, _INTEGER) else values  # all as they are for one such as 007


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


def _are_numbers(values: pa.Array) -> bool:
    """Return True if all values are numbers, but for words for missing values."""
    missing = pc.is_in(pc.utf8_lower(values), value_set=ABSENT)
    return _all_match(values.filter(pc.invert(missing)), _NUMBER)


def _all_match(values: pa.Array, pattern: str) -> bool:
    """Return True if all values match, after a look at the first ones, which most often tell."""
    parts = (values.slice(0, _HEAD), values)
    return all(pc.all(pc.match_substring_regex(part, pattern)).as_py() is not False for part in parts)


def as_ids(values: pa.Array | pa.ChunkedArray, like: pa.Array) -> pa.Array:
    """Convert values to integers or text, each as `id_column` reads it in a column of ids such as `like`.

    Beside integers, "1.0", "1e+00" and 1.0 are 1. Beside text, 1.0 is "1". Bytes have the form of the ids: UUIDs,
    hexadecimal digits or text. Floats that may have been rounded, and bytes of another form, are null.

    Args:
        values: [M] of any type. like: distinct ids of int64, uint64 or string.

    Raises:
        pa.ArrowException: the type holds no ids, as lists do.
    """
    values, text = plain(pa.chunked_array([values]) if isinstance(values, pa.Array) else values), pa.string()
    kind = values.type
    if pa.types.is_integer(kind):
        return values
    if _is_bytes(kind):
        values = pa.array(_bytes_like(values.to_pylist(), like), text)
    elif pa.types.is_floating(kind):
        values, limit = pc.cast(values, pa.float64()), float(_EXACT[str(kind)][0])
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less_equal(pc.abs(values), limit))
        integers = pc.cast(pc.if_else(whole, values, pa.scalar(None, pa.float64())), pa.int64())
        values = pc.if_else(whole, pc.cast(integers, text), pa.scalar(None, text))
    elif pa.types.is_decimal(kind):
        values = pc.replace_substring_regex(pc.cast(values, text), r"\.0*$", "")
    values = pc.utf8_trim_whitespace(pc.cast(values, text))
    if pa.types.is_string(like.type):
        return values
    values = pc.if_else(
        pc.match_substring_regex(values, _WHOLE), pc.replace_substring_regex(values, r"\.0*$", ""), values
    )
    written = pc.and_(pc.match_substring_regex(values, _NUMBER), pc.match_substring_regex(values, r"[eE.]"))
    if pc.any(written).as_py():
        values = pc.replace_with_mask(values, pc.fill_null(written, False), _integers(values.filter(written)))
    return values


def _integers(values: pa.Array) -> pa.Array:
    """Write numbers such as 1e+05 in full; a fraction, or one whose last digits are unknown, is null."""
    numbers = [Decimal(value) for value in values.to_pylist()]
    whole = [abs(number) <= 2**53 and number == number.to_integral_value() for number in numbers]
    return pa.array([str(int(each)) if ok else None for each, ok in zip(numbers, whole, strict=True)], pa.string())


def _is_bytes(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))


def _from_bytes(values: pa.Array) -> pa.Array:
    """Convert bytes to text in one form: UUIDs if all have 16 bytes and one is not printable (see `bytes_as_text`)."""
    parts = values.to_pylist()
    if all(len(part) == 16 for part in parts) and not all(_is_printable(part) for part in parts):
        return pa.array([str(uuid.UUID(bytes=part)) for part in parts], pa.string())
    return pa.array(bytes_as_text(parts), pa.string())


def _bytes_like(values: list[bytes | None], like: pa.Array) -> list[str | None]:
    """Convert bytes to text of the form of a table's ids; None if that is impossible."""
    texts = pa.types.is_string(like.type) and len(like) > 0
    if texts and _all_match(like, r"^0x([0-9a-f]{2})*$"):
        return [None if value is None else hexadecimal(value) for value in values]
    if texts and _all_match(like, UUID):
        return [None if value is None or len(value) != 16 else str(uuid.UUID(bytes=value)) for value in values]
    return [None if value is None else _decoded(value) for value in values]


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _is_printable(value: bytes) -> bool:
    return (_decoded(value) or "").isprintable()
