"""Assembly of a stream from tables: their rows joined, columns converted, nodes numbered, events put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import number_nodes
from mspipe_triton.data.joins import joined_columns, joined_ends, joined_times, time_order
from mspipe_triton.data.labels import label_column
from mspipe_triton.data.notes import column_notes, stream_notes
from mspipe_triton.data.origin import Source
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.split import split_stream
from mspipe_triton.data.stream_features import row_column, with_edge_features, with_node_features


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
    text = {roles.src, roles.dst, roles.t, *filter(None, [roles.label, numbers])}
    columns, origin = joined_columns(sheets, used, text, roles.t)
    sources, destinations = joined_ends(columns, (roles.src, roles.dst), origin, bool(roles.kinds))
    src, dst, ids = number_nodes(sources, destinations, roles.kinds)
    t, meaning = joined_times(columns[roles.t], roles.t, origin, data.time_format)
    order = time_order(columns[roles.t], t, roles.t, origin, data.sort)
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
