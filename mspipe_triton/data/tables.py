"""Tables from Python objects: data frames, Arrow tables, dictionaries of arrays and lists."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from math import prod
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.objects import dense_array, objects_to_arrow
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError

_RECORDS = "give a list of dictionaries, one per row"


def table_of(frame: Any, name: str) -> pa.Table:
    """Convert a data frame, an Arrow table, a dictionary of arrays or lists, or a list of dictionaries to a table.

    Raises:
        DataError: the object is none of these, its columns differ in length, or a column cannot be converted.
    """
    table, faults = convert(frame, name)
    for fault in faults.values():
        raise fault
    return table


def convert(frame: Any, name: str) -> tuple[pa.Table, dict[str, DataError]]:
    """Convert as `table_of` does, but return the errors of columns that cannot be converted, which are null.

    Raises:
        DataError: the object is no table, or its columns differ in length.
    """
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame]), {}
    if type(frame).__name__ == "LazyFrame":  # polars
        frame = frame.collect()
    if not isinstance(frame, pa.Table) and (columns := _columns(frame, name)) is not None:
        return _converted(columns, name)
    if hasattr(frame, "__arrow_c_stream__") and not is_series(frame):
        try:
            return pa.table(frame), {}
        except pa.ArrowException as error:
            raise DataError(f"{name}: cannot be converted to an Arrow table: {error}; convert its columns") from error
    raise DataError(f"{name}: {_refusal(frame)}")


def column_to_arrow(values: Any, name: str, column: str) -> pa.Array | pa.ChunkedArray:
    """Convert one column to Arrow without rounding; values of mixed types become text (see `objects_to_arrow`).

    Args:
        values: a list, an array, a tensor, an Arrow array, or a series of pandas or polars.
        name, column: names of the table and the column in messages.

    Raises:
        DataError: it is no column, or a value cannot be converted.
    """
    if isinstance(values, torch.Tensor | np.ndarray) and values.ndim:
        values = _usual(dense_array(values, f"{name}: {column}"))
        if values.ndim > 1:
            return _lists(values, f"{name}: {column}")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if not _is_column(values):
        fault = f"is {shown(values)}, not a column"
        raise DataError(f"{name}: {column}: {fault}; give an array or a list with a value per row")
    kind = getattr(values, "dtype", None)
    if str(kind).startswith("period"):  # pandas
        values = (values.dt if hasattr(values, "dt") else values).to_timestamp()
    if kind is not None and str(kind) not in ("object", "Object") and not _has_objects(kind):
        try:
            is_polars = hasattr(values, "__arrow_c_stream__") and not hasattr(values, "iloc")
            return pa.chunked_array(values) if is_polars else pa.array(values, from_pandas=True)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, pa.ArrowNotImplementedError):
                raise DataError(f"{name}: {column}: holds {kind}; use numbers or text") from error
    return objects_to_arrow(values if isinstance(values, list | tuple) else list(values), name, column)


def index_names(frame: Any) -> list[str]:
    """Return the names of a pandas frame's index, which are no columns; [] for others."""
    if not _is_pandas(frame):
        return []
    return [str(each) for each in frame.index.names if each is not None]


def is_series(values: Any) -> bool:
    """Return True for one column of pandas or polars."""
    return type(values).__name__ == "Series" and hasattr(values, "dtype")


def _columns(frame: Any, name: str) -> dict[str, Any] | None:
    """Return the columns of a frame by name, or None if it holds Arrow columns or is no table.

    Raises:
        DataError: two columns have one name.
    """
    pairs: list[tuple[Any, Any]]
    if isinstance(frame, Mapping):
        pairs = list(frame.items())
    elif isinstance(frame, list | tuple) and frame and all(isinstance(row, Mapping) for row in frame):
        pairs = [(key, [row.get(key) for row in frame]) for key in dict.fromkeys(chain(*frame))]
    elif _is_pandas(frame):
        pairs = [(key, frame.iloc[:, place]) for place, key in enumerate(frame.columns)]
    elif hasattr(frame, "get_columns") and hasattr(frame, "schema"):  # polars
        pairs = [(column.name, column) for column in frame.get_columns()]
    elif isinstance(frame, np.ndarray) and frame.dtype.names:
        pairs = [(key, frame[key]) for key in frame.dtype.names]
    else:
        return None
    names = [str(key) for key, _ in pairs]
    double = next((each for each in names if names.count(each) > 1), None)
    if double is not None:
        raise DataError(f"{name}: column {double!r} appears twice; rename one of them")
    return dict(zip(names, (values for _, values in pairs), strict=True))


def _converted(columns: Mapping[str, Any], name: str) -> tuple[pa.Table, dict[str, DataError]]:
    """Convert columns to a table; those that cannot be converted are null, and their errors come beside it.

    Raises:
        DataError: the columns differ in length, or are no columns.
    """
    arrays, faults = dict[str, Any](), dict[str, DataError]()
    for column, values in columns.items():
        try:
            arrays[column] = column_to_arrow(values, name, column)
        except DataError as error:
            if not _is_column(values):
                raise
            arrays[column], faults[column] = pa.nulls(len(values)), error
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{column} {len(array)}" for column, array in arrays.items())
        raise DataError(f"{name}: the columns differ in length ({lengths}); give all the same number of rows")
    return pa.table(arrays), faults


def _is_column(values: Any) -> bool:
    return (
        hasattr(values, "__len__") and not isinstance(values, str | bytes | Mapping) and getattr(values, "ndim", 1) > 0
    )


def _is_pandas(frame: Any) -> bool:
    return hasattr(frame, "columns") and hasattr(frame, "dtypes") and hasattr(frame, "iloc")


def _has_objects(kind: Any) -> bool:
    """Return True for the dtype of a pandas categorical whose categories are Python objects."""
    return str(kind) == "category" and str(kind.categories.dtype) == "object"


def _usual(values: np.ndarray) -> np.ndarray:
    """Return an array in a form that Arrow knows: in this machine's byte order, and dates in days or less."""
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("D", "s", "ms", "us", "ns"):
        values = values.astype("datetime64[s]")
    return values


def _lists(values: np.ndarray, place: str) -> pa.Array:
    """Convert an array [E, ...] to lists of numbers.

    Raises:
        DataError: a row has no values, or they are no numbers.
    """
    width = prod(values.shape[1:])
    if width == 0 or values.dtype.kind not in "buif":
        fault = f"shape {list(values.shape)}" if width == 0 else f"type {values.dtype}"
        raise DataError(f"{place}: has {fault}; give every row the same number of numbers, or leave the column out")
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


def _refusal(frame: Any) -> str:
    """Return the fault and fix of an object that is no table."""
    if is_series(frame):
        return "is a series, which is one column; pass a frame with named columns"
    if isinstance(frame, list | tuple):
        if not frame:
            return f"is an empty list, with no events or rows; {_RECORDS}"
        row = next(row for row, value in enumerate(frame) if not isinstance(value, Mapping))
        return f"row {row + 1}: is of type {type(frame[row]).__name__}, no dictionary; {_RECORDS}"
    if isinstance(frame, str | PurePath):
        return f"is {shown(str(frame))}, not a table; pass the table itself, or read files with read_stream"
    return (
        f"a stream cannot be made of {type(frame).__name__}; pass a pandas or polars frame, an Arrow table, or "
        "a dictionary of arrays or lists"
    )
