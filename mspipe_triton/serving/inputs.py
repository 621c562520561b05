"""Times and columns as users write them, and their conversion to those of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.ids import is_single
from mspipe_triton.data.moments import moment
from mspipe_triton.data.times import per_second, unit_of
from mspipe_triton.errors import DataError
from mspipe_triton.models.stored import StoredModel

_BOUND = 2**63 - 1


def column(values: Any) -> Any:
    """Return values that can be read more than once; one value, and what is a column already, as they are."""
    return values if is_single(values) or hasattr(values, "__len__") else list(values)


def times_of(value: Any, stored: StoredModel) -> torch.Tensor:
    """Convert a time, or times [M], to [M] int64 or float64 in the run's unit.

    Fractions are rounded down if the run's times are integers.

    Raises:
        DataError: a value is no time, is not finite or beyond 64 bits, or they are not in one dimension.
    """
    reading, form = stored.reading, stored.config.data.time_format
    if type(value) is int and reading.integers and not reading.time and -_BOUND < value < _BOUND:
        return torch.tensor([value])  # the usual case of a call per event, without the checks below, which it passes
    if is_single(value):
        value = [value.as_py() if isinstance(value, pa.Scalar) else value]
        array = np.array(value) if type(value[0]) in (int, float) else _objects(value)
    else:
        array = _array(value)
    if array.ndim != 1:
        raise DataError(f"t has shape {list(array.shape)}; give one time per event, or one for all")
    kind = np.int64 if reading.integers else np.float64
    if array.dtype.kind not in "iuf":
        array = np.array([moment(each, reading.time, form, reading.integers) for each in array], dtype=kind)
    elif array.dtype.kind in "iu" and "date" in reading.time:  # 20240401 is a date there
        places, array = np.flatnonzero(_like_dates(array)), array.astype(kind)
        array[places] = [moment(int(each), reading.time, form, reading.integers) for each in array[places]]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"t is {array[~np.isfinite(array)][0]}, not finite; give a number or a date")
    expected = reading.time.partition(",")[0]
    if per_second(reading.time) and (unit := unit_of(array)) not in ("", expected):
        value = array[np.abs(array).argmax()]
        raise DataError(f"t is {value}, which looks like {unit}; the run's times are {expected}, so give those")
    if reading.integers:
        array = np.floor(array) if array.dtype.kind == "f" else array
        beyond = (array >= _BOUND) | (array < -_BOUND)  # `moment` returns the bounds for what is beyond
        if beyond.any():
            raise DataError(f"t is {array[beyond][0]}, beyond 64 bits; give a time in the run's unit")
    return torch.from_numpy(array.astype(kind))


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


def plain_list(values: Any) -> list[Any]:
    """Return a column's values as Python's own, those of a list as they are."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return list(values.to_pylist())
    return list(values.tolist()) if isinstance(values, np.ndarray | torch.Tensor) else list(values)


def numbers_of(values: Any) -> np.ndarray:
    """Return numbers of any form as an array; tensors may be on a device, of any dtype, or need gradients.

    Raises:
        TypeError, ValueError: rows differ in length, or values are no numbers.
    """
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    numbers: np.ndarray = np.require(column(values), np.float64, "W")  # torch warns of read-only memory
    return numbers


def _array(values: Any) -> np.ndarray:
    """Return times of any form as an array of numbers, or of objects for `moment`."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray(values.double() if values.is_floating_point() else values)
    values = list(values) if isinstance(values, set | frozenset) else column(values)
    try:
        array = np.asarray(values)
    except ValueError:  # rows that differ in length
        return _objects(values)
    return _objects(list(array)) if array.dtype.kind == "M" and array.ndim == 1 else array


def _like_dates(numbers: np.ndarray) -> np.ndarray:
    """Return a mask [M] of the integers that may be written dates: of 8, or of 12 to 14 digits."""
    return ((numbers >= 10**7) & (numbers < 10**8)) | ((numbers >= 10**11) & (numbers < 10**14))


def _objects(values: Any) -> np.ndarray:
    """Return an array [M] of Python objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    for place, each in enumerate(values):
        array[place] = each
    return array
