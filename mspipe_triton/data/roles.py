"""Roles of a table's columns: chosen by the user or by their names, and the advice where one is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mspipe_triton.config import DataConfig
from mspipe_triton.data.dialect import is_value
from mspipe_triton.data.names import (
    REQUIRED,
    ROLES,
    Roles,
    default_columns,
    feature_columns,
    find_column,
    kind_names,
    kinds_of,
    plain_name,
    shown_names,
)
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.text import TextFile
from mspipe_triton.data.times import is_time, unit_of
from mspipe_triton.errors import DataError

_EXAMPLES = 20


def parse_columns(text: str) -> dict[str, str]:
    """Parse `src=user_id,dst=item_id,t=timestamp,features=amount,country` into a mapping from role to column.

    Names that follow `features=` without a role of their own are features too; `label=` switches the role off.

    Raises:
        DataError: a part has no role, or its role does not exist.
    """
    columns, last = dict[str, str](), ""
    for part in (each.strip() for each in text.split(",")):
        role, equals, name = part.partition("=")
        if not equals and last == "features" and part:
            columns["features"] += f",{part}"
        elif equals and role.strip() in ROLES:
            last = role.strip()
            columns[last] = name.strip()
        else:
            raise DataError(f"--columns: {part!r} is not role=name; the roles are {', '.join(ROLES)}")
    return columns


def find_roles(sheet: Sheet, data: DataConfig) -> Roles:
    """Find the column of each role in a table, by the user's choice or by its usual name.

    Raises:
        DataError: a column is missing, occurs twice, has two roles, or its name is data.
    """
    names, chosen = sheet.columns, _chosen(sheet, data.columns)
    dialect = sheet.dialect if isinstance(sheet, TextFile) else None
    if dialect is not None and not dialect.header:
        defaults = dialect.defaults
    else:
        defaults = default_columns([name for name in names if name not in chosen.values()])
    columns = {**{role: name for role, name in defaults.items() if role not in data.columns}, **chosen}
    missing = [role for role in REQUIRED if role not in columns]
    if missing:
        raise DataError(_missing(sheet, missing, columns))
    for role, name in columns.items():
        if names.count(name) > 1:
            raise DataError(f"{sheet.name}: column {name!r} ({role}) appears twice in the header; rename one of them")
        other = next((each for each in columns if each != role and columns[each] == name), None)
        if other is not None:
            raise DataError(f"{sheet.name}: column {name!r} is both {role} and {other}; use --columns {role}=NAME")
        if role in REQUIRED and dialect is not None and dialect.header and is_value(name):
            raise DataError(f"{sheet.name}: column {name!r} ({role}) is data, not a name; use --no-header")
    if dialect is not None and not dialect.header:
        _check_first_row(sheet, columns["t"])
        if not data.columns:
            _check_times(sheet, columns)
    try:
        features = feature_columns(names, data.columns.get("features"), columns)
    except DataError as error:
        raise DataError(f"{sheet.name}: {error}") from None
    src, dst = columns["src"], columns["dst"]
    kinds = kinds_of(src, dst)
    if data.bipartite or (dialect is not None and dialect.konect == "bip"):
        kinds = kind_names(src, dst)
    return Roles(src, dst, columns["t"], columns.get("label"), features, () if data.one_kind else kinds)


def _chosen(sheet: Sheet, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the user's choice of columns as they are called in the table; a role that is switched off is left out."""
    chosen = {}
    for role, choice in columns.items():
        if role == "features" or (role == "label" and not choice):
            continue
        name = find_column(sheet.columns, choice)
        if name is None:
            header = shown_names(sheet.columns)
            raise DataError(
                f"{sheet.name}: column {choice!r} ({role}) is missing from the header: {header}; use --columns "
                f"{role}=NAME"
            )
        chosen[role] = name
    return chosen


