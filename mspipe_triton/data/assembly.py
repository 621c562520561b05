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
from mspipe_triton.data.id_columns import id_column, plain
from mspipe_triton.data.ids import NodeIds, number_nodes
from mspipe_triton.data.names import Roles, plain_name, shown_names
from mspipe_triton.data.origin import Origin, Source, shown
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.stream_features import row_column, with_edge_features, with_node_features
from mspipe_triton.data.text import TextFile
from mspipe_triton.data.times import time_column
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
    table, origin = _joined(sheets, roles, numbers)
    src, dst, ids = number_nodes(
        id_column(table[roles.src], roles.src, origin), id_column(table[roles.dst], roles.dst, origin), roles.kinds
    )
    t, meaning = time_column(table[roles.t], roles.t, origin)
    order = _order(table, t, roles, origin, data.sort)
    labels, fault = (None, None) if roles.label is None else _labels(table[roles.label], roles.label, origin)
    if order is not None:
        src, dst, t = src[order], dst[order], t[order]
        labels = None if labels is None else labels[order]
    notes = [] if roles.kinds or data.one_kind else _two_kinds(src, dst, ids, roles)
    columns = {column: "row" if column == numbers else roles.of(column) for column in sheets[0].columns}
    source = Source(origin, order, data, columns, tuple(notes), meaning, label_fault=fault)
    stream = EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(t), None, None,
        None if labels is None else torch.from_numpy(labels), len(ids), name, ids, source,
    )  # fmt: skip
    stream = with_edge_features(stream, table, roles, numbers, data, edge_features)
    return with_node_features(stream, data, node_features)


def _joined(sheets: Sequence[Sheet], roles: Roles, numbers: str | None) -> tuple[pa.Table, Origin]:
    """Read the columns in use from all tables, and join their rows."""
    tables, parts = [], []
    used = roles.used if numbers is None else (*roles.used, numbers)
    for sheet in sheets:
        missing = [name for name in used if name not in sheet.columns]
        if missing:
            header = shown_names(sheet.columns)
            raise DataError(
                f"{sheet.name}: no column {missing[0]!r}, which {sheets[0].name} has; the file has {header}; give all "
                "files of a folder the same columns"
            )
        text = {name for name in (roles.src, roles.dst, roles.t, roles.label, numbers) if name is not None}
        tables.append(sheet.read(used, text, roles.t))
        parts.append((sheet.name, tables[-1].num_rows))
    if not sum(rows for _, rows in parts):
        below = " below the header" if isinstance(sheets[0], TextFile) and sheets[0].dialect.header else ""
        raise DataError(f"{sheets[0].name}: no events{below}; add a row per event")
    columns = {name: _column([table[name] for table in tables if table.num_rows]) for name in used}
    return pa.table(columns), Origin(tuple(parts))


def _column(chunks: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join the columns of one name, as floats if they are numbers of several types, as text if types differ more."""
    kinds = {chunk.type for chunk in chunks}
    if len(kinds) > 1:
        numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
        integers = all(pa.types.is_integer(kind) for kind in kinds)
        common = pa.string() if integers or not numbers else pa.float64()
        chunks = [pc.cast(pa.chunked_array([plain(chunk)]), common) for chunk in chunks]
    return pa.chunked_array([part for chunk in chunks for part in chunk.chunks], chunks[0].type)


def _order(table: pa.Table, t: np.ndarray, roles: Roles, origin: Origin, sort: bool) -> np.ndarray | None:
    """Return the stable order of the events in time, or None if they are in order."""
    late = np.diff(t, prepend=t[:1]) < 0
    if not late.any():
        return None
    if sort:
        return np.argsort(t, kind="stable")
    row = int(np.flatnonzero(late)[0])
    value = shown(table[roles.t][row])
    raise DataError(
        f"{origin.place(row)}: {roles.t} is {value}, earlier than in the row before; sort the events with --sort"
    )


def _labels(column: pa.ChunkedArray, name: str, origin: Origin) -> tuple[np.ndarray | None, str | None]:
    """Convert labels to int64, or to float64 with NaN for events without one; a fault is returned, not raised."""
    values = plain(column)
    if pa.types.is_string(values.type):
        values = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        for word, number in _WORDS.items():
            values = pc.if_else(pc.equal(values, word), number, values)
    try:
        numbers = pc.cast(pc.cast(values, pa.int8()) if pa.types.is_boolean(values.type) else values, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row, value = _first_without_number(values, column)
        return None, f"{origin.place(row)}: {name} is {shown(value)}, not a label; use 0 and 1, or nothing"
    floats = np.array(pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False))
    whole = bool((floats == np.floor(floats)).all())
    return (floats.astype(np.int64) if whole else floats), None


def _first_without_number(values: pa.Array, column: pa.ChunkedArray) -> tuple[int, object]:
    """Return row and value of the first label that is no number."""
    for row, value in enumerate(values.to_pylist()):
        try:
            float(value or 0)
        except (TypeError, ValueError):
            return row, column[row]
    return 0, column[0]


def _two_kinds(src: np.ndarray, dst: np.ndarray, ids: NodeIds, roles: Roles) -> list[str]:
    """Return a note if sources and destinations share numbers and look like two kinds of nodes.

    They look so if each of the two is a nearly unbroken range of integers from the same start, and one is longer; or if
    a column of sources is called user and the like, and that of destinations is not.
    """
    sides = [np.zeros(len(ids), dtype=bool) for _ in range(2)]
    sides[0][src], sides[1][dst] = True, True
    shared = int((sides[0] & sides[1]).sum())
    table = ids.ids[0]
    if not shared or not pa.types.is_integer(table.type):
        return []
    numbers = table.to_numpy()
    first, second = (numbers[side] for side in sides)
    unbroken = all(part.size >= 0.8 * (int(part[-1]) - int(part[0]) + 1) for part in (first, second))
    lengths = sorted((first.size, second.size))
    ranges = unbroken and abs(int(first[0]) - int(second[0])) <= 1 and lengths[0] < 0.9 * lengths[1]
    if not ranges and not _user_like(roles):
        return []
    return [
        f"{roles.src} and {roles.dst} share {shared:,} ids and are numbered together, though they look like two kinds "
        "of nodes; if they are, use --bipartite, otherwise --one-kind"
    ]


def _user_like(roles: Roles) -> bool:
    """Return True if the sources are called user and the destinations are not."""
    return "user" in plain_name(roles.src) and "user" not in plain_name(roles.dst)
