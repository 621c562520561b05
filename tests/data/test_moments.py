"""Times as users write them: numbers and dates of every type, in the unit of a run's times, and back."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.data.moments import moment, time_text
from mspipe_triton.errors import ConfigError, DataError

SECONDS = int(datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC).timestamp())
HOURS = datetime.timezone(datetime.timedelta(hours=2))
DATES: list[Any] = [
    "2026-01-01T12:00", "2026-01-01 12:00:00", "2026-01-01T14:00:00+02:00", " 2026-01-01T12:00:00Z ",
    datetime.datetime(2026, 1, 1, 12), datetime.datetime(2026, 1, 1, 14, tzinfo=HOURS),
    np.datetime64("2026-01-01T12:00"), np.datetime64("2026-01-01T12:00:00.000000000"), "20260101120000",
]  # fmt: skip
UNITS = {"Unix seconds": 1, "Unix milliseconds": 10**3, "Unix microseconds": 10**6, "Unix nanoseconds": 10**9}


@pytest.mark.parametrize("value", DATES, ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_a_date_is_in_the_runs_unit(value: Any, unit: str) -> None:
    expected = SECONDS * UNITS[unit]
    result = moment(value, f"{unit}, from dates")
    assert (type(result), result) == (int, expected)
    if value != "20260101120000":  # a number beside numbers
        assert moment(value, unit) == expected
    floating = moment(value, f"{unit}, from dates", integers=False)
    assert (type(floating), floating) == (float, float(expected))


@pytest.mark.parametrize("value", [5, "5", 5.0, " 5.0", Decimal(5), np.int32(5), np.float32(5), torch.tensor(5),
                                   np.array(5.0), "5e0", 5.9, "5.9", Decimal("5.9")], ids=repr)  # fmt: skip
@pytest.mark.parametrize("time", ["", "Unix seconds", "Unix seconds, from dates", "seconds from the start"])
def test_a_number_keeps_its_unit_and_whole_times_round_down(value: Any, time: str) -> None:
    result, floating = moment(value, time), moment(value, time, integers=False)
    assert (type(result), result) == (int, 5)
    assert (type(floating), floating) == (float, float(value))
    assert moment(-1.5, time) == -2


def test_large_numbers_are_exact() -> None:
    assert moment(2**62 + 1, "") == moment(str(2**62 + 1), "Unix nanoseconds") == 2**62 + 1
    assert moment(10**30, "") == moment("9999-12-31", "Unix nanoseconds") == 2**63 - 1
    assert moment("2026-01-01T12:00:00.123456789", "Unix nanoseconds, from dates") == SECONDS * 10**9 + 123456789
    assert moment(np.datetime64("2026-01-01T12:00:00.123456789"), "Unix milliseconds") == SECONDS * 1000 + 123


def test_fractions_of_dates() -> None:
    for value in ("2026-01-01T12:00:00.75", datetime.datetime(2026, 1, 1, 12, 0, 0, 750_000)):
        assert moment(value, "Unix seconds, from dates") == SECONDS
        assert moment(value, "Unix seconds, from dates", integers=False) == SECONDS + 0.75
        assert moment(value, "Unix milliseconds") == SECONDS * 1000 + 750
    assert moment("1969-12-31T23:59:59.5", "Unix seconds") == -1


def test_forms_of_dates() -> None:
    assert moment("01.01.2026", "Unix seconds, from dates", "%d.%m.%Y") == SECONDS - 12 * 3600
    assert moment("2026-01-01", "Unix seconds, from dates", "%d.%m.%Y") == SECONDS - 12 * 3600
    assert moment(datetime.date(2026, 1, 1), "Unix seconds, from dates", "%d.%m.%Y") == SECONDS - 12 * 3600
    assert moment(20260101, "Unix seconds, from dates such as 20251231") == SECONDS - 12 * 3600
    assert moment(20260101, "") == moment("20260101", "Unix seconds") == 20260101
    with pytest.raises(ConfigError, match="--time-format"):
        moment("01.01.2026", "Unix seconds, from dates", "%d")


def test_timestamps_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    value = pandas.Timestamp("2026-01-01 14:00:00.000000001", tz="Europe/Helsinki")
    assert moment(value, "Unix nanoseconds, from dates") == SECONDS * 10**9 + 1
    with pytest.raises(DataError, match="neither a number nor a date"):
        moment(pandas.NaT, "Unix seconds, from dates")


@pytest.mark.parametrize(
    ("value", "time", "message"),
    [
        ("2026-01-01", "", "time is 2026-01-01, a date, whereas the run's times are numbers whose dates are unknown"),
        (datetime.date(2026, 1, 1), "seconds from the start", "time is 2026-01-01, a date"),
        ("soon", "Unix seconds", "time is 'soon', neither a number nor a date; give a number, or a date such"),
        ("2026-13-01", "Unix seconds", "time is '2026-13-01', neither"),
        ("01.02.2026", "Unix seconds", "time is '01.02.2026', neither"),
        (float("nan"), "", "time is nan, neither"),
        ("inf", "", "time is 'inf', neither"),
        (None, "", "time is None, neither"),
        (True, "", "time is True, neither"),
        ("", "", "time is '', neither"),
        ([1], "", r"time is \[1\], neither"),
        (torch.tensor([1, 2]), "", r"time is tensor\(\[1, 2\]\), neither"),
        (np.datetime64("NaT"), "Unix seconds", "neither"),
    ],
)  # fmt: skip
def test_other_values_are_refused_in_one_line(value: Any, time: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        moment(value, time)
    assert "\n" not in str(error.value)


def test_text_of_times_is_read_back() -> None:
    for value, time, text in (
        (SECONDS, "Unix seconds, from dates", "2026-01-01T12:00:00"),
        (SECONDS - 12 * 3600, "Unix seconds, from dates such as 20250101", "2026-01-01"),
        (SECONDS + 0.25, "Unix seconds, from dates", "2026-01-01T12:00:00.250000"),
        (SECONDS * 10**9 + 1, "Unix nanoseconds, from dates", "2026-01-01T12:00:00.000000001"),
        (SECONDS, "Unix seconds", str(SECONDS)),
        (5, "", "5"),
        (0.5, "seconds from the start", "0.5"),
    ):
        assert time_text(value, time) == text
        assert moment(text, time, integers=isinstance(value, int)) == value
