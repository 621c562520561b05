"""Roles of a table's columns, chosen by the user or by their usual names."""

from __future__ import annotations

from collections.abc import Mapping

from mspipe_triton.config import DataConfig
from mspipe_triton.data.advice import check_first_row, check_times, header_is_data, missing_roles
from mspipe_triton.data.dialect import is_value, looks_like_data
from mspipe_triton.data.names import (
    REQUIRED,
    Roles,
    default_columns,
    feature_columns,
    find_column,
    kind_names,
    kinds_of,
    shown_names,
)
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.text import TextFile
from mspipe_triton.errors import DataError, closest


def find_roles(sheet: Sheet, data: DataConfig) -> Roles:
    """Find the column of each role in a table, by the user's choice or by its usual name.

    Raises:
        DataError: a column is missing, occurs twice, has two roles, or its name is data.
    """
    columns = usual_columns(sheet, data)
    missing = [role for role in REQUIRED if role not in columns]
    if missing:
        raise DataError(missing_roles(sheet, missing, columns, data))
    try:
        features = feature_columns(sheet.columns, data.columns.get("features"), columns)
    except DataError as error:
        raise DataError(f"{sheet.name}: {error}") from None
    src, dst = columns["src"], columns["dst"]
    kinds = kinds_of(src, dst)
    if data.bipartite or (isinstance(sheet, TextFile) and sheet.dialect.konect == "bip"):
        kinds = kind_names(src, dst)
    return Roles(src, dst, columns["t"], columns.get("label"), features, () if data.one_kind else kinds)


def usual_columns(sheet: Sheet, data: DataConfig) -> dict[str, str]:
    """Return the columns of the roles src, dst, t and label, by the user's choice or by their usual names.

    A role without a column is left out.

    Raises:
        DataError: a column that the user chose is missing, one occurs twice, has two roles, or its name is data.
    """
    dialect = sheet.dialect if isinstance(sheet, TextFile) else None
    if isinstance(sheet, TextFile) and looks_like_data(sheet.dialect.header):
        raise DataError(header_is_data(sheet, data.columns))
    names, chosen = sheet.columns, _chosen(sheet, data.columns)
    if dialect is not None and not dialect.header:
        defaults = {role: name for role, name in dialect.defaults.items() if name not in chosen.values()}
    else:
        defaults = default_columns([name for name in names if name not in chosen.values()])
    columns = {**{role: name for role, name in defaults.items() if role not in data.columns}, **chosen}
    if dialect is not None and not dialect.header and "t" in columns:
        check_first_row(sheet, columns["t"])
        if "t" not in data.columns and not dialect.konect and not data.time_format:
            check_times(sheet, columns["t"], chosen)
    if all(role in columns for role in REQUIRED):  # a missing one is reported first
        _check_names(sheet, columns, chosen)
    return columns


def _check_names(sheet: Sheet, columns: Mapping[str, str], chosen: Mapping[str, str]) -> None:
    """Refuse a column with two roles, one whose name is data, and one of two columns of the same name.

    Both columns of a name may be used, and the user may choose one.
    """
    names = sheet.columns
    for role, name in columns.items():
        other = next((each for each in columns if each != role and columns[each] == name), None)
        if other is not None:
            raise DataError(f"{sheet.name}: column {name!r} is both {role} and {other}; use --columns {role}=NAME")
        if role in REQUIRED and isinstance(sheet, TextFile) and sheet.dialect.header and is_value(name):
            raise DataError(header_is_data(sheet, chosen))
        alike = [each for each in names if each.casefold() in (name.casefold(), f"{name.casefold()}.1")]
        unused = [each for each in alike if each not in columns.values()]
        if names.count(name) > 1 or (len(alike) > 1 and unused and role not in chosen):
            choice = " or ".join(f"{role}={each}" for each in dict.fromkeys(alike))
            fix = f"use --columns {choice}" if names.count(name) == 1 else "rename one of them"
            raise DataError(f"{sheet.name}: column {name!r} ({role}) appears twice in the header; {fix}")


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
                f"{role}={closest(choice, sheet.columns) or 'NAME'}"
            )
        chosen[role] = name
    return chosen
