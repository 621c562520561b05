"""Files of features: .npy arrays, memory-mapped, whose rows belong to events."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch

from mspipe_triton.data.features import FeatureTransform, Part
from mspipe_triton.data.origin import Origin, shown, shown_path
from mspipe_triton.data.scaling import Scaling, check_finite, scaled_in_chunks
from mspipe_triton.errors import DataError
from mspipe_triton.files import close_file


class EdgeFeatures(NamedTuple):
    """Edge features of a file, in the form that `EventStream` takes.

    Args:
        table: [E, F] a view of the mapped file, if its rows are in the order of the events; otherwise scaled float32.
        scaling: the scaling of the rows of a mapped file, None if they are final.
        transform: the transformation that the scaling belongs to, for messages and the run folder.
    """

    table: torch.Tensor
    scaling: Scaling | None
    transform: FeatureTransform


class RowNumbers(NamedTuple):
    """Column that names the row of each event in a file of features: TGN's `idx`.

    Args:
        values: [E] integers, in the order of the table's rows.
        column: its name.
        origin: the origin of the table's rows.
    """

    values: np.ndarray
    column: str
    origin: Origin


def load_edge_features(
    path: str | Path, events: int, training: int, row_numbers: RowNumbers | None = None,
    order: np.ndarray | None = None, raw: bool = False,
) -> EdgeFeatures:  # fmt: skip
    """Load features of E events from a .npy file, of which nothing is copied if it is in the order of the events.

    The file has E rows, or E + 1 with a first row of zeros, which belongs to no event, as TGN writes them. Row numbers
    may select rows of a longer file. An array [E] is one column.

    Args:
        events: E. training: the number of training events, which come first, after sorting.
        row_numbers: the row of each event; None for the order of the rows.
        order: [E] the table's row of each event, if the events are sorted.
        raw: True leaves values as they are.

    Raises:
        DataError: the file is not a .npy file of numbers, the numbers of rows differ, or a value is not finite.
    """
    array, rows, name = event_rows(path, events, row_numbers, order)
    count = training if isinstance(rows, int) else rows[:training]
    scaling = Scaling.identity(array.shape[1]) if raw else Scaling.fit(array, count)
    transform = FeatureTransform((Part(name, scaling),))
    if isinstance(rows, int) and array.flags.c_contiguous and array.dtype.isnative and array.dtype != np.longdouble:
        return EdgeFeatures(torch.from_numpy(array), scaling, transform)
    return EdgeFeatures(scaled_in_chunks(array, scaling, rows), None, transform)


def event_rows(
    path: str | Path, events: int, row_numbers: RowNumbers | None = None, order: np.ndarray | None = None
) -> tuple[np.ndarray, int | np.ndarray, str]:
    """Map a .npy file of features of E events, and find their rows in it; see `load_edge_features`.

    Returns:
        The array, the rows of the events in it, as their number E (they come first) or as numbers [E], and its name.

    Raises:
        DataError: as `load_edge_features`.
    """
    array, name = open_array(path), shown_path(Path(path))
    rows = _rows_of_events(array, name, events, row_numbers)
    rows = rows if order is None else rows[order]

    def refuse(event: int, column: int, value: float) -> NoReturn:
        fail_in_array(name, f"row {rows[event]}", column, value)

    first = int(rows[0]) if events else 0
    in_order = np.array_equal(rows, np.arange(first, first + events))
    selected: int | np.ndarray = events if in_order else rows
    array = array[first : first + events] if in_order else array
    check_finite(array, selected, refuse)
    return array, selected, name


def fail_in_array(name: str, row: str, column: int, value: float) -> NoReturn:
    """Raise the error about a value of a .npy file that is not finite.

    Raises:
        DataError: always.
    """
    counting = "rows and columns count from 0"
    raise DataError(
        f"{name}: {row}, column {column} is {shown(value)}, not finite; correct it in the file ({counting})"
    )


def open_array(path: str | Path) -> np.ndarray:
    """Map a .npy file of real numbers [M, F] into memory, read-only in effect; an array [M] is one column.

    Raises:
        DataError: the file is missing, of another format, or holds no matrix of numbers.
    """
    name = shown_path(Path(path))
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start[:2] == b"PK":
            raise DataError(f"{name}: the file is an archive of arrays; save one array with numpy.save")
        if start != b"\x93NUMPY":
            raise DataError(f"{name}: the file is not in the .npy format; save the array with numpy.save")
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file; name a .npy file{close_file(name)}") from None
    except OSError as error:
        raise DataError(f"{name}: the file cannot be read ({error.strerror}); name a .npy file") from error
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        if "object" in str(error).lower():
            fix = "convert it to numbers, as in array.astype('float32'), and save it again"
            raise DataError(f"{name}: the array holds Python objects; {fix}") from error
        raise DataError(f"{name}: the file is damaged ({str(error)[:100]}); save the array again") from error
    if array.dtype.kind not in "buif":
        fix = "convert it to numbers, as in array.astype('float32'), and save it again"
        raise DataError(f"{name}: the array is of type {array.dtype}; {fix}")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name}: the array has shape {array.shape}; give it one row per event or node")
    return array


def _rows_of_events(array: np.ndarray, name: str, events: int, numbers: RowNumbers | None) -> np.ndarray:
    """Return the file's row [E] of each event, in the order of the table."""
    count = array.shape[0]
    padded = count == events + 1 and not array[0].any()
    if numbers is None:
        if count != events and not padded:
            first = "; its first row may be left over only if it is zeros" if count == events + 1 else ""
            raise DataError(f"{name}: the file has {count:,} rows for {events:,} events; give one row per event{first}")
        return np.arange(padded, events + padded)
    rows, fix = numbers.values, "give the number of its row, from 0"
    wrong = (rows < 0) | (rows >= count)
    numbers.origin.refuse(wrong, numbers.column, rows, f"but {name} has rows 0 to {count - 1}", fix)
    if padded:
        numbers.origin.refuse(rows == 0, numbers.column, rows, f"but row 0 of {name} is zeros, of no event", fix)
    return rows.astype(np.int64, copy=False)
