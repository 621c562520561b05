"""The split of a file at fractions, times and dates, for every form of times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.data.readers import read_stream
from mspipe_triton.errors import ConfigError

FORMS = ("dates", "form", "digits", "Unix", "milliseconds", "floats", "nanoseconds", "fractions")


def table(form: str, path: Path) -> dict[str, str]:
    """Write events on four days of three months each, with times of some form; return the options that read them."""
    days = [datetime(2023, 9 + n // 4, 1 + n % 4, tzinfo=UTC) for n in range(12)]
    seconds = [int(day.timestamp()) for day in days]
    times: dict[str, list[Any]] = {
        "dates": [day.strftime("%Y-%m-%d") for day in days], "form": [day.strftime("%d.%m.%Y") for day in days],
        "digits": [day.strftime("%Y%m%d") for day in days], "Unix": seconds,
        "milliseconds": [1000 * second for second in seconds], "floats": [f"{second}.5" for second in seconds],
        "nanoseconds": [f"{day:%Y-%m-%dT%H:%M:%S}.00000000{n % 2}" for n, day in enumerate(days)],
        "fractions": [f"{day:%Y-%m-%dT%H:%M:%S}.25" for day in days], "numbers": list(range(12)),
    }  # fmt: skip
    path.write_text("src,dst,t\n" + "".join(f"1,{2 + n % 2},{t}\n" for n, t in enumerate(times[form])))
    return {"time_format": "%d.%m.%Y"} if form == "form" else {}


@pytest.mark.parametrize(
    ("text", "borders"),
    [
        ("2023-10-01,2023-11-01", (4, 8)),
        ("2023-09-02,2023-11-04", (1, 11)),
        ("2023-09-04T12:00,2023-11-02 12:00:00.5", (4, 10)),
        ("2023-10-01T02:00:00+02:00,2023-11-01", (4, 8)),
        ("Oct 1, 2023,Nov 1, 2023", (4, 8)),
        ("0.5,0.75", (6, 9)),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_dates_for_every_form_of_times(form: str, text: str, borders: tuple[int, int], tmp_path: Path) -> None:
    options = table(form, tmp_path / "x.csv")
    assert read_stream(tmp_path / "x.csv", split_at=text, **options).split() == borders


@pytest.mark.parametrize(
    ("form", "text", "borders"),
    [
        ("form", "01.10.2023,01.11.2023", (4, 8)),
        ("digits", "20231001,20231101", (4, 8)),
        ("dates", "20231001,20231101", (4, 8)),
        ("dates", "1696118400,1698796800", (4, 8)),
        ("Unix", "1696118400, 1698796801", (4, 9)),
        ("Unix", "1696118399.5,1698796800.5", (4, 9)),
        ("milliseconds", "1696118400000,1698796800000", (4, 8)),
        ("floats", "1696118400.5,1698796800.6", (4, 9)),
        ("floats", "2023-10-01T00:00:00.5,2023-11-01T00:00:00.6", (4, 9)),
        ("nanoseconds", "2023-10-01T00:00:00.000000001,2023-11-02T00:00:00.000000001", (5, 9)),
        ("nanoseconds", "2023-10-01T00:00:00.000000001,2023-11-02T00:00:00.000000002", (5, 10)),
        ("fractions", "2023-10-01T00:00:00.25,2023-11-01T00:00:00.26", (4, 9)),
        ("fractions", "1696118400.25,1698796800.26", (4, 9)),
        ("numbers", "4,8", (4, 8)),
        ("numbers", "0.34,0.67", (4, 8)),
    ],
)
def test_times_as_in_the_file(form: str, text: str, borders: tuple[int, int], tmp_path: Path) -> None:
    options = table(form, tmp_path / "x.csv")
    assert read_stream(tmp_path / "x.csv", split_at=text, **options).split() == borders


@pytest.mark.parametrize(
    ("t", "text", "message"),
    [
        ("numbers", "0.7", "is no pair of values, the starts of validation and test; give two fractions of the"),
        ("numbers", "1,", "is no pair of values"),
        ("numbers", "1,2,3", "is no pair of values"),
        ("numbers", "5,3", "5 is not before 3; name the start of validation first"),
        ("numbers", "0.85,0.7", "0.85 is not before 0.7"),
        ("numbers", "5,5", "5 is not before 5; name the start of validation first"),
        ("numbers", "0.5,8", "0.5 is a fraction of the events, and the other value is a time; give two fractions"),
        ("numbers", "0,5", "no event is before 0, so training would be empty; use --split-at 8,10"),
        ("numbers", "5,99", "no event is at or after 99, so test would be empty; use --split-at 8,10"),
        ("numbers", "5,1e99999999", "no event is at or after 1e99999999"),
        ("numbers", "5,five", "'five' is neither a number nor a date; give two fractions of the events"),
        ("numbers", "nan,5", "'nan' is neither a number nor a date"),
        ("numbers", "2023-10-01,5", "2023-10-01 is a date, and the times of x are numbers whose dates are unknown"),
        ("dates", "2023-10-01,2024-01-01", "at or after 2024-01-01, so test would be empty; use --split-at"),
        ("dates", "2023-13-01,2024-01-01", "'2023-13-01' is neither a number nor a date"),
    ],
)  # fmt: skip
def test_wrong_values(t: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    table(t, path)
    with pytest.raises(ConfigError, match=f"^--split-at '{re.escape(text)}'.*{re.escape(message)}") as error:
        read_stream(path, split_at=text)
    fix = re.search(r"use --split-at (\S+)$", str(error.value))
    if fix is not None:
        read_stream(path, split_at=fix[1])


@pytest.mark.parametrize("form", [*FORMS, "numbers"])
def test_the_split_that_a_message_names_is_near_the_default(form: str, tmp_path: Path) -> None:
    options = table(form, tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"12 events are too few for these fractions; use --split-at (\S+)$") as error:
        read_stream(tmp_path / "x.csv", split_at="0.01,0.02", **options)
    text = str(error.value).rpartition(" ")[2]
    assert read_stream(tmp_path / "x.csv", split_at=text, **options).split() == (8, 10)


@pytest.mark.parametrize("form", ["nanoseconds", "Unix", "floats", "dates"])
def test_a_date_beyond_the_range_of_the_times(form: str, tmp_path: Path) -> None:
    table(form, tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="no event is at or after 9999-12-31, so test would be empty"):
        read_stream(tmp_path / "x.csv", split_at="2023-10-01,9999-12-31")
