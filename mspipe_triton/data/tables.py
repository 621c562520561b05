"""Tables from Python objects: data frames, Arrow tables, dictionaries of arrays and lists."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.errors import DataError


def table_of(frame: Any, name: str) -> pa.Table:
    """Convert a data frame, an Arrow table, a dictionary of arrays or lists, or a list of dictionaries to a table.

    Raises:
        DataError: the object is none of these, or its columns differ in length.
    """
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if isinstance(frame, Mapping):
        columns = {str(key): _column(values, f"{name}: {key}") for key, values in frame.items()}
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            lengths = ", ".join(f"{key} {len(column)}" for key, column in columns.items())
            raise DataError(f"{name}: the columns differ in length ({lengths}); give all the same number of rows")
        return pa.table(columns)
    if isinstance(frame, list) and frame and all(isinstance(row, Mapping) for row in frame):
        return table_of({key: [row.get(key) for row in frame] for key in dict.fromkeys(chain(*frame))}, name)
    if type(frame).__name__ == "LazyFrame":  # polars
        frame = frame.collect()
    if hasattr(frame, "columns") and hasattr(frame, "dtypes") and hasattr(frame, "iloc"):  # pandas
        return table_of({column: frame[column] for column in _pandas_names(frame, name)}, name)
    if hasattr(frame, "__arrow_c_stream__"):
        try:
            return pa.table(frame)
        except pa.ArrowException as error:
            raise DataError(f"{name}: cannot be converted to an Arrow table: {error}; convert its columns") from error
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        return table_of({column: frame[column] for column in frame.dtype.names}, name)
    raise DataError(
        f"{name}: a stream cannot be made of {type(frame).__name__}; pass a pandas or polars frame, an Arrow table, or "
        "a dictionary of arrays or lists"
    )


def _pandas_names(frame: Any, name: str) -> list[Any]:
    """Return the columns of a pandas frame.

    Raises:
        DataError: two columns have one name.
    """
    names = list(frame.columns)
    double = next((each for each in names if names.count(each) > 1), None)
    if double is not None:
        raise DataError(f"{name}: column {double!r} appears twice; rename one of them")
    return names


def _column(values: Any, name: str) -> pa.Array | pa.ChunkedArray:
    """Convert one column to Arrow, without rounding; values of mixed types become text."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if str(getattr(values, "dtype", "")).startswith("period"):  # pandas
        values = values.dt.to_timestamp()
    if isinstance(values, np.ndarray):
        values = _usual(values)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim > 1:
        rows = values.reshape(values.shape[0], -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise DataError(f"{name}: is {values!r}, not a column; give an array or a list with a value per row")
    try:
        return pa.array(values, from_pandas=True)
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{name}: holds {getattr(values, 'dtype', 'values of another kind')}; use numbers or text"
        ) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
        return pa.array([None if _absent(value) else str(value) for value in values], pa.string())


def _usual(values: np.ndarray) -> np.ndarray:
    """Return an array in a form that Arrow knows: in this machine's byte order, and dates in days or less."""
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("D", "s", "ms", "us", "ns"):
        values = values.astype("datetime64[s]")
    return values


def _absent(value: Any) -> bool:
    """Return True for None and NaN."""
    return value is None or (isinstance(value, float) and value != value)
