"""Times: numbers keep their value, dates become Unix seconds, and what is ambiguous is refused."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest

from mspipe_triton.data.joins import joined_times
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.times import is_time, time_column
from mspipe_triton.errors import ConfigError, DataError

FIRST = 1_577_836_800  # 2020-01-01


def times(*values: object, kind: pa.DataType | None = None) -> tuple[list[float], str]:
    """Times and their meaning."""
    column = pa.chunked_array([pa.array(values, kind)])
    t, meaning = time_column(column, "t", Origin((("x", len(values)),)))
    assert t.dtype in (np.int64, np.float64)
    assert t.flags.writeable
    return t.tolist(), meaning


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (("1", "2"), [1, 2]), (("1", "2.5"), [1.0, 2.5]), ((" 7 ", "-3"), [7, -3]), (("1e3", "2"), [1000.0, 2.0]),
        (("007",), [7]), (("9007199254740993",), [2**53 + 1]), (("9007199254740993.0", "4"), [2**53 + 1, 4]),
        (("1.5e18",), [1.5e18]), (("1e+05", "2e+05"), [1e5, 2e5]), (("1.082040961e+09",), [1082040961.0]),
        (("1.082040961000000000e+09", "1.082040962000000000e+09"), [1082040961.0, 1082040962.0]),
        (("1.5E0", "-0.25e+01"), [1.5, -2.5]), (("20231101", "5", "7"), [20231101, 5, 7]),
    ],
)  # fmt: skip
def test_numbers_keep_their_value(texts: tuple[str, ...], numbers: list[float]) -> None:
    t, _ = times(*texts)
    assert t == numbers
    assert [type(value) for value in t] == [type(value) for value in numbers]


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_units_of_unix_times(factor: int) -> None:
    unit = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}[factor]
    for form in (int, str):
        assert times(form(FIRST * factor)) == ([FIRST * factor], f"Unix {unit}")
    assert times(5, 6) == ([5, 6], "")
    assert times(20_200_230) == ([20_200_230], "")  # no date


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-01", "2020-01-01 00:00", "2020-01-01 00:00:00", "2020-01-01T00:00:00", "2020-01-01T00:00:00Z",
        "2020-01-01T02:00:00+02:00", "2020-01-01 02:00:00 +02:00", "2020-01-01T02:00:00+0200",
        "2020-01-01 00:00:00 UTC", "2020/01/01",
        "2020/1/1 00:00:00", "2020/01/01 00:00", "2020-1-1", "2020-1-1 0:00", "2020.01.01", "1 Jan 2020",
        "01-Jan-2020", "01-Jan-20", "Jan 1, 2020", "Jan 1, 2020 00:00:00", "Wed Jan 01 00:00:00 +0000 2020",
        "Wed, 01 Jan 2020 00:00:00 GMT", "20200101T000000", "20200101T000000Z", "20200101", "202001010000",
        "20200101000000", "2020-01-01 00:00:00,000",
    ],
)  # fmt: skip
def test_forms_of_dates(text: str) -> None:
    t, meaning = times(text)
    assert t == [FIRST]
    assert meaning.startswith("Unix seconds, from dates")


def test_fractions_of_seconds() -> None:
    assert times("2020-01-01 00:00:00.5", "2020-01-02") == ([FIRST + 0.5, FIRST + 86_400.0], "Unix seconds, from dates")
    assert times("2020-01-01 00:00:00,123")[0] == [FIRST + 0.123]
    assert times("2020-01-01 00:00:00.123456789") == ([FIRST * 10**9 + 123_456_789], "Unix nanoseconds, from dates")
    assert times("0001-01-01")[0] == [-62_135_596_800]


def test_types_of_arrow() -> None:
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for zone in (None, "Europe/Berlin"):
            assert times(FIRST * factor, kind=pa.timestamp(unit, zone))[0] == [FIRST]
    assert times(datetime.date(2020, 1, 1))[0] == [FIRST]
    assert times(decimal.Decimal("1.25"))[0] == [1.25]
    assert times(3, kind=pa.uint64())[0] == [3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("1", ""), "row 2: t is empty; correct it"), (("", "1"), "row 1: t is empty; fill it in"),
        (("1", "x"), "row 2: t is 'x', not a number, as the first time is"), (("inf",), "row 1: t is inf, not finite"),
        (("2020-02-30",), "row 1: t is '2020-02-30', not a number or a date; write"),
        (("2020/02/30",), "not a number or a date"),
        (("01/02/2020",), "row 1: t is '01/02/2020', .*; day and month could be confused; use --time-format %d/"),
        (("01.02.2020",), "could be confused"), (("01/02/20",), "could be confused"), (("13/01/2020",), "be confused"),
        (("01/02/2020 1:30 PM",), "use --time-format '%d/%m/%Y %I:%M %p' or '%m/%d/%Y %I:%M %p'"),
        (("1.70E+09",), "row 1: t is '1.70E[+]09', rounded by the program that wrote it; write times in full"),
        (("1.5", "1.08204e+09"), "row 2: t is '1.08204e[+]09', rounded"), (("1E5",), "rounded by"),
        ((20231101, 20231102, 20231131), "row 3: t is 20231131, no date, as 20231101 in the first row is; correct it"),
        (("20231101", "20231102", "5"), "row 3: t is 5, no date"),
        ((202311011259, 202311011260, 202311012359), "row 2: t is 202311011260, no date"),
        (("08:00",), "a time of day without its date"), (("1,000",), "not a number or a date"), (("2020-01",), "not a"),
        (("2020-01-01", "2020-01-02T00:00:00Z"), "row 2: .*, not a date of the same form as the first one"),
        (("2020-01-01", "2020-01-02", "x", "y"), "row 3: t is 'x', not a date of the same form"),
        (("99999999999999999999",), "which float64 would round; write integers"),
        ((1, None), "row 2: t is empty; fill it in"), ((1.0, float("nan")), "row 2: t is nan, not finite"),
        ((datetime.timedelta(1),), "row 1: t is 1 day, 0:00:00, of type duration"),
        ((datetime.time(8),), "row 1: t is 08:00:00, a time of day without its date"), (([1],), r"t is \[1\], of type"),
    ],
)  # fmt: skip
def test_refused_times(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=f"^x: .*{message}"):
        times(*values)


def test_float32_is_refused() -> None:
    for kind in (pa.float32(), pa.float16()):
        with pytest.raises(DataError, match=r"x: row 1: t is 1.0, float(32|16), which is minutes off"):
            times(np.float16(1), kind=kind)
    with pytest.raises(DataError, match=r"row 1: t is 9223372036854775808, above 2.63 - 1; use a coarser unit"):
        times(2**63, kind=pa.uint64())


@pytest.mark.parametrize(
    ("form", "values", "seconds"),
    [
        ("%d.%m.%Y", ("01.02.2020", "14.2.2020"), [31, 44]), ("%m/%d/%Y", ("1/2/2020",), [1]),
        ("%d %B %Y", ("1 January 2020",), [0]), ("%d-%b-%y", ("02-Jan-20",), [1]), ("%Y%m%d", (20200102,), [1]),
        ("%m/%d/%Y %I:%M %p", ("1/1/2020 12:00 AM", "1/1/2020 06:00 pm"), [0, 0.75]),
        ("%Y-%j", ("2020-032",), [31]), ("%d.%m.%Y %H:%M:%S", ("1.1.2020 12:00:00",), [0.5]),
        ("%d.%m.%Y %H:%M %z", ("2.1.2020 01:00 +0200",), [1 - 1 / 24]),
    ],
)  # fmt: skip
def test_forms_that_the_user_names(form: str, values: tuple[object, ...], seconds: list[float]) -> None:
    t, meaning = time_column(pa.chunked_array([values]), "t", Origin((("x", len(values)),)), form)
    assert t.tolist() == [FIRST + 86_400 * each for each in seconds]
    assert meaning == "Unix seconds, from dates"


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        ("%d.%m.%Y", ("01.02.2020", "31.02.2020"), "row 2: t is '31.02.2020', not of the form %d.%m.%Y; correct it"),
        ("%d.%m.%Y", ("01.02.20",), "row 1: t is '01.02.20', not"), ("%d.%m.%Y", ("1.1.2020", ""), "row 2: t is empty"),
        ("%d.%m.%Y %z", ("31.02.2020 +0000",), "not of the form"),
        ("%d.%m.%Y", (1.5,), "type double, which has no form"),
    ],
)  # fmt: skip
def test_times_of_another_form(form: str, values: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        time_column(pa.chunked_array([values]), "t", Origin((("x", len(values)),)), form)


@pytest.mark.parametrize("form", ["%Q.%Y", "%d.%m", "%Y-%m", "%d.%m.%Y %f", "%d %z %Y", "abc", "%d%Y%"])
def test_forms_that_cannot_be_read(form: str) -> None:
    with pytest.raises(ConfigError, match=r"^--time-format '"):
        time_column(pa.chunked_array([["1"]]), "t", Origin((("x", 1),)), form)


def test_is_time() -> None:
    assert all(map(is_time, ("1", "2020-01-01", "1e5")))
    assert not any(map(is_time, ("", "x", "01/02/2020", "nan")))


def joined(*parts: pa.Array) -> tuple[list[float], str]:
    """Times of files whose columns have different types."""
    origin = Origin(tuple((f"f{number}", len(part)) for number, part in enumerate(parts)))
    t, meaning = joined_times([pa.chunked_array([part]) for part in parts], "t", origin)
    return t.tolist(), meaning


def test_files_of_different_types() -> None:
    date, moment = pa.array([datetime.date(2020, 1, 1)]), pa.array([datetime.datetime(2020, 1, 1, 0, 0, 1)])
    assert joined(date, moment) == ([FIRST, FIRST + 1], "Unix seconds, from dates")
    assert joined(moment.cast(pa.timestamp("ns", "UTC")), date)[0] == [FIRST + 1, FIRST]
    assert joined(pa.array([1]), pa.array([2.5]))[0] == [1.0, 2.5]
    assert joined(pa.array([2**53 + 1]), pa.array(["9"]))[0] == [2**53 + 1, 9]
    assert joined(pa.array([], pa.null()), pa.array([5]))[0] == [5]
    with pytest.raises(DataError, match="f1: row 1: t is 5, a number, whereas the first file has Unix seconds"):
        joined(date, pa.array([5]))
    with pytest.raises(DataError, match="f0: row 1: t is 9007199254740993, which float64 would round"):
        joined(pa.array([2**53 + 1]), pa.array([0.5]))
    with pytest.raises(
        DataError, match="f1: row 1: t is 5, no date, as 20200101 in f0 is; write all times in one form"
    ):
        joined(pa.array([20200101]), pa.array([5, 6]))
    with pytest.raises(DataError, match="f0: row 1: t is 6, no date, as 20200101 in f1 is"):
        joined(pa.array([6, 7]), pa.array([20200101]))
    with pytest.raises(DataError, match=r"f1: row 1: t is 0\.5, float32"):
        joined(pa.array([1]), pa.array([0.5], pa.float32()))
