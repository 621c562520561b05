"""Assembly of a stream from tables: their rows joined, columns converted, nodes numbered, events put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import number_nodes
from mspipe_triton.data.joins import joined_ends, joined_times
from mspipe_triton.data.labels import label_column
from mspipe_triton.data.names import Roles, find_column, shown_names
from mspipe_triton.data.notes import column_notes, stream_notes
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.split import split_stream
from mspipe_triton.data.stream_features import row_column, with_edge_features, with_node_features
from mspipe_triton.data.text import TextFile
from mspipe_triton.errors import DataError


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
        ConfigError: the split that the settings name leaves a part empty.
    """
    roles = find_roles(sheets[0], data)
    numbers = row_column(sheets[0].columns, roles, data)
    used = roles.used if numbers is None else (*roles.used, numbers)
    tables, origin = _read(sheets, roles, used)
    columns = {name: [table[name] for table in tables] for name in used}
    sources, destinations = joined_ends(columns, (roles.src, roles.dst), origin, bool(roles.kinds))
    src, dst, ids = number_nodes(sources, destinations, roles.kinds)
    t, meaning = joined_times(columns[roles.t], roles.t, origin, data.time_format)
    order = _order(columns[roles.t], t, roles, origin, data.sort)
    labels, fault = (None, None) if roles.label is None else label_column(columns[roles.label], roles.label, origin)
    if order is not None:
        src, dst, t = src[order], dst[order], t[order]
        labels = None if labels is None else labels[order]
    by_name = {column: "row" if column == numbers else roles.of(column) for column in sheets[0].columns}
    source = Source(origin, order, data, by_name, (), sheets[0].form, meaning, label_fault=fault)
    notes = stream_notes(src, dst, t, ids, roles, source) + column_notes(sheets, roles, data)
    source = replace(source, notes=tuple(notes))
    stream = split_stream(EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(t), None, None,
        None if labels is None else torch.from_numpy(labels), len(ids), name, ids, source,
    ), data.split_at, data.time_format)  # fmt: skip
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


def _value(parts: Sequence[pa.ChunkedArray], row: int) -> Any:
    """Return the value of a row of joined columns."""
    for part in parts:
        if row < len(part):
            return part[row]
        row -= len(part)
    raise IndexError(row)
