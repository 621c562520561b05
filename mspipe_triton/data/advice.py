"""Advice about a table whose columns have no roles yet: a command that would work, by its names and first values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mspipe_triton.config import DataConfig
from mspipe_triton.data.dialect import is_value
from mspipe_triton.data.names import REQUIRED, plain_name, shown_names
from mspipe_triton.data.origin import shown_path
from mspipe_triton.data.sheets import ArrowSheet, Sheet
from mspipe_triton.data.text import TextFile
from mspipe_triton.data.times import is_time, unit_of
from mspipe_triton.errors import DataError

_EXAMPLES = 100
_ROW_NAMES = ("id", "key", "number", "index", "code")  # ends of names of row numbers and ids, which are no times


def missing_roles(sheet: Sheet, missing: Sequence[str], columns: Mapping[str, str], data: DataConfig) -> str:
    """Return the message about missing roles, with a command that would work.

    Args:
        columns: the columns of the other roles. data: the user's settings, which the command repeats.
    """
    if isinstance(sheet, TextFile) and any(is_value(name) for name in sheet.dialect.header):
        return header_is_data(sheet)
    names = shown_names(sheet.columns) or "no columns"
    in_memory = isinstance(sheet, ArrowSheet) and not sheet.is_file
    kind = "frame" if in_memory else "file"
    fault = f"{sheet.name}: no column for {', '.join(missing)}; the {kind} has {names}"
    guess = {**columns, **_guess(_examples(sheet), missing, columns)}
    if any(role not in guess for role in REQUIRED) or (isinstance(sheet, TextFile) and sheet.dialect.konect):
        return f"{fault}; a table of events needs three: source, destination and time"
    if in_memory:
        choice = ", ".join(f"{role}={guess[role]!r}" for role in missing)
        return f"{fault}; name the right ones, as in: EventStream.of(frame, {choice})"
    flags = {**data.columns, **{role: guess[role] for role in missing}}
    words = ["mspipe-triton", "data", "info", shown_path(Path(data.path)) if data.path else sheet.name, "--columns"]
    words.append(",".join(f"{role}={name}" for role, name in flags.items()))
    words += [f"--{flag}" for flag in ("bipartite", "one-kind", "no-header") if getattr(data, flag.replace("-", "_"))]
    words += ["--encoding", data.encoding] if data.encoding else []
    values = _examples(sheet)[guess["t"]]
    if data.sort or not _ordered(values):
        words.append("--sort")
    return f"{fault}; name the right ones, as in: {shlex.join(words)}"


def header_is_data(sheet: TextFile) -> str:
    """Return the message about a first line that is a row, with the columns to name if they are not the first three."""
    header = sheet.dialect.header
    rows = (header, *sheet.dialect.rows)
    values = {str(place + 1): [row[place] for row in rows if place < len(row)] for place in range(len(header))}
    time = _better_time(values, "3") if len(values) > 2 else None
    more = "" if time is None else f" {_flag(values, time)}"
    return f"{sheet.name}: the first line is data, not a header: {shown_names(header, 8)}; use --no-header{more}"


def check_first_row(sheet: Sheet, time: str) -> None:
    """Refuse a first row that is a header, though the table is said to have none.

    Raises:
        DataError: the first time is a name, and those below it are times.
    """
    first, *others = _examples(sheet)[time] or [""]
    if others and not is_time(first) and all(map(is_time, others)):
        raise DataError(f"{sheet.name}: the first line is a header (column {time} is {first!r}); omit --no-header")


def check_times(sheet: Sheet, time: str) -> None:
    """Refuse the third column of a table without a header as the time if another one is clearly that.

    Raises:
        DataError: another column has dates or Unix times, or is in order while the third is not.
    """
    values = _examples(sheet)
    better = _better_time(values, time)
    if better is not None:
        raise DataError(
            f"{sheet.name}: column {better} looks like the time, and column {time} does not; use "
            f"{_flag(values, better)}, or name the columns that you mean"
        )


def _flag(values: Mapping[str, Any], time: str) -> str:
    """Return the flag for a time in another than the third column; the first two others are the ends."""
    others = [name for name in values if name != time]
    return f"--columns src={others[0]},dst={others[1]},t={time}"


def _better_time(values: Mapping[str, Sequence[str]], time: str) -> str | None:
    """Return a column that looks more like the time than column `time`: by dates or Unix times, or by its order."""
    times = [name for name, each in values.items() if each and all(map(is_time, each))]
    strong = [name for name in times if _is_absolute(values[name])]
    if time in strong:
        return None
    if strong:
        return max(strong, key=lambda name: _ordered(values[name]))
    if (time in times and _rises(values[time])) or len(next(iter(values.values()))) < 3:
        return None
    return next((name for name in times if _rises(values[name])), None)


def _guess(values: Mapping[str, Sequence[str]], missing: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Guess columns for the missing roles from their first values, of which none may be empty."""
    free = [name for name in values if name not in columns.values() and name and "," not in name and all(values[name])]
    guess = {}
    if "t" in missing:
        times = [name for name in free if values[name] and all(map(is_time, values[name]))]
        times = [name for name in times if not plain_name(name).endswith(_ROW_NAMES)]
        best = sorted(times, key=lambda name: (-_likeness(name, values[name]), -free.index(name)))
        if best and (len(best) == 1 or _likeness(best[0], values[best[0]])):
            guess["t"] = best[0]
            free.remove(best[0])
    for role in (role for role in missing if role != "t"):
        name = next((name for name in free if not any(_is_fraction(value) for value in values[name])), None)
        if name is not None:
            guess[role] = name
            free.remove(name)
    return guess


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
    return _is_number(text) and not float(text).is_integer()
