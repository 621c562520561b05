"""Assembly of a stream from tables: their rows joined, columns converted, nodes numbered, events put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.id_columns import ABSENT, plain
from mspipe_triton.data.ids import number_nodes
from mspipe_triton.data.joins import joined_ids, joined_times
from mspipe_triton.data.names import Roles, find_column, shown_names
from mspipe_triton.data.notes import column_notes, stream_notes
from mspipe_triton.data.origin import Origin, Source, shown
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.stream_features import row_column, with_edge_features, with_node_features
from mspipe_triton.data.text import TextFile
from mspipe_triton.errors import DataError

_WORDS = {"true": "1", "false": "0"}


def assemble(
    sheets: Sequence[Sheet], data: DataConfig, name: str, edge_features: Any = None, node_features: Any = None
) -> EventStream:
    """Assemble a stream from tables that follow each other.

    Args:
        sheets: the tables, each with the same columns.
        data: options for reading, which read the same stream again. name: the stream's name.
        edge_features: a matrix [E, F] from Python, a row per row of the tables. node_features: a table or matrix.

    Raises:
        DataError: columns are missing, or a value cannot be read.
    """
    roles = find_roles(sheets[0], data)
    numbers = row_column(sheets[0].columns, roles, data)
    used = roles.used if numbers is None else (*roles.used, numbers)
    tables, origin = _read(sheets, roles, used)
    columns = {name: [table[name] for table in tables] for name in used}
    sources, destinations = (joined_ids(columns[end], end, origin) for end in (roles.src, roles.dst))
    src, dst, ids = number_nodes(sources, destinations, roles.kinds)
    t, meaning = joined_times(columns[roles.t], roles.t, origin, data.time_format)
    order = _order(columns[roles.t], t, roles, origin, data.sort)
    labels, fault = (None, None) if roles.label is None else _labels(columns[roles.label], roles.label, origin)
    if order is not None:
        src, dst, t = src[order], dst[order], t[order]
        labels = None if labels is None else labels[order]
    by_name = {column: "row" if column == numbers else roles.of(column) for column in sheets[0].columns}
    source = Source(origin, order, data, by_name, (), sheets[0].form, meaning, label_fault=fault)
    notes = stream_notes(src, dst, t, ids, roles, source) + column_notes(sheets, roles, data)
    source = replace(source, notes=tuple(notes))
    stream = EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(t), None, None,
        None if labels is None else torch.from_numpy(labels), len(ids), name, ids, source,
    )  # fmt: skip
    stream = with_edge_features(stream, columns, roles, numbers, data, edge_features)
    return with_node_features(stream, data, node_features)


def _read(sheets: Sequence[Sheet], roles: Roles, used: Sequence[str]) -> tuple[list[pa.Table], Origin]:
    """Read the columns in use from all tables; in later ones, their names may differ in case and blanks."""
    tables, parts = [], []
    text = {roles.src, roles.dst, roles.t, *filter(None, [roles.label]), *(set(used) - set(roles.used))}
    for sheet in sheets:
        names = {name: find_column(sheet.columns, name) for name in used}
        missing = next((name for name in used if names[name] is None), None)
        if missing is not None:
            header = shown_names(sheet.columns)
            raise DataError(
                f"{sheet.name}: no column {missing!r}, which {sheets[0].name} has; the file has {header}; give all "
                "files of a folder the same columns"
            )
        columns = {name: each for name, each in names.items() if each is not None}
        table = sheet.read(list(columns.values()), {columns[name] for name in text}, columns[roles.t])
        tables.append(table.rename_columns(list(columns)))
        parts.append((sheet.name, table.num_rows))
    if not sum(rows for _, rows in parts):
        below = " below the header" if isinstance(sheets[0], TextFile) and sheets[0].dialect.header else ""
        raise DataError(f"{sheets[0].name}: no events{below}; add a row per event")
    return tables, Origin(tuple(parts))


def _order(
    parts: Sequence[pa.ChunkedArray], t: np.ndarray, roles: Roles, origin: Origin, sort: bool
) -> np.ndarray | None:
    """Return the stable order of the events in time, or None if they are in order."""
    late = np.diff(t, prepend=t[:1]) < 0
    if not late.any():
        return None
    if sort:
        return np.argsort(t, kind="stable")
    row = int(np.flatnonzero(late)[0])
    fault = "earlier than in the row before"
    return origin.fail(row, roles.t, _value(parts, row), fault, "sort the events with --sort")


def _labels(parts: Sequence[pa.ChunkedArray], name: str, origin: Origin) -> tuple[np.ndarray | None, str | None]:
    """Convert labels to int64, or to float64 with NaN for events without one; a fault is returned, not raised."""
    try:
        floats = np.concatenate([_numbers(part) for part in parts])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = [value for part in parts for value in part.to_pylist()]
        row = next((row for row, value in enumerate(values) if not _is_label(value)), 0)
        return None, f"{origin.place(row)}: {name} is {shown(values[row])}, not a label; use 0 and 1, or nothing"
    whole = bool((floats == np.floor(floats)).all())
    return (floats.astype(np.int64) if whole else floats), None


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Convert the labels of one table to float64, NaN where there is none."""
    values = plain(column)
    if pa.types.is_string(values.type):
        values = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        values = pc.if_else(pc.is_in(values, value_set=ABSENT), pa.scalar(None, pa.string()), values)
        for word, number in _WORDS.items():
            values = pc.if_else(pc.equal(values, word), number, values)
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    numbers = pc.cast(values, pa.float64())
    return np.array(pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False))


def _is_label(value: Any) -> bool:
    try:
        _numbers(pa.chunked_array([[value]]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _value(parts: Sequence[pa.ChunkedArray], row: int) -> Any:
    """Return the value of a row of joined columns."""
    for part in parts:
        if row < len(part):
            return part[row]
        row -= len(part)
    raise IndexError(row)
