"""Times as users write them, a number, a date or its text, in the unit of a stream's times; and the way back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError

_DIGITS = re.compile("[0-9]{8,14}")  # of numbers that may be dates


def moment(value: Any, time: str, form: str = "", integers: bool = True) -> int | float:
    """Return one time in the unit of a run's times.

    Dates without a zone count as UTC. Where the run's times are dates, 20260101 is a date too.

    Args:
        value: a number, the text of a number or a date, a date, a datetime, numpy's datetime64 or pandas' Timestamp.
        time: the meaning of the run's times, as in "Unix seconds, from dates"; "" for plain numbers.
        form: the form of dates that the user names, as in "%d.%m.%Y", beside which usual ones are read.
        integers: the run's times are whole; a fraction is rounded down, and a time beyond int64 is its nearest value.

    Raises:
        DataError: it is neither a number nor a date; or it is a date, and the dates of the run's times are unknown.
        ConfigError: the form cannot be read.
    """
    text = value_text(value)
    number, nanoseconds = number_or_date(text, time, form) if text else (None, None)
    if number is not None:
        return rounded(number, integers, math.floor)
    if nanoseconds is None:
        fix = "give a number, or a date such as 2026-01-01 or 2026-01-01T12:00:00+02:00"
        raise DataError(f"time is {shown(value)}, neither a number nor a date; {fix}")
    exact = in_unit(nanoseconds, time)
    if exact is None:
        fault = f"time is {text}, a date, whereas the run's times are numbers whose dates are unknown"
        raise DataError(f"{fault}; give a number in their unit")
    return rounded(exact, integers, math.floor)


def time_text(value: float, time: str) -> str:
    """Return a time of some meaning as text that `moment` reads: as a date if the times are from dates."""
    if "date" not in time:
        return str(value)
    if isinstance(value, float):
        return str(np.datetime64(round(value * 10**6), "us"))
    if time.startswith("Unix nanoseconds"):
        return str(np.datetime64(value, "ns"))
    return str(np.datetime64(value, "s")).removesuffix("T00:00:00")


def value_text(value: Any) -> str:
    """Return a number, a date or text from Python as text, "" for another value."""
    if isinstance(value, np.datetime64):  # before `item`, which makes nanoseconds an integer
        return str(value)
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        value = value.item() if np.ndim(value) == 0 else None
    if isinstance(value, date):  # datetime and pandas' Timestamp too
        return value.isoformat()
    return str(value).strip() if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool) else ""


def number_or_date(text: str, time: str, form: str) -> tuple[Decimal | None, int | None]:
    """Return the number that text holds, or the nanoseconds since 1970 of its date; None for what it is not.

    Text such as 20231001, which may be both, is a date where the times, whose meaning is `time`, are dates.

    Raises:
        ConfigError: the form cannot be read.
    """
    from mspipe_triton.data.times import date_value  # it imports pyarrow, which tensors do not need

    number = decimal(text)
    if number is not None and ("date" not in time or not (form or _DIGITS.fullmatch(text))):  # spares trying all forms
        return number, None
    nanoseconds = date_value(text, form)
    return (number if nanoseconds is None else None), nanoseconds


def in_unit(nanoseconds: int, time: str) -> Fraction | None:
    """Return nanoseconds since 1970 in the unit of times of some meaning; None if they are not Unix times."""
    from mspipe_triton.data.times import per_second  # it imports pyarrow, which tensors do not need

    ticks = per_second(time)
    return None if ticks is None else Fraction(nanoseconds * ticks, 10**9)


def decimal(text: str) -> Decimal | None:
    """Return the finite number that text holds, None for other text."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def rounded(time: Decimal | Fraction, integers: bool, rounding: Callable[[Any], int]) -> int | float:
    """Return an exact time as an integer, rounded and within int64, or as the float that `time_column` makes of it."""
    if integers:
        return rounding(min(max(time, -(2**63)), 2**63 - 1))
    if isinstance(time, Decimal):
        return float(time)
    whole = math.floor(time)
    return whole + float(time - whole)
