"""Features of a stream that is being read: from its own columns, from .npy files, and from a table of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.feature_files import RowNumbers, load_edge_features, open_array
from mspipe_triton.data.features import FeatureTransform, Part
from mspipe_triton.data.id_columns import id_column
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.joins import joined_values
from mspipe_triton.data.names import Roles, find_column, plain_name
from mspipe_triton.data.node_features import NodeFeatures, node_feature_rows, node_features
from mspipe_triton.data.objects import dense_array
from mspipe_triton.data.origin import Origin, shown, shown_path
from mspipe_triton.data.scaling import scaled_in_chunks
from mspipe_triton.data.sheets import open_sheets
from mspipe_triton.data.split import split_if_possible
from mspipe_triton.data.tables import table_of
from mspipe_triton.errors import DataError

_ROW_NUMBER = "idx"


def row_column(columns: tuple[str, ...], roles: Roles, data: DataConfig) -> str | None:
    """Return the column that numbers the rows of --edge-features, as TGN's `idx` does, or None."""
    name = find_column(columns, _ROW_NUMBER) if data.edge_features else None
    return None if name is None or roles.of(name) else name


def with_edge_features(
    stream: EventStream,
    table: Mapping[str, Sequence[pa.ChunkedArray]],
    roles: Roles,
    numbers: str | None,
    data: DataConfig,
    matrix: Any,
) -> EventStream:
    """Add edge features to a stream: those of its columns, of a file, and of a matrix [E, F] from Python.

    Args:
        stream: the stream, without edge features. table: the columns that it was read from, a part per file.
        numbers: the column that numbers the rows of the file, or None.
    """
    source, training = _source(stream), training_events(stream)
    columns: dict[str, Any] = {name: joined_values(table[name]) for name in roles.features}
    if matrix is not None:
        columns["edge_features"] = edge_matrix(matrix, len(stream), "edge_features")
    parts, tables, scaling = list[Part](), list[torch.Tensor](), None
    if columns:
        rows = training if source.order is None else source.order[:training]
        transform = FeatureTransform.fit(columns, rows, source.origin, data.raw_features)
        values = transform.apply(columns, source.origin)
        tables.append(values if source.order is None else values[torch.from_numpy(source.order)])
        parts += transform.parts
    if data.edge_features:
        places = None if numbers is None else row_numbers(joined_values(table[numbers]), numbers, source.origin)
        loaded = load_edge_features(data.edge_features, len(stream), training, places, source.order, data.raw_features)
        parts += loaded.transform.parts
        if loaded.scaling is not None and tables:  # columns are in memory, so the file's rows are joined to them there
            loaded = loaded._replace(table=scaled_in_chunks(loaded.table, loaded.scaling, len(stream)), scaling=None)
        tables.append(loaded.table)
        scaling = loaded.scaling
    if not parts:
        return stream
    return replace(
        stream,
        edge_features=tables[0] if len(tables) == 1 else torch.cat(tables, 1),
        edge_scaling=scaling,
        source=replace(source, features=FeatureTransform(tuple(parts))),
    )


def with_node_features(stream: EventStream, data: DataConfig, values: Any) -> EventStream:
    """Add node features to a stream, from the file that the settings name, or from Python: a table or a matrix."""
    if values is None and not data.node_features:
        return stream
    source, training, ids = _source(stream), training_events(stream), stream.ids
    assert ids is not None
    nodes = np.unique(np.concatenate([stream.src[:training].numpy(), stream.dst[:training].numpy()]))
    if values is None:
        loaded = _from_file(Path(data.node_features), ids, nodes, data)
    elif isinstance(values, np.ndarray | torch.Tensor):
        loaded = node_feature_rows(_array(values, "node_features"), "node_features", ids, nodes, data.raw_features)
    else:
        table = table_of(values, "node_features")
        loaded = node_features(table, Origin((("node_features", table.num_rows),)), ids, nodes, data.raw_features)
    return replace(
        stream,
        node_features=loaded.values,
        source=replace(source, node_features=loaded.transform, notes=(*source.notes, *loaded.notes)),
    )


def training_events(stream: EventStream) -> int:
    """Return the number of training events; all events of a stream that cannot be split."""
    split = split_if_possible(stream)
    return len(stream) if split is None else split.train_end


def _from_file(path: Path, ids: NodeIds, nodes: np.ndarray, data: DataConfig) -> NodeFeatures:
    """Read node features from a table or a .npy file."""
    if path.suffix == ".npy" or _is_npy(path):
        return node_feature_rows(open_array(path), shown_path(path), ids, nodes, data.raw_features)
    tables, parts = [], []
    for sheet in open_sheets(path, data.encoding):
        names = {"node", "id", "nodeid", "kind", *(plain_name(kind) + end for kind in ids.kinds for end in ("", "id"))}
        text = {name for name in sheet.columns if plain_name(name) in names}
        tables.append(sheet.read(sheet.columns, text, ""))
        parts.append((sheet.name, tables[-1].num_rows))
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{shown_path(path)}: the files cannot be combined: {error}; give them the same columns"
        ) from error
    return node_features(table, Origin(tuple(parts)), ids, nodes, data.raw_features)


def _is_npy(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def row_numbers(column: pa.ChunkedArray, name: str, origin: Origin) -> RowNumbers:
    """Read the numbers of the rows of features."""
    values = id_column(column, name, origin)
    if not pa.types.is_integer(values.type):
        origin.fail(0, name, values[0], "not a row number", "number the rows of --edge-features")
    return RowNumbers(values.to_numpy(zero_copy_only=False), name, origin)


def edge_matrix(values: Any, rows: int, name: str) -> np.ndarray:
    """Return a matrix from Python as [E, F]."""
    array = _array(values, name)
    if array.shape[0] != rows:
        raise DataError(
            f"{name}: has shape {list(array.shape)}; give a matrix with a row for each of the {rows:,} events"
        )
    return array


def _array(values: Any, name: str) -> np.ndarray:
    """Convert an array, tensor or frame of real numbers to numpy, in the order of C; one dimension is one column.

    Raises:
        DataError: it is something else, or has no columns.
    """
    if isinstance(values, str | bytes | PurePath):
        raise DataError(
            f"{name}: is {shown(str(values))}; pass the array itself, as of numpy.load, or read files with read_stream"
        )
    if hasattr(values, "toarray"):  # scipy
        raise DataError(f"{name}: is sparse; pass a dense array, as of toarray()")
    try:
        array = dense_array(values if isinstance(values, torch.Tensor) else np.asarray(values), name)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: is no matrix ({str(error)[:100]}); pass an array with a row for each") from error
    if array.dtype.kind not in "buif":
        fix = "convert it to numbers, as in array.astype('float32')"
        raise DataError(f"{name}: is a {type(values).__name__} of type {array.dtype}; {fix}")
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] == 0:
        fix = "give a matrix with a row for each, or leave it out"
        raise DataError(f"{name}: has shape {list(array.shape)}; {fix}")
    return np.ascontiguousarray(array)


def _source(stream: EventStream) -> Any:
    assert stream.source is not None, "streams that are being read have a source"
    return stream.source
