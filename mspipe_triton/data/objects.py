"""Columns of Python objects as Arrow arrays: numbers, text, bytes, UUIDs, dates and lists; nothing is rounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.errors import DataError

_EXACT = 2**53  # integers up to it are exact as floats
_DIGITS = 100  # of a Decimal that is written in full
_ARROW: tuple[set[type], ...] = ({bool}, {int}, {int, float}, {float}, {Decimal}, {str}, {bytes}, {date})  # as they are
_EPOCH, _MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)


class _Moment(NamedTuple):
    """Date and time: nanoseconds since 1970 in UTC, its text, and whether it has a zone."""

    nanoseconds: int
    text: str
    zoned: bool


def objects_to_arrow(values: Sequence[Any], name: str, column: str) -> pa.Array:
    """Convert a column of Python objects to Arrow.

    Values of one type keep it: bool, int, float, Decimal, str, bytes, date, and date-times to the nanosecond. UUIDs are
    their text. Numpy scalars, and tensors and arrays without dimensions, are their values. None, NaN and NaT are null.
    Integers beside floats or Decimals are numbers if that is exact. Other mixtures become text, in which 2.0 is 2.
    Lists, arrays and tensors of numbers make a column of lists.

    Args:
        name, column: names of the table and the column in messages.

    Raises:
        DataError: a value is of another type, a date-time has no zone beside those with one, or only some are lists.
    """
    kinds = _kinds(values)
    if kinds and kinds not in _ARROW:
        values = list(_values(values, name, column))
        kinds = _kinds(values)
    if list in kinds and len(kinds) > 1:
        row = next(row for row, value in enumerate(values, 1) if value is not None and not isinstance(value, list))
        raise DataError(f"{name}: row {row}: {column} is no list, whereas other rows are; give every row a list")
    if kinds == {date, _Moment}:
        values = [_moment(value) if type(value) is date else value for value in values]
        kinds = {_Moment}
    if kinds == {_Moment}:
        return _moments(values, name, column)
    if kinds == {int, Decimal}:
        values, kinds = [Decimal(value) if isinstance(value, int) else value for value in values], {Decimal}
    if not kinds or kinds == {list} or kinds in _ARROW:
        try:
            return pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            if kinds == {list}:
                raise DataError(f"{name}: {column} has lists of mixed numbers; give all of them one type") from None
    return _texts(values)


def dense_array(values: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    """Return an array or tensor as an array in memory; types that numpy does not have become float32.

    Raises:
        DataError: it is sparse, without values, or complex.
    """
    try:
        return _dense(values)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def bytes_as_text(values: Sequence[bytes | None]) -> list[str | None]:
    """Return a column's bytes as text: all as UTF-8 if all are, otherwise all as hexadecimal digits after 0x."""
    try:
        return [None if value is None else value.decode() for value in values]
    except UnicodeDecodeError:
        return [None if value is None else hexadecimal(value) for value in values]


def hexadecimal(value: bytes) -> str:
    """Return bytes as hexadecimal digits after 0x, so that they never equal those of text."""
    return f"0x{value.hex()}"


