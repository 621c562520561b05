"""Times from a column of any type: numbers are kept as they are, dates become Unix seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_columns import plain
from mspipe_triton.data.lost_digits import lost_digits
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.time_forms import DATES, Parser, chosen_form, first_failure, parses, strictly, suggested_forms
from mspipe_triton.errors import DataError

_DIGITS = {"%Y%m%d": (), "%Y%m%d%H%M": (60, 24), "%Y%m%d%H%M%S": (60, 60, 24)}  # limits of seconds, minutes and hours
_ADVICE = "write numbers, or dates such as 2016-10-01, 2016-10-01 12:30:05 or 2016-10-01T12:30:05+02:00"
_UNITS = ((1e8, 1e10, "Unix seconds"), (1e11, 1e13, "Unix milliseconds"), (1e14, 1e16, "Unix microseconds"),
          (1e17, 1e19, "Unix nanoseconds"))  # fmt: skip
_PER_SECOND = {"Unix seconds": 1, "Unix milliseconds": 10**3, "Unix microseconds": 10**6, "Unix nanoseconds": 10**9}


def time_column(column: pa.ChunkedArray, name: str, origin: Origin, form: str = "") -> tuple[np.ndarray, str]:
    """Convert a column to times [E], int64 or float64, and describe their meaning.

    Numbers keep their value and unit. Dates become Unix seconds: integers, or float64 if one has a fraction of a
    second; integer nanoseconds if one is finer than a microsecond. Dates without a zone count as UTC. Integers that
    are all dates such as 20161001, or date-times such as 20161001123005, are read as such.

    Args:
        form: the form of dates as text or integers, such as "%d.%m.%Y"; "" for numbers and dates of usual forms.

    Raises:
        DataError: a value is empty, not finite, or neither number nor date; or the type is float32 or holds no times.
        ConfigError: the form cannot be read.
    """
    values = plain(column)
    kind = values.type
    if values.null_count:
        missing = pc.is_null(values).to_numpy(zero_copy_only=False)
        origin.refuse(missing, name, values, "", "fill it in, or remove the row")
    if form:
        return _from_form(values, name, origin, form)
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        bits = 32 if pa.types.is_float32(kind) else 16
        fault = f"float{bits}, which is minutes off for Unix seconds"
        origin.fail(0, name, values[0], fault, "store times as float64 or integers")
    if pa.types.is_string(kind):
        return _from_text(pc.utf8_trim_whitespace(values), name, origin)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _from_dates(values)
    if pa.types.is_integer(kind):
        try:
            return _from_integers(pc.cast(values, pa.int64()), name, origin)
        except pa.ArrowInvalid:
            large = values.to_numpy() > np.uint64(2**63 - 1)
            origin.refuse(large, name, values, "above 2^63 - 1", "use a coarser unit")
    if pa.types.is_decimal(kind):
        return _from_decimals(values, name, origin)
    if pa.types.is_floating(kind):
        return _from_floats(pc.cast(values, pa.float64()), name, origin)
    fault = "a time of day without its date" if pa.types.is_time(kind) else f"of type {kind!s:.60}"
    return origin.fail(0, name, values[0], fault, "use numbers, dates or timestamps")


def unit_of(t: np.ndarray) -> str:
    """Name the unit of numbers that look like Unix times, by their size; "" for others."""
    largest = float(np.abs(t).max(initial=0))
    return next((unit for low, high, unit in _UNITS if low <= largest < high), "")


def per_second(meaning: str) -> int | None:
    """Return the number of units in a second of times of some meaning; None if they are not Unix times."""
    return next((count for unit, count in _PER_SECOND.items() if meaning.startswith(unit)), None)


def date_value(text: str, form: str = "") -> int | None:
    """Return the nanoseconds since 1970 of a date of a usual form or of `form`; None for other text."""
    digits = are_dates(np.array([int(text)]))[0] if re.fullmatch("[0-9]{8,14}", text) else ""
    chosen = [chosen_form(each) for each in (form, digits) if each]
    values = pa.array([text])
    parser = next((parser for parser in (*chosen, *(() if digits else DATES)) if parses(parser, values)), None)
    if parser is None:
        return None
    ticks, second = _ticks(parser(values))
    return int(ticks[0]) * (10**9 // second)


def tie_share(t: np.ndarray) -> float:
    """Return the share of events that share their time with another event; their times t [E] are in order."""
    same = t[1:] == t[:-1]
    return float((np.append(same, False) | np.append(False, same)).mean())


def is_time(text: str) -> bool:
    """Return True for the text of one time."""
    try:
        time_column(pa.chunked_array([[text]]), "", Origin((("", 1),)))
    except DataError:
        return False
    return True


def are_dates(t: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the form of integers [E] of which the first and more than half are dates, "" for others, and which are."""
    for form, limits in _DIGITS.items():
        unit = 100 ** len(limits)
        if t.size and 19000101 * unit <= t[0] < 21010101 * unit:
            dates, rest = _days(t // unit), t
            for limit in limits:
                dates, rest = dates & (rest % 100 < limit), rest // 100
            if dates[0] and dates.mean() > 1 / 2:
                return form, dates
    return "", np.zeros(t.size, dtype=bool)


def _days(numbers: np.ndarray) -> np.ndarray:
    """Return which numbers [E] are days of 1900 to 2100, such as 20161031."""
    year, month, day = numbers // 10**4, numbers // 100 % 100, numbers % 100
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[month * (month <= 12)]
    return np.asarray((year >= 1900) & (year <= 2100) & (day >= 1) & (day <= lengths + (leap & (month == 2))))


def _from_integers(values: pa.Array, name: str, origin: Origin) -> tuple[np.ndarray, str]:
    t = np.array(values.to_numpy())
    form, dates = are_dates(t)
    if form:
        origin.refuse(~dates, name, t, f"no date, as {t[0]} in the first row is", "correct it, or remove the row")
        return _from_dates(strictly(pc.cast(values, pa.string()), form))[0], f"Unix seconds, from dates such as {t[0]}"
    return t, unit_of(t)


def _from_form(values: pa.Array, name: str, origin: Origin, form: str) -> tuple[np.ndarray, str]:
    """Convert dates, as text or integers, of the form that the user names."""
    parser = chosen_form(form)
    if not pa.types.is_string(values.type) and not pa.types.is_integer(values.type):
        origin.fail(0, name, values[0], f"of type {values.type!s:.60}, which has no form", "omit --time-format")
    values = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    if not parses(parser, values):
        row = first_failure(values, parser)
        fix = "correct it, or change --time-format" if values[row].as_py() else "fill it in, or remove the row"
        origin.fail(row, name, values[row], f"not of the form {form}", fix)
    return _from_dates(parser(values))


def _from_floats(values: pa.Array, name: str, origin: Origin) -> tuple[np.ndarray, str]:
    t = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    origin.refuse(~np.isfinite(t), name, t, "not finite", "correct it, or remove the row")
    return t, unit_of(t)


def _from_decimals(values: pa.Array, name: str, origin: Origin) -> tuple[np.ndarray, str]:
    try:
        return _from_integers(pc.cast(values, pa.int64()), name, origin)
    except pa.ArrowInvalid:  # a fraction, or above 2^63 - 1
        floats = pc.cast(values, pa.float64(), safe=False)
        large = pc.greater_equal(pc.abs(floats), 2.0**53).to_numpy(zero_copy_only=False)
        origin.refuse(large, name, values, "which float64 would round", "write integers, or use a coarser unit")
        return _from_floats(floats, name, origin)


def _from_dates(values: pa.Array) -> tuple[np.ndarray, str]:
    t, second = _ticks(values)
    if not (t % second).any():
        return t // second, "Unix seconds, from dates"
    if second == 10**9 and (t % 1000).any():
        return t, "Unix nanoseconds, from dates"
    return t // second + t % second / second, "Unix seconds, from dates"  # rounds once


def _ticks(values: pa.Array) -> tuple[np.ndarray, int]:
    """Return dates as integers [E] of nanoseconds since 1970, or of microseconds, and their number in a second."""
    try:
        fine = pc.cast(values, pa.timestamp("ns"))
        return np.array(pc.cast(fine, pa.int64()).to_numpy()), 10**9
    except pa.ArrowInvalid:  # a date before 1677 or after 2262
        coarse = pc.cast(values, pa.timestamp("us"), safe=False)
        return np.array(pc.cast(coarse, pa.int64()).to_numpy()), 10**6


def _from_text(values: pa.Array, name: str, origin: Origin) -> tuple[np.ndarray, str]:
    try:
        return _from_integers(pc.cast(values, pa.int64()), name, origin)
    except pa.ArrowInvalid:
        pass
    first = values[0].as_py() if len(values) else ""
    if parses(_floats, values.slice(0, 1)):
        fault = "rounded by the program that wrote it"
        origin.refuse(lost_digits(values), name, values, fault, "write times in full, as in 1700000000")
        numbers = _parsed(values, (_floats,), name, origin)
        if pc.any(pc.greater_equal(pc.abs(numbers), 2.0**53)).as_py():
            return _from_large_numbers(values, numbers, name, origin)
        return _from_floats(numbers, name, origin)
    parsers = [parser for parser in DATES if parses(parser, values.slice(0, 1))]
    if not parsers:
        origin.fail(0, name, first, _fault(first), _advice(first))
    return _from_dates(_parsed(values, parsers, name, origin))


def _parsed(values: pa.Array, parsers: Sequence[Parser], name: str, origin: Origin) -> pa.Array:
    """Parse all values with the first parser that can; otherwise refuse the first value at which the best one stops."""
    stops = []
    for parser in parsers:
        try:
            return parser(values)
        except (pa.ArrowInvalid, ValueError):
            stops.append(first_failure(values, parser))
    row = max(stops)
    value = values[row].as_py()
    numbers = parsers[0] is _floats
    fault = "not a number, as the first time is" if numbers else "not a date of the same form as the first one"
    if numbers and value and parses(_floats, pa.array([value.replace(",", "")])):
        fault = "not a number"
    return origin.fail(row, name, value, fault, "correct it, or remove the row" if numbers else _advice(value))


def _from_large_numbers(values: pa.Array, numbers: pa.Array, name: str, origin: Origin) -> tuple[np.ndarray, str]:
    """Convert numbers above 2^53, which float64 would round unless they have an exponent or no fraction."""
    try:
        return _from_integers(pc.cast(pc.replace_substring_regex(values, r"\.0*$", ""), pa.int64()), name, origin)
    except pa.ArrowInvalid:
        exponent = pc.match_substring_regex(values, "[eE]|inf|nan")
        rounded = pc.and_not(pc.greater_equal(pc.abs(numbers), 2.0**53), exponent).to_numpy(zero_copy_only=False)
        origin.refuse(rounded, name, values, "which float64 would round", "write integers, or use a coarser unit")
        return _from_floats(numbers, name, origin)


def _fault(text: str) -> str:
    """Return the fault of a first time that is neither number nor date; "" for an empty one."""
    if re.fullmatch(r"\d{1,3}:\d\d(:\d\d(\.\d+)?)?", text):
        return "a time of day without its date"
    return "not a number or a date" if text else ""


def _advice(text: str) -> str:
    """Return the fix of a time that cannot be read."""
    if not text:
        return "fill it in, or remove the row"
    forms = suggested_forms(text)
    if forms:
        return f"day and month could be confused; use --time-format {forms}"
    return _ADVICE


def _floats(values: pa.Array) -> pa.Array:
    return pc.cast(values, pa.float64())
