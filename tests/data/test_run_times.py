"""Times of new events in the unit of a run's times, for every meaning that these may have."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mspipe_triton.data.origin import Origin
from mspipe_triton.data.run_times import run_times
from mspipe_triton.errors import DataError

SECONDS = int(datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC).timestamp())
UNITS = {"Unix seconds": 1, "Unix milliseconds": 10**3, "Unix microseconds": 10**6, "Unix nanoseconds": 10**9}
DATES = "Unix seconds, from dates"


def times(values: Any, time: str, integers: bool = True, form: str = "") -> np.ndarray:
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values)])
    return run_times([column], "t", Origin((("x.csv", len(column)),)), time, integers, form)


@pytest.mark.parametrize(
    "values",
    [
        ["2026-01-01T12:00:00", "2026-01-01T12:00:01.5"],
        [datetime.datetime(2026, 1, 1, 12), datetime.datetime(2026, 1, 1, 12, 0, 1, 500_000)],
        ["2026-01-01T14:00:00+02:00", "2026-01-01T14:00:01.500000000+02:00"],
    ],
    ids=str,
)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("meaning", ["", ", from dates"])
def test_dates_become_numbers_of_the_runs_unit(values: list[Any], unit: str, meaning: str) -> None:
    expected = [SECONDS * UNITS[unit], SECONDS * UNITS[unit] + UNITS[unit] * 3 / 2]
    t = times(values, unit + meaning, integers=False)
    assert (t.dtype, t.tolist()) == (np.float64, [float(each) for each in expected])
    if unit != "Unix seconds":
        t = times(values, unit + meaning)
        assert (t.dtype, t.tolist()) == (np.int64, expected)
    assert times(values[:1], unit + meaning).tolist() == expected[:1]


def test_fine_dates_are_exact() -> None:
    fine = ["2026-01-01T12:00:00.000001", "2026-01-01T12:00:00.123457"]
    assert times(fine, "Unix nanoseconds, from dates").tolist() == [SECONDS * 10**9 + 1000, SECONDS * 10**9 + 123457000]
    finest = ["2026-01-01T12:00:00.000000001"]
    assert times(finest, "Unix nanoseconds, from dates").tolist() == [SECONDS * 10**9 + 1]
    assert times(finest, DATES, integers=False).tolist() == [float(SECONDS)]
    assert times(["2026-01-01T12:00:00.1"], DATES, integers=False).tolist() == [SECONDS + 0.1]
    assert times(["1969-12-31T23:59:59"], "Unix milliseconds").tolist() == [-1000]


@pytest.mark.parametrize(
    ("values", "time", "expected"),
    [
        ([SECONDS, SECONDS + 1], "Unix seconds", [SECONDS, SECONDS + 1]),
        ([str(SECONDS)], DATES, [SECONDS]),
        ([float(SECONDS)], "Unix seconds", [SECONDS]),
        ([20260101, 20260102], "", [20260101, 20260102]),
        (["20260101"], "seconds from the start", [20260101]),
        ([20260101], DATES + " such as 20250101", [SECONDS - 12 * 3600]),
        ([SECONDS * 1000], "", [SECONDS * 1000]),
        ([2**62 + 1], "", [2**62 + 1]),
        ([3, 4.0], "", [3, 4]),
        ([" 3", "4 "], "", [3, 4]),
    ],
)
def test_numbers_keep_their_value(values: list[Any], time: str, expected: list[int]) -> None:
    t = times(values, time)
    assert (t.dtype, t.tolist()) == (np.int64, expected)


def test_floats_of_a_run() -> None:
    t = times([1, 2], "", integers=False)
    assert (t.dtype, t.tolist()) == (np.float64, [1.0, 2.0])
    assert times([1.5], "", integers=False).tolist() == [1.5]


def test_the_form_is_for_text_and_integers() -> None:
    for values in (["01.01.2026"], [datetime.date(2026, 1, 1)]):
        assert times(values, DATES, form="%d.%m.%Y").tolist() == [SECONDS - 12 * 3600]


def test_tables_of_different_types() -> None:
    parts = [pa.chunked_array([["2026-01-01T12:00:00"]]), pa.chunked_array([[datetime.datetime(2026, 1, 1, 12, 0, 1)]])]
    origin = Origin((("a.csv", 1), ("b.csv", 1)))
    assert run_times(parts, "t", origin, DATES, True).tolist() == [SECONDS, SECONDS + 1]
    parts = [pa.chunked_array([["20260101"]]), pa.chunked_array([[5]])]
    assert run_times(parts, "t", origin, "", True).tolist() == [20260101, 5]


@pytest.mark.parametrize(
    ("values", "time", "integers", "message"),
    [
        ([5, SECONDS * 1000], "Unix seconds", True, f"row 2: t is {SECONDS * 1000}, which looks like Unix "
         "milliseconds, whereas the run's times are Unix seconds; write Unix seconds"),
        ([SECONDS * 1000], DATES, True, "looks like Unix milliseconds, whereas the run's times are Unix seconds, from "
         "dates; write dates or Unix seconds"),
        ([SECONDS], "Unix milliseconds", True, "which looks like Unix seconds, whereas the run's times are Unix milli"),
        ([5], DATES, True, "row 1: t is 5, which does not look like Unix seconds, whereas the run's times are Unix"),
        (["2026-01-01"], "", True, "row 1: t is '2026-01-01', a date, whereas the run's times are numbers whose "
         "dates are unknown; write numbers in the run's unit"),
        ([datetime.date(2026, 1, 1)], "seconds from the start", True, "t is 2026-01-01, a date"),
        (["2026-01-01", "2026-01-01T00:00:00.5"], DATES, True, "row 2: t is '2026-01-01T00:00:00.5', finer than the "
         "run's times, which are whole Unix seconds; round it down to whole seconds"),
        (["2026-01-01T00:00:00.0005"], "Unix milliseconds", True, "whole Unix milliseconds; round it down to whole"),
        ([SECONDS + 0.5], "Unix seconds", True, "with a fraction, whereas the run's times are whole; round it down"),
        ([1e19], "", True, "beyond 64 bits"),
        ([2**53 + 1], "", False, "which float64, as the run's times are, would round"),
        (["2300-01-01"], "Unix nanoseconds", True, "t is '2300-01-01', beyond Unix nanoseconds of 64 bits"),
        ([1, None], "", True, "row 2: t is empty; fill it in, or remove the row"),
        (["1", "x"], "", True, "row 2: t is 'x'"),
        (["soon"], DATES, True, "t is 'soon', not a number or a date"),
    ],
)  # fmt: skip
def test_times_that_do_not_fit(values: list[Any], time: str, integers: bool, message: str) -> None:
    with pytest.raises(DataError) as error:
        times(values, time, integers)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
