"""Features of nodes: a table with a row per node, or a .npy file with a row per integer id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.data.feature_files import fail_in_array
from mspipe_triton.data.features import FeatureTransform, Part
from mspipe_triton.data.id_columns import id_column
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.names import plain_name
from mspipe_triton.data.number_columns import is_text, refuse_empty
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.scaling import Scaling, check_finite, scaled_in_chunks
from mspipe_triton.errors import DataError

_NODE = ("node", "id", "nodeid")


class NodeFeatures(NamedTuple):
    """Features of N nodes: values [N, V] float32, their transformation, and notes for the user, a sentence each."""

    values: torch.Tensor
    transform: FeatureTransform
    notes: tuple[str, ...]


def node_features(
    table: pa.Table, origin: Origin, ids: NodeIds, training_nodes: np.ndarray, raw: bool = False
) -> NodeFeatures:
    """Read features from a table with a column `node` (or `id`, `node_id`); all other columns are features.

    With two kinds of nodes, a column `kind` names each row's, or the column of ids is named after its kind, as in
    `user` or `user_id`. A node without a row has features 0, which is the mean of scaled numbers; rows of unknown nodes
    are ignored. Notes count both.

    Args:
        ids: the ids of the stream's nodes.
        training_nodes: [M] the nodes of training events, on which the transformation is fitted.
        raw: True leaves numbers as they are.

    Raises:
        DataError: there is no column of ids or of features, an id is empty or appears twice, a kind is unknown, no row
            is of a node, or a feature is invalid (see `FeatureTransform.fit`).
    """
    name = ", ".join(part for part, _ in origin.parts)
    repeated = [each for each in table.column_names if table.column_names.count(each) > 1]
    if repeated:
        raise DataError(f"{name}: column {repeated[0]!r} appears twice in the header; rename one")
    node, named = _column_of_ids(table, ids, name)
    kind = None if named is not None else _column_of_kinds(table, node, ids, name)
    columns = {each: table[each] for each in table.column_names if each not in (node, kind)}
    if not columns:
        raise DataError(f"{name}: there is no column beside {node}; add a column per feature")
    nodes = _nodes(table, node, kind, named, origin, ids)
    rows = np.flatnonzero(nodes >= 0)
    if not rows.size:
        raise DataError(f"{name}: no {node} is a node of the events; use the events' ids")
    transform = FeatureTransform.fit(columns, np.flatnonzero(np.isin(nodes, training_nodes)), origin, raw)
    features = transform.apply(columns, origin)
    values = torch.zeros(len(ids), transform.width)
    values[torch.from_numpy(nodes[rows])] = features[torch.from_numpy(rows)]
    return NodeFeatures(values, transform, tuple(_notes(name, len(ids), nodes)))


def node_feature_rows(
    array: np.ndarray, name: str, ids: NodeIds, training_nodes: np.ndarray, raw: bool = False
) -> NodeFeatures:
    """Select features from an array [M, V] whose row number is the node's id; rows of no node are not read.

    Args:
        array: may be memory-mapped. name: its name in messages.
        ids, training_nodes, raw: as for `node_features`.

    Raises:
        DataError: ids are text or of two kinds, an id has no row, or a value is not finite.
    """
    fix = "use a table with a column `node`"
    if ids.kinds:
        raise DataError(f"{name}: nodes are of two kinds, {' and '.join(ids.kinds)}; {fix} and a column `kind`")
    if not pa.types.is_integer(ids.ids[0].type):
        raise DataError(f"{name}: ids are text, so they number no rows; {fix}")
    rows = ids.ids[0].to_numpy(zero_copy_only=False)
    wrong = (rows < 0) | (rows >= array.shape[0])
    if wrong.any():
        lost = rows[wrong][0]
        raise DataError(
            f"{name}: id {lost} has no row, since the file has rows 0 to {array.shape[0] - 1}; add it, or {fix}"
        )
    rows = rows.astype(np.int64)

    def refuse(node: int, column: int, value: float) -> None:
        fail_in_array(name, f"row {rows[node]} (id {rows[node]})", column, value)

    check_finite(array, rows, refuse)
    scaling = Scaling.identity(array.shape[1]) if raw else Scaling.fit(array, rows[training_nodes])
    return NodeFeatures(scaled_in_chunks(array, scaling, rows), FeatureTransform((Part(name, scaling),)), ())


def _column_of_ids(table: pa.Table, ids: NodeIds, name: str) -> tuple[str, str | None]:
    """Return the column of ids, and the kind that it is named after, or None."""
    plain = [column for column in table.column_names if plain_name(column) in _NODE]
    named = [column for column in table.column_names if _kind_in_name(column, ids) is not None]
    matches = plain or named
    if len(matches) > 1:
        raise DataError(f"{name}: columns {' and '.join(matches)} may both hold the nodes' ids; rename one")
    if not matches:
        others = "".join(f", or `{kind}`" for kind in ids.kinds)
        header = ", ".join(table.column_names[:8])
        raise DataError(f"{name}: no column `node`{others} among {header}; rename the column of ids")
    return matches[0], None if plain else _kind_in_name(matches[0], ids)


def _column_of_kinds(table: pa.Table, node: str, ids: NodeIds, name: str) -> str | None:
    """Return the column of kinds, or None if all nodes are of one kind."""
    if not ids.kinds:
        return None
    for column in table.column_names:
        if plain_name(column) == "kind":
            return str(column)
    first, second = ids.kinds
    fix = f"add a column `kind`, or rename {node} to {first} or {second}"
    raise DataError(f"{name}: there is no column `kind`, and nodes are of two kinds, {first} and {second}; {fix}")


def _kind_in_name(column: str, ids: NodeIds) -> str | None:
    """Return the kind that a column is named after, as in `user` or `user_id`, or None."""
    plain = plain_name(column)
    for name in (plain, plain.removesuffix("id")) if ids.kinds else ():
        with suppress(DataError):
            ids.number_of_kind(name)
            return name
    return None


def _nodes(table: pa.Table, node: str, kind: str | None, named: str | None, origin: Origin, ids: NodeIds) -> np.ndarray:
    """Return the node [M] of each row, −1 for an unknown one."""
    column = table[node]
    refuse_empty(node, _is_empty(column), origin)
    if pa.types.is_floating(column.type) or pa.types.is_nested(column.type):
        column = pa.chunked_array([id_column(column, node, origin)])  # refuses fractions, and ids that were rounded
    if kind is None:
        nodes = ids.find(column, named)
    else:
        kinds, nodes = table[kind], np.full(table.num_rows, -1, dtype=np.int64)
        refuse_empty(kind, _is_empty(kinds), origin)
        for value in pc.unique(kinds).to_pylist():
            rows, name = pc.equal(kinds, value), _kind_in_name(str(value), ids)
            if name is None:
                choices = " or ".join(ids.kinds)
                origin.refuse(rows.to_numpy(), kind, kinds, f"not {choices}", f"use {choices}")
            nodes[rows.to_numpy()] = ids.find(column.filter(rows), name)
    _refuse_repeated(nodes, column, node, origin)
    return nodes


def _is_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mask [M] of the values that are null, or empty text."""
    empty = pc.is_null(column)
    return pc.or_(empty, pc.equal(pc.fill_null(column, ""), "")) if is_text(column.type) else empty


def _refuse_repeated(nodes: np.ndarray, column: pa.ChunkedArray, node: str, origin: Origin) -> None:
    """Refuse the first row of a node that an earlier row is of."""
    _, first, places = np.unique(nodes, return_index=True, return_inverse=True)
    repeated = (nodes >= 0) & (first[places] < np.arange(nodes.size))
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        origin.fail(row, node, column[row], f"as in row {first[places][row] + 1}", "keep one row per node")


def _notes(name: str, count: int, nodes: np.ndarray) -> Iterator[str]:
    """Yield a note about nodes without a row, and one about rows without a node."""
    lost, unknown = count - int((nodes >= 0).sum()), int((nodes < 0).sum())
    if lost:
        yield f"{lost:,} of {count:,} nodes {_have(lost)} no row in {name}; their features are 0"
    if unknown:
        rows = "1 row is" if unknown == 1 else f"{unknown:,} rows are"
        yield f"{rows} ignored in {name}, because no event has the node"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