def _missing(sheet: Sheet, missing: Sequence[str], columns: Mapping[str, str]) -> str:
    """Return the message about missing roles, with a command that would work."""
    fault = f"{sheet.name}: no column for {', '.join(missing)}; the file has {shown_names(sheet.columns)}"
    guess = {**columns, **_guess(sheet, missing, columns)}
    header_is_data = isinstance(sheet, TextFile) and any(is_value(name) for name in sheet.dialect.header)
    more = "; if its first line is data, add --no-header" if header_is_data else ""
    if any(role not in guess for role in REQUIRED):
        return f"{fault}; a table of events needs three: source, destination and time{more}"
    flag = ",".join(f"{role}={guess[role]}" for role in missing)
    command = f"mspipe-triton data info {shlex.quote(sheet.name)} --columns {shlex.quote(flag)}"
    return f"{fault}; name the right ones, as in: {command}{more}"


def _guess(sheet: Sheet, missing: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Guess columns for the missing roles from their first values."""
    values = _examples(sheet)
    free = [name for name in values if name not in columns.values()]
    guess = {}
    if "t" in missing:
        times = [name for name in free if values[name] and all(map(is_time, values[name]))]
        best = sorted(times, key=lambda name: (-_likeness(name, values[name]), free.index(name)))
        if best:
            guess["t"] = best[0]
            free.remove(best[0])
    free.sort(key=lambda name: not plain_name(name))  # a row number has no name
    for role in (role for role in missing if role != "t"):
        name = next((name for name in free if not any(_is_fraction(value) for value in values[name])), None)
        if name is not None:
            guess[role] = name
            free.remove(name)
    return guess


def _likeness(name: str, values: Sequence[str]) -> int:
    """Return how much a column of times looks like that of the events."""
    dates = not any(_is_number(value) for value in values)
    numbers = [float(value) for value in values if _is_number(value)]
    unix = bool(numbers) and bool(unit_of(np.array(numbers)))
    ordered = numbers == sorted(numbers) and len(set(numbers)) > 1
    return 4 * dates + 3 * unix + 2 * any(word in plain_name(name) for word in ("time", "date")) + ordered


def _check_first_row(sheet: Sheet, time: str) -> None:
    """Refuse a first row that is a header, though the table is said to have none.

    Raises:
        DataError: the first time is a name, and those below it are times.
    """
    first, *others = _examples(sheet)[time] or [""]
    if others and not is_time(first) and all(map(is_time, others)):
        raise DataError(f"{sheet.name}: the first line is a header ({time} is {first!r}); omit --no-header")


def _check_times(sheet: Sheet, columns: Mapping[str, str]) -> None:
    """Refuse the third column of a table without a header as the time if another one is clearly that.

    Raises:
        DataError: another column has dates or Unix times, or is in order while the third is not.
    """
    values = _examples(sheet, 100)
    if len(next(iter(values.values()), ())) < 3:
        return
    likeness = {name: _likeness("", each) for name, each in values.items() if all(map(is_time, each))}
    time = columns["t"]
    better = [name for name in likeness if likeness[name] > likeness.get(time, 0) and _rises(values[name])]
    if better and not (time in likeness and _rises(values[time])):
        others = [name for name in values if name != better[0]]
        flag = f"src={others[0]},dst={others[1]},t={better[0]}"
        raise DataError(
            f"{sheet.name}: column {time}, the third, is no time in order, and column {better[0]} looks like one; use "
            f"--columns {flag}, or name the columns that you mean"
        )


def _rises(values: Sequence[str]) -> bool:
    """Return True for values of which at least nine in ten are not below the one before, and that are not all equal."""
    ordered: Sequence[Any] = [float(value) for value in values] if all(map(_is_number, values)) else values
    steps = [later >= earlier for earlier, later in pairwise(ordered)]
    return len(set(values)) > 1 and sum(steps) >= 0.9 * len(steps)


def _examples(sheet: Sheet, most: int = _EXAMPLES) -> dict[str, list[str]]:
    """Return the first values of every column as text."""
    if isinstance(sheet, TextFile):
        rows = sheet.dialect.rows[:most]
        return {
            name: [row[place].strip() for row in rows if place < len(row)] for place, name in enumerate(sheet.columns)
        }
    table = sheet.read(sheet.columns, (), "").slice(0, most)
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
