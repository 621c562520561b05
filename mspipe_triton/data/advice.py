"""Advice about a table whose columns have no roles yet: a command that would work, by its names and first values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mspipe_triton.config import DataConfig
from mspipe_triton.data.dialect import is_value
from mspipe_triton.data.names import LABELS, REQUIRED, ROW_NUMBERS, plain_name, shown_names
from mspipe_triton.data.origin import shown_path
from mspipe_triton.data.sheets import ArrowSheet, Sheet
from mspipe_triton.data.text import TextFile
from mspipe_triton.data.time_forms import chosen_form, parses, suggested_forms
from mspipe_triton.data.times import is_time, unit_of
from mspipe_triton.errors import DataError

_EXAMPLES = 100
_FEW = 10  # rows, too few to tell that every value occurs once
_CALENDAR = ("year", "month", "day", "weekday", "hour", "minute")  # parts of a time, which are neither time nor node
_NODE_NAMES = ("id", "code", "name", "number", "no", "key")  # ends of names of nodes
_ROW_NAMES = ("id", "key", "number", "index", "code")  # ends of names of row numbers and ids, which are no times


def missing_roles(sheet: Sheet, missing: Sequence[str], columns: Mapping[str, str], data: DataConfig) -> str:
    """Return the message about missing roles, with a command that would work.

    Args:
        columns: the columns of the other roles. data: the user's settings, which the command repeats.
    """
    if isinstance(sheet, TextFile) and any(is_value(name) for name in sheet.dialect.header):
        return header_is_data(sheet, data.columns)
    title = sheet.dialect.narrow_header() if isinstance(sheet, TextFile) and sheet.dialect.header else None
    if title is not None:
        count = f"{title[0]} value{'s' if title[0] > 1 else ''}"
        return (
            f"{sheet.name}: the first line has {count} and the rows have {title[1]}; remove the lines above the header"
        )
    names = shown_names(sheet.columns) or "no columns"
    in_memory = isinstance(sheet, ArrowSheet) and not sheet.is_file
    kind = "frame" if in_memory else "file"
    fault = f"{sheet.name}: no column for {', '.join(missing)}; the {kind} has {names}"
    values = _examples(sheet)
    guess = {**columns, **_guess(values, missing, columns, data.time_format)}
    if any(role not in guess for role in REQUIRED) or (isinstance(sheet, TextFile) and sheet.dialect.konect):
        return f"{fault}; {_candidates(sheet, values, missing, columns)}"
    if in_memory:
        choice = ", ".join(f"{role}={guess[role]!r}" for role in missing)
        return f"{fault}; name the right ones, as in: EventStream.of(frame, {choice})"
    flags = {**data.columns, **{role: guess[role] for role in missing}}
    words = ["mspipe-triton", "data", "info", shown_path(Path(data.path)) if data.path else sheet.name, "--columns"]
    words.append(",".join(f"{role}={name}" for role, name in flags.items()))
    words += [f"--{flag}" for flag in ("bipartite", "one-kind", "no-header") if getattr(data, flag.replace("-", "_"))]
    words += ["--encoding", data.encoding] if data.encoding else []
    words += ["--time-format", data.time_format] if data.time_format else []
    if data.sort or not _ordered(_plain_times(values[guess["t"]], data.time_format)):
        words.append("--sort")
    return f"{fault}; name the right ones, as in: {shlex.join(words)}"


def header_is_data(sheet: TextFile, chosen: Mapping[str, str]) -> str:
    """Return the message about a first line that is a row, with the columns to name if they are not the first three.

    Args:
        chosen: the user's choice of columns, which stays.
    """
    header = sheet.dialect.header
    rows = (header, *sheet.dialect.rows)
    values = {str(place + 1): [row[place] for row in rows if place < len(row)] for place in range(len(header))}
    time = _better_time(values, "3", chosen) if len(values) > 2 and "t" not in chosen else None
    more = "" if time is None else f" {_flag(values, time, chosen)}"
    return f"{sheet.name}: the first line is data, not a header: {shown_names(header, 8)}; use --no-header{more}"


def check_first_row(sheet: Sheet, time: str) -> None:
    """Refuse a first row that is a header, though the table is said to have none.

    Raises:
        DataError: the first time is a name, and those below it are times.
    """
    first, *others = _examples(sheet)[time] or [""]
    if others and not is_time(first) and all(map(is_time, others)):
        raise DataError(f"{sheet.name}: the first line is a header (column {time} is {first!r}); omit --no-header")


def check_times(sheet: Sheet, time: str, chosen: Mapping[str, str]) -> None:
    """Refuse the third column of a table without a header as the time if another one is clearly that.

    Args:
        chosen: the user's choice of columns, which stays.

    Raises:
        DataError: another column has dates or Unix times, or is in order while the third is not.
    """
    values = _examples(sheet)
    better = _better_time(values, time, chosen)
    if better is not None:
        raise DataError(
            f"{sheet.name}: column {better} looks like the time, and column {time} does not; use "
            f"{_flag(values, better, chosen)}, or name the columns that you mean"
        )


def _flag(values: Mapping[str, Any], time: str, chosen: Mapping[str, str]) -> str:
    """Return the flag for a time in another than the third column; the first others that are free are the ends."""
    others = iter([name for name in values if name != time and name not in chosen.values()])
    ends = {role: chosen.get(role) or next(others, "") for role in ("src", "dst")}
    flags = {**ends, "t": time, **{role: name for role, name in chosen.items() if role not in REQUIRED}}
    return "--columns " + ",".join(f"{role}={name}" for role, name in flags.items())


def _better_time(values: Mapping[str, Sequence[str]], time: str, chosen: Mapping[str, str]) -> str | None:
    """Return a column that looks more like the time than column `time`: by dates or Unix times, or by its order."""
    values = {name: each for name, each in values.items() if name == time or name not in chosen.values()}
    times = [name for name, each in values.items() if each and all(map(is_time, each))]
    strong = [name for name in times if _is_absolute(values[name])]
    if time in strong:
        return None
    if strong:
        return max(strong, key=lambda name: _ordered(values[name]))
    if (time in times and _rises(values[time])) or len(next(iter(values.values()))) < 3:
        return None
    return next((name for name in times if _rises(values[name])), None)


def _guess(
    values: Mapping[str, Sequence[str]], missing: Sequence[str], columns: Mapping[str, str], form: str
) -> dict[str, str]:
    """Guess columns for the missing roles from their names and first values, of which none may be empty.

    Args:
        form: the form of dates, or "".
    """
    guess = {}
    if "t" in missing:
        times = {name: _plain_times(values[name], form) for name in _times(values, columns, form)}
        free = list(values)
        best = sorted(times, key=lambda name: (-_likeness(name, times[name]), -free.index(name)))
        if best and (len(best) == 1 or _likeness(best[0], times[best[0]])):
            guess["t"] = best[0]
    ends = [name for name in _ends(values, {**columns, **guess}) if not _is_unlikely(name, values[name])]
    ends.sort(key=lambda name: (_all_differ(values[name]), not plain_name(name).endswith(_NODE_NAMES)))
    stems = [_stem(name) for name in columns.values()]
    for role in (role for role in missing if role != "t"):
        name = next((name for name in ends if _stem(name) not in stems), None)
        if name is not None:
            guess[role] = name
            stems.append(_stem(name))
    return guess


def _candidates(
    sheet: Sheet, values: Mapping[str, Sequence[str]], missing: Sequence[str], columns: Mapping[str, str]
) -> str:
    """Return advice without a command, where it could be wrong: the columns that could be meant."""
    ends, times = _ends(values, columns), _times(values, columns, "", confused=True)
    ends = [name for name in ends if name not in times or len(times) > 1]
    needed = len([role for role in missing if role != "t"])
    konect = isinstance(sheet, TextFile) and sheet.dialect.konect
    if konect or len(ends) < needed or ("t" in missing and (not times or len({*ends, *times}) <= needed)):
        return "a table of events needs three: source, destination and time"
    parts = [f"nodes could be {shown_names(ends)}"] if needed else []
    parts += [f"the time could be {shown_names(times)}"] if "t" in missing else []
    return f"name the right ones with --columns: {', '.join(parts)}"


def _times(
    values: Mapping[str, Sequence[str]], columns: Mapping[str, str], form: str, confused: bool = False
) -> list[str]:
    """Return the columns that could be the time; with `confused`, also dates whose day and month could be confused."""

    def fits(texts: Sequence[str]) -> bool:
        if form:
            return parses(chosen_form(form), pa.array(texts))
        return all(is_time(text) or (confused and suggested_forms(text)) for text in texts)

    names = [name for name in _free(values, columns) if not plain_name(name).endswith((*_ROW_NAMES, *_CALENDAR))]
    names = [name for name in names if plain_name(name) not in ROW_NUMBERS]
    return [name for name in names if values[name] and fits(values[name])]


def _ends(values: Mapping[str, Sequence[str]], columns: Mapping[str, str]) -> list[str]:
    """Return the columns that could be source or destination: no labels, dates, numbers with fractions, row numbers."""
    return [
        name
        for name in _free(values, columns)
        if plain_name(name) not in (*LABELS, *ROW_NUMBERS, *_CALENDAR)
        and not any(_is_fraction(text) or suggested_forms(text) for text in values[name])
        and not (values[name] and all(is_time(text) and not _is_number(text) for text in values[name]))
    ]


def _free(values: Mapping[str, Sequence[str]], columns: Mapping[str, str]) -> list[str]:
    """Return the columns without a role that have a name and no empty value, and that --columns can name."""
    return [name for name in values if name not in columns.values() and name and "," not in name and all(values[name])]


def _is_unlikely(name: str, values: Sequence[str]) -> bool:
    """Return True for a column that is alike, or differs, in all of ten rows or more; if called id, of two or more."""
    if len(values) >= _FEW and len(set(values)) == 1:
        return True
    return _all_differ(values) and (len(values) >= _FEW or (len(values) > 1 and plain_name(name) in _ROW_NAMES))


def _all_differ(values: Sequence[str]) -> bool:
    return len(set(values)) == len(values)


def _stem(name: str) -> str:
    """Return what a column is about: "product" for product_id and product_name."""
    plain = plain_name(name)
    return next((plain.removesuffix(end) for end in _NODE_NAMES if plain.endswith(end) and plain != end), plain)


def _plain_times(values: Sequence[str], form: str) -> Sequence[str]:
    """Return dates of a form as numbers; other times as they are."""
    if not form or not parses(chosen_form(form), pa.array(values, pa.string())):
        return values
    dates = chosen_form(form)(pa.array(values, pa.string()))
    return [str(value) for value in dates.cast(pa.int64()).to_pylist()]


def _likeness(name: str, values: Sequence[str]) -> int:
    """Return how much a column of times looks like that of the events."""
    named = any(word in plain_name(name) for word in ("time", "date"))
    return 3 * _is_absolute(values) + 2 * named + _rises(values)


def _is_absolute(values: Sequence[str]) -> bool:
    """Return True for dates, and for numbers that are all Unix times in one unit."""
    if not all(map(_is_number, values)):
        return True
    units = {unit_of(np.array([float(value)])) for value in values}
    return len(units) == 1 and "" not in units


def _ordered(values: Sequence[str]) -> bool:
    """Return True for values of which none is below the one before."""
    ordered: Sequence[Any] = [float(value) for value in values] if all(map(_is_number, values)) else values
    return all(later >= earlier for earlier, later in pairwise(ordered))


def _rises(values: Sequence[str]) -> bool:
    """Return True for values in order that are not all equal."""
    return len(set(values)) > 1 and _ordered(values)


def _examples(sheet: Sheet) -> dict[str, list[str]]:
    """Return the first values of every column as text."""
    if isinstance(sheet, TextFile):
        rows = [row for row in sheet.dialect.rows if len(row) == len(sheet.columns)][:_EXAMPLES]
        return {name: [row[place].strip() for row in rows] for place, name in enumerate(sheet.columns)}
    table = sheet.read(sheet.columns, (), "").slice(0, _EXAMPLES)
    return {name: [_shown(value) for value in table[name].to_pylist()] for name in table.column_names}


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_fraction(text: str) -> bool:
    text = re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", text)
    return _is_number(text) and not float(text).is_integer()
