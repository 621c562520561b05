"""Times and columns as users write them, and their conversion to those of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.moments import moment
from mspipe_triton.errors import DataError
from mspipe_triton.models.stored import StoredModel


def times_of(value: Any, stored: StoredModel) -> tuple[torch.Tensor, bool]:
    """Convert a time, or times [M], to [M] int64 or float64 in the run's unit; also returns whether it was one alone.

    Fractions are rounded down if the run's times are integers.

    Raises:
        DataError: a value is no time, or is not finite.
    """
    single = isinstance(value, str | bytes) or not (hasattr(value, "__len__") or hasattr(value, "__array__"))
    single = single or getattr(value, "ndim", 1) == 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        array = np.array([value])
    elif single:
        array = np.array([moment(value, stored.reading.time, stored.config.data.time_format, stored.reading.integers)])
    else:
        array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if array.dtype.kind not in "iuf":
        values = array.tolist() if array.dtype.kind != "M" else list(array)
        array = np.array(
            [
                moment(each, stored.reading.time, stored.config.data.time_format, stored.reading.integers)
                for each in values
            ],
            dtype=np.int64 if stored.reading.integers else np.float64,
        )
    if array.ndim != 1:
        raise DataError(f"t has shape {list(array.shape)}; give one time per event, or one for all")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"t is {array[~np.isfinite(array)][0]}, not finite; give a number or a date")
    if stored.reading.integers and array.dtype.kind == "f":
        array = np.floor(array)
    return torch.from_numpy(array.astype(np.int64 if stored.reading.integers else np.float64)), single


def broadcast(values: torch.Tensor, length: int, name: str) -> torch.Tensor:
    """Repeat one value for `length` events.

    Raises:
        DataError: there are neither one nor `length` values.
    """
    if values.numel() == length:
        return values
    if values.numel() != 1:
        raise DataError(f"{name} has {values.numel()} values for {length} events; give one per event, or one for all")
    return values.repeat(length)


def picked(values: Any, places: np.ndarray) -> Any:
    """Return the values of a column at some places, in a column of the same kind or in a list."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.take(pa.array(places))
    if isinstance(values, np.ndarray | torch.Tensor):
        return values[places]
    listed = list(values)
    return [listed[place] for place in places.tolist()]
