"""Forms of dates in text: ISO 8601, others in which day and month cannot be confused, and one that the user names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.errors import ConfigError

Parser = Callable[[pa.Array], pa.Array]

_FORMATS = (  # beyond ISO 8601, those in which day and month cannot be confused
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M", "%Y.%m.%d", "%Y.%m.%d %H:%M:%S", "%d %b %Y", "%d-%b-%Y",
    "%d-%b-%y", "%d %b %Y %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%b %d, %Y", "%b %d %Y", "%b %d, %Y %H:%M:%S",
    "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S", "%Y%m%dT%H%M%S",
)  # fmt: skip
_DIGITS = {"Y": r"\d{4}", "d": r"(?P<day>\d{1,2})", "j": r"\d{1,3}", "%": "%"}
_DIGITS |= dict.fromkeys("bBaAp", r"\w+")
_DIRECTIVES = "YymbBdjHIMSpaA%"
_SUFFIX = r"\s*(UTC|GMT|Z|z)$"
_CONFUSED = re.compile(r"\d{1,2}([/.-])\d{1,2}\1(\d{4}|\d\d)((\s+)\d{1,2}:\d\d(:\d\d)?(\s*[AaPp][Mm])?)?")


def parses(parser: Parser, values: pa.Array) -> bool:
    """Return True if a parser can read all values."""
    try:
        parser(values)
    except (pa.ArrowInvalid, ValueError):
        return False
    return True


def first_failure(values: pa.Array, parser: Parser) -> int:
    """Return the row of the first value that a parser refuses, by halving; there is one."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parses(parser, values.slice(low, middle - low)) else (low, middle)
    return low


def chosen_form(form: str) -> Parser:
    """Return the parser of the form of dates that the user names, as in "%d.%m.%Y".

    Raises:
        ConfigError: a directive is unknown, or the form has no year or no day.
    """
    for directive in re.findall("%(.?)", form.removesuffix("%z")):
        if directive not in _DIRECTIVES or not directive:
            usable = " ".join(f"%{each}" for each in _DIRECTIVES[:-1])
            raise ConfigError(f"--time-format {form!r}: %{directive} cannot be read; use {usable}, and %z at the end")
    for part, names in (("year", "Yy"), ("day", "dj")):
        if not re.search(f"%[{names}]", form):
            raise ConfigError(f"--time-format {form!r} has no {part}; name one, as in %d.%m.%Y")
    return lambda values: strictly(values, form)


def suggested_forms(text: str) -> str:
    """Return the forms, as "%d.%m.%Y or %m.%d.%Y", of a date whose day and month could be confused; "" for others."""
    match = _CONFUSED.fullmatch(text)
    if match is None:
        return ""
    mark, year, time, blank, seconds, half = match.groups()
    clock = "" if time is None else f"{blank}%{'I' if half else 'H'}:%M{':%S' if seconds else ''}"
    clock += "" if half is None else half[:-2] + "%p"
    forms = (
        mark.join((first, second, "%Y" if len(year) == 4 else "%y")) + clock
        for first, second in (("%d", "%m"), ("%m", "%d"))
    )
    return " or ".join(shlex.quote(form) if " " in form else form for form in forms)


def _iso(values: pa.Array) -> pa.Array:
    """Parse ISO 8601 without a zone."""
    return _timestamps(values, None)


def _iso_zoned(values: pa.Array) -> pa.Array:
    """Parse ISO 8601 with a zone, or with UTC or GMT behind it."""
    values = pc.replace_substring_regex(values, r"\s+([+-]\d\d)", r"\1")
    return _timestamps(pc.replace_substring_regex(values, _SUFFIX, "Z"), "UTC")


def _timestamps(values: pa.Array, zone: str | None) -> pa.Array:
    try:
        return pc.cast(values, pa.timestamp("ns", zone))
    except pa.ArrowInvalid:  # beyond the range of nanoseconds
        return pc.cast(values, pa.timestamp("us", zone))


def _iso_comma(values: pa.Array) -> pa.Array:
    """Parse ISO 8601 without a zone, with a comma before the fraction of a second."""
    return _iso(pc.replace_substring_regex(values, r"(:\d\d),(\d+)$", r"\1.\2"))


def _form(form: str) -> Parser:
    def parse(values: pa.Array) -> pa.Array:
        without_zone = pc.replace_substring_regex(values, r"\s*(\+0000|UTC|GMT|Z)( |$)", " ")
        return strictly(pc.utf8_trim_whitespace(without_zone), form)

    return parse


def strictly(values: pa.Array, form: str) -> pa.Array:
    """Parse dates of one form as strptime does, but refuse years of two digits for four, and 30 February.

    Raises:
        ValueError: a value has another form, or its day does not exist.
    """
    dates = pc.strptime(values, form, "s")
    if form.endswith("%z"):  # the day is that of the zone
        strictly(pc.replace_substring_regex(values, r"\s*([+-]\d\d:?\d\d|Z)$", ""), form.removesuffix("%z").rstrip())
        return dates
    pattern = re.sub("%(.)", lambda match: _DIGITS.get(match[1], r"\d{1,2}"), re.escape(form))
    if not pc.all(pc.match_substring_regex(values, f"^{pattern}$"), skip_nulls=False).as_py():
        raise ValueError(form)
    if "%d" in form:
        day = pc.struct_field(pc.extract_regex(values, f"^{pattern}$"), "day")
        if not pc.all(pc.equal(pc.cast(day, pa.int64()), pc.day(dates))).as_py():
            raise ValueError(form)
    return dates


DATES: tuple[Parser, ...] = (_iso, _iso_zoned, _iso_comma, *(_form(form) for form in _FORMATS))