def _dense(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Convert as `dense_array`, which adds the name to errors."""
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided or values.is_nested:
            raise DataError(f"is a tensor of layout {values.layout}; pass a dense one, as of to_dense()")
        if values.is_meta:
            raise DataError("is a tensor on the meta device, which has no values; pass one with values")
        values = values.detach().cpu().resolve_conj().resolve_neg()
        small = values.is_floating_point() and values.element_size() < 4 and values.dtype != torch.float16
        values = (values.float() if small else values).numpy()
    if values.dtype.kind == "c":
        raise DataError(f"holds {values.dtype}; use numbers or text, as of array.real")
    return values


def _kinds(values: Sequence[Any]) -> set[type]:
    return set(map(type, values)) - {type(None)}


def _values(values: Sequence[Any], name: str, column: str) -> Iterator[Any]:
    """Yield what `_value` returns.

    Raises:
        DataError: as `_value`, with the row.
    """
    for row, value in enumerate(values, 1):
        try:
            yield _value(value)
        except DataError as error:
            raise DataError(f"{name}: row {row}: {column} {error}") from error


def _value(value: Any) -> Any:
    """Return a value as None, bool, int, float, Decimal, str, bytes, date, `_Moment`, or a list of numbers.

    Raises:
        DataError: it is of another type.
    """
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        array = _dense(value)
        value = array[()] if array.ndim == 0 else list(array)
    if isinstance(value, np.datetime64 | datetime):
        return None if value != value else _moment(value)  # NaT differs from itself
    if isinstance(value, np.generic) and not isinstance(value, np.timedelta64):
        value = value.item()
    if value is None or type(value).__name__ == "NAType":  # of pandas
        return None
    if isinstance(value, list | tuple):
        return [_number(each) for each in value]
    if isinstance(value, float | Decimal):
        missing = value.is_nan() if isinstance(value, Decimal) else value != value
        return None if missing else value
    if isinstance(value, bool | date):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise DataError(
        f"is of type {type(value).__name__}, not a number, text, a date or a UUID; convert it, as by str(value)"
    )


def _number(value: Any) -> Any:
    """Return a number of a list.

    Raises:
        DataError: it is no number.
    """
    number = _value(value)
    if number is None or isinstance(number, bool | int | float):
        return number
    raise DataError(f"holds a {type(value).__name__} in a list; lists may hold numbers only, so convert it")


def _moment(value: date | np.datetime64) -> _Moment:
    """Convert a date, a date-time, pandas' or numpy's; those without a zone count as UTC."""
    if isinstance(value, np.datetime64):
        unit, text = np.datetime_data(value.dtype)[0], str(value)
        if unit in ("ns", "ps", "fs", "as"):
            return _Moment(int(value.astype("datetime64[ns]").astype(np.int64)), text, False)
        return _Moment(int(value.astype("datetime64[us]").astype(np.int64)) * 1000, text, False)
    text, finer = value.isoformat(), getattr(value, "nanosecond", 0)  # pandas has nanoseconds
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    if hasattr(moment, "to_pydatetime"):
        moment = moment.to_pydatetime(warn=False)
    zoned = moment.tzinfo is not None
    moment = moment.astimezone(UTC).replace(tzinfo=None) if zoned else moment
    return _Moment((moment - _EPOCH) // _MICROSECOND * 1000 + finer, text, zoned)


def _moments(values: Sequence[_Moment | None], name: str, column: str) -> pa.Array:
    """Convert date-times to timestamps, in nanoseconds if one needs them, otherwise in microseconds.

    Raises:
        DataError: one has no zone beside those with one, or is too far away for nanoseconds.
    """
    zoned = {value.zoned for value in values if value is not None}
    if len(zoned) > 1:
        row = next(row for row, value in enumerate(values, 1) if value is not None and not value.zoned)
        raise DataError(f"{name}: row {row}: {column} has no time zone, whereas other rows have; give every row one")
    fine = any(value is not None and value.nanoseconds % 1000 for value in values)
    kind = pa.timestamp("ns" if fine else "us", "UTC" if True in zoned else None)
    ticks = [None if value is None else value.nanoseconds // (1 if fine else 1000) for value in values]
    try:
        return pa.array(ticks, pa.int64()).cast(kind)
    except OverflowError:
        raise DataError(
            f"{name}: {column} has nanoseconds, and years beyond 1677 to 2262; round to microseconds"
        ) from None


def _texts(values: Sequence[Any]) -> pa.Array:
    """Write values of different types as text."""
    in_bytes = [value for value in values if isinstance(value, bytes)]
    words = dict(zip(in_bytes, bytes_as_text(in_bytes), strict=True))
    return pa.array([words[value] if isinstance(value, bytes) else _text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    """Write a value as text, whole numbers without a point."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair
    if isinstance(value, _Moment | date):
        return value.text if isinstance(value, _Moment) else value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    whole = (isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT) or (
        isinstance(value, Decimal) and value.is_finite() and value.adjusted() < _DIGITS and value == value.to_integral()
    )
    return str(int(value)) if whole else str(value)
