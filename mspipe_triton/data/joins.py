"""Columns of several tables, joined, and their order in time: types that differ are converted exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_columns import id_column, plain
from mspipe_triton.data.ids import common_type, converted
from mspipe_triton.data.names import find_column, shown_names
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.text import TextFile
from mspipe_triton.data.times import are_dates, time_column, unit_of
from mspipe_triton.errors import DataError


def joined_columns(
    sheets: Sequence[Sheet], names: Sequence[str], text: Collection[str], time: str
) -> tuple[dict[str, list[pa.ChunkedArray]], Origin]:
    """Read columns of tables that follow each other; in later ones, their names may differ in case and blanks.

    Args:
        names: the columns. text: those that a file without types has as text. time: that of the times.

    Returns:
        The parts of each column, one per table, by name; and the origin of their rows.

    Raises:
        DataError: a table lacks a column or cannot be read, or none has a row.
    """
    tables, parts = [], []
    for sheet in sheets:
        columns = {name: find_column(sheet.columns, name) for name in names}
        missing = next((name for name in names if columns[name] is None), None)
        if missing is not None:
            header = shown_names(sheet.columns)
            raise DataError(
                f"{sheet.name}: no column {missing!r}, which {sheets[0].name} has; the file has {header}; give all "
                "files of a folder the same columns"
            )
        present = {name: each for name, each in columns.items() if each is not None}
        table = sheet.read(list(present.values()), {present[name] for name in text}, present[time])
        tables.append(table.rename_columns(list(present)))
        parts.append((sheet.name, table.num_rows))
    if not sum(rows for _, rows in parts):
        below = " below the header" if isinstance(sheets[0], TextFile) and sheets[0].dialect.header else ""
        raise DataError(f"{sheets[0].name}: no events{below}; add a row per event")
    return {name: [table[name] for table in tables] for name in names}, Origin(tuple(parts))


def time_order(
    parts: Sequence[pa.ChunkedArray], t: np.ndarray, name: str, origin: Origin, sort: bool
) -> np.ndarray | None:
    """Return the stable order [E] of rows in time, or None if they are in order.

    Args:
        parts: the column of times, whose values messages name. t: [E] the times that it holds. name: its name.

    Raises:
        DataError: a row is earlier than the one before, and `sort` is False.
    """
    late = np.diff(t, prepend=t[:1]) < 0
    if not late.any():
        return None
    if sort:
        return np.argsort(t, kind="stable")
    row = int(np.flatnonzero(late)[0])
    fault = "earlier than in the row before"
    return origin.fail(row, name, value_at(parts, row), fault, "sort the events with --sort")


def value_at(parts: Sequence[pa.ChunkedArray], row: int) -> Any:
    """Return the value of a row of joined columns."""
    for part in parts:
        if row < len(part):
            return part[row]
        row -= len(part)
    raise IndexError(row)


def joined_ends(
    columns: Mapping[str, Sequence[pa.ChunkedArray]], ends: tuple[str, str], origin: Origin, apart: bool
) -> list[pa.Array]:
    """Convert the columns of sources and destinations to ids.

    If they share one numbering, and one has integers and the other text, "7.0" is 7 in the text too.

    Args:
        columns: the parts of each column, by name. ends: the two names.
        apart: sources and destinations are two kinds of nodes.

    Raises:
        DataError: as `id_column`.
    """
    ids = [joined_ids(columns[end], end, origin) for end in ends]
    texts = [pa.types.is_string(each.type) for each in ids]
    if apart or all(texts) or not any(texts):
        return ids
    whole = partial(pc.replace_substring_regex, pattern=r"^(-?\d+)\.0*$", replacement=r"\1")
    return [whole(each) if text else each for each, text in zip(ids, texts, strict=True)]


def joined_ids(parts: Sequence[pa.ChunkedArray], name: str, origin: Origin) -> pa.Array:
    """Convert the columns of one name to ids: integers, or text if one table has text.

    Args:
        parts: the column in each table that `origin` names.

    Raises:
        DataError: as `id_column`.
    """
    columns = [pa.chunked_array([plain(part)]) for part in parts]
    if _alike(columns):
        return id_column(_concatenated(columns), name, origin)
    ids = [id_column(part, name, place) for part, place in zip(columns, origin.each(), strict=True) if len(part)]
    kind = ids[0].type
    for each in ids[1:]:
        kind = kind if each.type == kind else common_type(kind, each.type, ids)
    return pa.concat_arrays([converted(each, kind) for each in ids])


def joined_times(parts: Sequence[pa.ChunkedArray], name: str, origin: Origin, form: str = "") -> tuple[np.ndarray, str]:
    """Convert the columns of one name to times, and describe their meaning.

    Args:
        form: the form of dates, as in `time_column`.

    Raises:
        DataError: as `time_column`; or one table has dates and another numbers.
        ConfigError: the form cannot be read.
    """
    columns = [pa.chunked_array([plain(part)]) for part in parts]
    if form:
        each = zip(columns, origin.each(), strict=True)
        read = [time_column(part, name, place, form) for part, place in each if len(part)]
        return np.concatenate([t for t, _ in read]), read[0][1]
    if _alike(columns):
        t, meaning = time_column(_concatenated(columns), name, origin)
        if "date" not in meaning and t.dtype == np.int64:
            _refuse_dates_in_one_file(t, name, origin)
        return t, meaning
    if all(pa.types.is_timestamp(part.type) or pa.types.is_date(part.type) for part in columns):
        return time_column(_concatenated([_moments(part) for part in columns]), name, origin)
    places = origin.each()
    times = [(*time_column(part, name, place), place, part) for part, place in zip(columns, places, strict=True)]
    times = [each for each in times if each[0].size]
    (first, meaning, _, _), *others = times
    dates = "date" in meaning
    for _, other, place, part in others:
        if dates != ("date" in other) or (dates and other.split(",")[0] != meaning.split(",")[0]):
            fault = f"{other or 'a number'}, whereas the first file has {meaning or 'numbers'}"
            place.fail(0, name, part[0], fault, "write all times in one form")
    integers = all(t.dtype == np.int64 for t, *_ in times)
    for t, _, place, part in times:
        large = np.abs(t) > 2**53
        if not integers and t.dtype == np.int64:
            place.refuse(large, name, part, "which float64 would round", "store the times of all files as integers")
    t = np.concatenate([first, *(other for other, *_ in others)])
    return t, meaning if dates else unit_of(t)


def _refuse_dates_in_one_file(t: np.ndarray, name: str, origin: Origin) -> None:
    """Refuse times of which some files have dates such as 20161001, and others numbers."""
    ends = np.cumsum([rows for _, rows in origin.parts])
    files = np.split(t, ends[:-1])
    dated = next((place for place, part in enumerate(files) if are_dates(part)[0]), None)
    if dated is not None:
        wrong = np.concatenate([~are_dates(part)[1] for part in files])
        fault = f"no date, as {files[dated][0]} in {origin.parts[dated][0]} is"
        origin.refuse(wrong, name, t, fault, "write all times in one form")


def joined_values(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join the parts of a column, as floats if they are numbers of several types, as text if types differ more."""
    if not _alike(parts):
        kinds = {part.type for part in parts if len(part)}
        numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
        common = pa.float64() if numbers else pa.string()
        parts = [pc.cast(pa.chunked_array([plain(part)]), common) for part in parts if len(part)]
    return _concatenated(parts)


def _alike(columns: Sequence[pa.ChunkedArray]) -> bool:
    return len({column.type for column in columns if len(column)}) < 2


def _concatenated(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    full = [column for column in columns if len(column)] or columns[:1]
    return pa.chunked_array([chunk for column in full for chunk in column.chunks], full[0].type)


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert dates and timestamps, those with a zone to UTC, to one type."""
    try:
        return pc.cast(column, pa.timestamp("ns"))
    except pa.ArrowInvalid:  # beyond the range of nanoseconds
        return pc.cast(column, pa.timestamp("us"), safe=False)
