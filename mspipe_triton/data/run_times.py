"""Times of new events in the unit of a run's times: dates become the same numbers, and another unit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_columns import plain
from mspipe_triton.data.joins import joined_times, value_at
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.times import per_second, unit_of

Parts = Sequence[pa.ChunkedArray]


def run_times(parts: Parts, name: str, origin: Origin, time: str, integers: bool, form: str = "") -> np.ndarray:
    """Convert a column to times [E] as the run's: int64, or float64 in a run whose times are floats.

    Numbers keep their value. Dates become numbers in the run's unit, where that is known: "Unix seconds" and the like.

    Args:
        parts: the column in each table that `origin` names. name: its name.
        time: the meaning of the run's times, as in "Unix seconds, from dates"; "" for numbers of no known unit, beside
            which numbers of every size are taken.
        integers: the run's times are whole.
        form: the form of the run's dates, as in "%d.%m.%Y", which text and integers have.

    Raises:
        DataError: a value is no time, or its unit is another than the run's, or it has a fraction beside whole times.
        ConfigError: the form cannot be read.
    """
    numbers = None if "date" in time else _whole_numbers(parts)
    if numbers is not None:  # even if they look like dates, such as 20161001
        t, meaning = numbers, unit_of(numbers)
    else:
        formed = all(pa.types.is_integer(part.type) or pa.types.is_string(plain(part).type) for part in parts)
        t, meaning = joined_times(parts, name, origin, form if formed else "")
    column = _Column(parts, name, origin)
    if "date" not in meaning:
        column.check_unit(t, meaning, time)
        return column.as_integers(t) if integers else column.as_floats(t)
    return column.from_dates(t, meaning, time, integers)


class _Column:
    """A column of times, for messages about its values."""

    def __init__(self, parts: Parts, name: str, origin: Origin) -> None:
        self._parts, self._name, self._origin = parts, name, origin

    def check_unit(self, t: np.ndarray, meaning: str, time: str) -> None:
        """Refuse numbers of another unit than the run's, if that is known."""
        unit = time.partition(",")[0] if per_second(time) else meaning
        if unit != meaning:
            size = f"which looks like {meaning}" if meaning else f"which does not look like {unit}"
            dates = "dates or " if "date" in time else ""
            fault = f"{size}, whereas the run's times are {time}"
            self._refuse(np.abs(t) == np.abs(t).max(), fault, f"write {dates}{unit}")

    def as_integers(self, t: np.ndarray) -> np.ndarray:
        """Return numbers as int64."""
        if t.dtype == np.int64:
            return t
        self._refuse(t != np.floor(t), "with a fraction, whereas the run's times are whole", "round it down")
        self._refuse(np.abs(t) >= 2.0**63, "beyond 64 bits", "use the run's unit")
        return t.astype(np.int64)

    def as_floats(self, t: np.ndarray) -> np.ndarray:
        """Return numbers as float64."""
        if t.dtype == np.int64:
            self._refuse(np.abs(t) > 2**53, "which float64, as the run's times are, would round", "use the run's unit")
        return t.astype(np.float64)

    def from_dates(self, t: np.ndarray, meaning: str, time: str, integers: bool) -> np.ndarray:
        """Convert dates, as seconds or nanoseconds of `meaning`, to the run's unit."""
        target, ticks = per_second(time), per_second(meaning)
        if target is None or ticks is None:
            fault = "a date, whereas the run's times are numbers whose dates are unknown"
            return self._fail(0, fault, "write numbers in the run's unit")
        if t.dtype != np.int64:  # seconds with microseconds, which they are exact to
            seconds = np.floor(t)
            t, ticks = seconds.astype(np.int64) * 10**6 + np.rint((t - seconds) * 1e6).astype(np.int64), 10**6
        unit = time.partition(",")[0]
        factor, divisor = max(target // ticks, 1), max(ticks // target, 1)
        self._refuse(np.abs(t) > (2**63 - 1) // factor, f"beyond {unit} of 64 bits", "correct it, or omit the row")
        whole, rest = np.divmod(t * factor, divisor)
        if integers:
            fault = f"finer than the run's times, which are whole {unit}"
            self._refuse(rest > 0, fault, f"round it down to whole {unit.removeprefix('Unix ')}")
            return np.asarray(whole)
        return np.asarray(whole + rest / divisor)  # rounds as `time_column` does

    def _refuse(self, wrong: np.ndarray, fault: str, fix: str) -> None:
        if wrong.any():
            self._fail(int(np.flatnonzero(wrong)[0]), fault, fix)

    def _fail(self, row: int, fault: str, fix: str) -> NoReturn:
        self._origin.fail(row, self._name, value_at(self._parts, row), fault, fix)


def _whole_numbers(parts: Parts) -> np.ndarray | None:
    """Return a column of integers, or of their text, as int64 [E]; None for another."""
    numbers = []
    for column in map(plain, parts):
        text = pa.types.is_string(column.type)
        if column.null_count or not (text or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)):
            return None
        try:
            numbers.append(pc.cast(pc.utf8_trim_whitespace(column) if text else column, pa.int64()))
        except pa.ArrowInvalid:
            return None
    return np.array(pa.concat_arrays(numbers).to_numpy(zero_copy_only=False))
