"""Assembly of a stream from tables: their rows joined, columns converted, nodes numbered, events put in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.id_columns import ABSENT
from mspipe_triton.data.ids import NodeIds, number_nodes
from mspipe_triton.data.joins import joined_ids, joined_times
from mspipe_triton.data.labels import label_column
from mspipe_triton.data.names import Roles, plain_name, shown_names
from mspipe_triton.data.origin import Origin, Source, shown
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.stream_features import row_column, with_edge_features, with_node_features
from mspipe_triton.data.text import TextFile
from mspipe_triton.errors import DataError

_FEW = 10  # ids, too few to tell a range


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
    labels, fault = (None, None) if roles.label is None else label_column(columns[roles.label], roles.label, origin)
    if order is not None:
        src, dst, t = src[order], dst[order], t[order]
        labels = None if labels is None else labels[order]
    notes = _words(ids) + ([] if roles.kinds or data.one_kind else _two_kinds(src, dst, ids, roles))
    by_name = {column: "row" if column == numbers else roles.of(column) for column in sheets[0].columns}
    source = Source(origin, order, data, by_name, tuple(notes), sheets[0].form, meaning, label_fault=fault)
    stream = EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(t), None, None,
        None if labels is None else torch.from_numpy(labels), len(ids), name, ids, source,
    )  # fmt: skip
    stream = with_edge_features(stream, columns, roles, numbers, data, edge_features)
    return with_node_features(stream, data, node_features)


def _read(sheets: Sequence[Sheet], roles: Roles, used: Sequence[str]) -> tuple[list[pa.Table], Origin]:
    """Read the columns in use from all tables."""
    tables, parts = [], []
    for sheet in sheets:
        missing = [name for name in used if name not in sheet.columns]
        if missing:
            header = shown_names(sheet.columns)
            raise DataError(
                f"{sheet.name}: no column {missing[0]!r}, which {sheets[0].name} has; the file has {header}; give all "
                "files of a folder the same columns"
            )
        text = {roles.src, roles.dst, roles.t, *filter(None, [roles.label]), *(set(used) - set(roles.used))}
        tables.append(sheet.read(used, text, roles.t))
        parts.append((sheet.name, tables[-1].num_rows))
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


def _words(ids: NodeIds) -> list[str]:
    """Return a note if a node is called as missing values are, such as "nan"."""
    words = [
        word
        for table in ids.ids
        if pa.types.is_string(table.type)
        for word in table.filter(pc.is_in(pc.utf8_lower(table), value_set=ABSENT)).to_pylist()
    ]
    if not words:
        return []
    return [f"{shown(words[0])} is the id of a node; if it stands for a missing value, remove the rows that have it"]


def _two_kinds(src: np.ndarray, dst: np.ndarray, ids: NodeIds, roles: Roles) -> list[str]:
    """Return a note if sources and destinations share numbers and look like two kinds of nodes.

    They look so if each of the two is a nearly unbroken range of integers from the same start, and one is longer by a
    tenth; or if a column of sources is called user and the like, and that of destinations is not.
    """
    sides = [np.zeros(len(ids), dtype=bool) for _ in range(2)]
    sides[0][src], sides[1][dst] = True, True
    shared = int((sides[0] & sides[1]).sum())
    table = ids.ids[0]
    if not shared or not pa.types.is_integer(table.type):
        return []
    numbers = table.to_numpy()
    first, second = (numbers[side] for side in sides)
    lengths = [int(part[-1]) - int(part[0]) + 1 for part in (first, second)]
    unbroken = first.size >= 0.8 * lengths[0] and second.size >= 0.8 * lengths[1]
    different = _FEW < min(lengths) < 0.9 * max(lengths)
    ranges = unbroken and different and abs(int(first[0]) - int(second[0])) <= 1
    if not ranges and not _user_like(roles):
        return []
    columns = f"columns {roles.src} and {roles.dst}" if roles.src.isdigit() else f"{roles.src} and {roles.dst}"
    return [
        f"{columns} share {shared:,} ids and are numbered together, though they look like two kinds "
        "of nodes; if they are, use --bipartite, otherwise --one-kind"
    ]


def _user_like(roles: Roles) -> bool:
    """Return True if the sources are called user and the destinations are not."""
    return "user" in plain_name(roles.src) and "user" not in plain_name(roles.dst)
