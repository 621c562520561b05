"""Features of nodes: tables by id and kind, .npy files by row, what is missing or unknown, messages."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.feature_files import open_array
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.node_features import NodeFeatures, node_feature_rows, node_features
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.tables import column_to_arrow
from mspipe_triton.errors import DataError

NUMBERS = NodeIds((pa.array([3, 5, 8]),))
NAMES = NodeIds((pa.array(["ann", "bob", "eve"]),))
KINDS = NodeIds((pa.array([3, 5]), pa.array(["pen", "rug", "saw"])), ("user", "item"))


def read(ids: NodeIds, training: list[int] | None = None, raw: bool = False, **columns: Any) -> NodeFeatures:
    """Read a table; the names of its columns have "__" for a blank."""
    table = pa.table({name.replace("__", " "): each for name, each in columns.items()})
    nodes = np.arange(len(ids)) if training is None else np.array(training)
    return node_features(table, Origin((("users.csv", table.num_rows),)), ids, nodes, raw)


def fault(ids: NodeIds, **columns: Any) -> str:
    with pytest.raises(DataError) as error:
        read(ids, **columns)
    return str(error.value)


@pytest.mark.parametrize("name", ["node", "id", "node_id", "Node", "__ID__"])
def test_rows_belong_to_ids(name: str) -> None:
    result = read(NUMBERS, raw=True, **{name: [8, 3, 5], "age": [80, 30, 50], "k": [[1, 2], [3, 4], [5, 6]]})
    assert result.values.tolist() == [[30, 3, 4], [50, 5, 6], [80, 1, 2]]
    assert result.values.dtype == torch.float32
    assert result.notes == ()
    assert result.transform.describe() == ["age: number, not scaled", "k: 2 numbers, not scaled"]


@pytest.mark.parametrize(
    ("ids", "column"),
    [
        (NUMBERS, ["8", "3", "5"]),
        (NUMBERS, [8.0, 3.0, 5.0]),
        (NUMBERS, pa.array([8, 3, 5], pa.uint8())),
        (NAMES, ["eve", "ann", "bob"]),
        (NAMES, pa.array(["eve", "ann", "bob"], pa.large_string())),
        (NAMES, pa.array(["eve", "ann", "bob"]).dictionary_encode()),
    ],
)
def test_ids_of_other_types_match(ids: NodeIds, column: Any) -> None:
    assert read(ids, raw=True, node=column, x=[80, 30, 50]).values[:, 0].tolist() == [30, 50, 80]


def test_uuids_match_in_every_form() -> None:
    values = [uuid.UUID(int=2**100 + number) for number in range(3)]
    ids, order = NodeIds((pa.array([str(each) for each in values]),)), (2, 0, 1)
    for form in (lambda each: each, str, lambda each: str(each).upper(), lambda each: each.bytes):
        column = column_to_arrow([form(values[number]) for number in order], "nodes", "node")
        assert read(ids, raw=True, node=column, x=[80, 30, 50]).values[:, 0].tolist() == [30, 50, 80]


def test_ids_that_were_rounded_are_refused() -> None:
    ids, kind = NodeIds((pa.array([2**24, 2**24 + 1]),)), pa.float32()
    assert fault(ids, node=pa.array([2**24, 2.0**24 + 2], kind), x=[1, 2]).startswith(
        "users.csv: row 2: node is 16777218.0, which float32 may have rounded"
    )
    assert "row 1: node is 2.5, not an integer" in fault(NUMBERS, node=[2.5], x=[1])


def test_features_are_fitted_on_training_nodes_and_missing_rows_are_0() -> None:
    result = read(NUMBERS, [0, 1], node=[9, 5, 3, 7], x=[1000, 30, 10, 1000], c=["z", "a", "b", "z"])
    assert result.values.tolist() == [[-1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert result.notes == (
        "1 of 3 nodes has no row in users.csv; their features are 0",
        "2 rows are ignored in users.csv, because no event has the node",
    )
    other = read(NUMBERS, [2], node=[8, 7], x=[30, 10])
    assert other.notes == (
        "2 of 3 nodes have no row in users.csv; their features are 0",
        "1 row is ignored in users.csv, because no event has the node",
    )


@pytest.mark.parametrize("kinds", [["item", "user", "user", "item"], ["Item", " user", "src", "dst"]])
def test_two_kinds(kinds: list[str]) -> None:
    result = read(KINDS, raw=True, kind=kinds, node=["saw", "3", "5", "pen"], x=[1, 2, 3, 4])
    assert result.values[:, 0].tolist() == [2, 3, 4, 0, 1]
    assert result.notes == ("1 of 5 nodes has no row in users.csv; their features are 0",)


@pytest.mark.parametrize("name", ["user", "user_id", "User", "src"])
def test_a_column_named_after_a_kind_holds_its_ids(name: str) -> None:
    assert read(KINDS, raw=True, **{name: [5, 3], "x": [1, 2]}).values[:, 0].tolist() == [2, 1, 0, 0, 0]
    assert read(KINDS, raw=True, item=["rug"], x=[7]).values[:, 0].tolist() == [0, 0, 0, 7, 0]


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        (NUMBERS, {"node": [3, 5, 3], "x": [1, 2, 3]}, "row 3: node is 3, as in row 1; keep one row per node"),
        (NUMBERS, {"node": [3, None], "x": [1, 2]}, "row 2: node is empty; fill it in, or remove the row"),
        (NAMES, {"node": ["ann", ""], "x": [1, 2]}, "row 2: node is empty; fill it in, or remove the row"),
        (NUMBERS, {"node": [3, 5], "x": [1.0, np.nan]}, "row 2: x is nan, not finite; correct it, or remove the row"),
        (NUMBERS, {"node": [3, 5], "x": [1, None]}, "row 2: x is empty; fill it in, or remove the row"),
        (NUMBERS, {"node": [3], "x": [b"a"]}, " x is of type binary; numbers, booleans, "),
        (NUMBERS, {"name": [3], "x": [1]}, " no column `node` among name, x; rename the column of ids"),
        (KINDS, {"name": [3], "x": [1]}, " no column `node`, or `user`, or `item` among name, x; rename"),
        (NUMBERS, {"node": [3], "id": [1]}, " columns node and id may both hold the nodes' ids; rename one"),
        (NUMBERS, {"node": [3]}, " there is no column beside node; add a column per feature"),
        (NUMBERS, {"node": [4], "x": [1]}, " no node is a node of the events; use the events' ids"),
        (
            KINDS,
            {"kind": ["user", "shop"], "node": [3, 5], "x": [1, 2]},
            "row 2: kind is 'shop', not user or item; use",
        ),
        (
            KINDS,
            {"kind": ["user", None], "node": [3, 5], "x": [1, 2]},
            "row 2: kind is empty; fill it in, or remove the row",
        ),
        (
            KINDS,
            {"node": [3, 5], "x": [1, 2]},
            " there is no column `kind`, and nodes are of two kinds, user and item;",
        ),
    ],
)
def test_wrong_tables(ids: NodeIds, columns: dict[str, Any], message: str) -> None:
    assert fault(ids, **columns).startswith(f"users.csv: {message.strip()}")


def test_a_repeated_header() -> None:
    table = pa.Table.from_arrays([pa.array([3]), pa.array([1]), pa.array([1])], ["node", "x", "x"])
    with pytest.raises(DataError, match=r"users\.csv: column 'x' appears twice in the header"):
        node_features(table, Origin((("users.csv", 1),)), NUMBERS, np.array([0]))


def npy(
    folder: Path, values: Any, ids: NodeIds = NUMBERS, training: Any = (0, 1, 2), raw: bool = False
) -> NodeFeatures:
    np.save(folder / "n.npy", values)
    return node_feature_rows(open_array(folder / "n.npy"), "n.npy", ids, np.array(training), raw)


def test_rows_of_a_npy_file_are_ids(tmp_path: Path) -> None:
    values = np.arange(18.0).reshape(9, 2)
    values[4] = np.nan  # a row of no node
    assert npy(tmp_path, values, raw=True).values.tolist() == [[6, 7], [10, 11], [16, 17]]
    scaled = npy(tmp_path, values, training=(0, 1))
    assert scaled.values.tolist() == [[-1, -1], [1, 1], [4, 4]]
    assert scaled.transform.describe() == ["n.npy: 2 numbers"]


def test_a_value_that_is_not_finite_is_reported_by_row_and_id(tmp_path: Path) -> None:
    """The row is that of the file, which is the id, and not the node's compacted number."""
    values = np.ones((160, 4))
    values[128, 2] = np.nan
    ids = NodeIds((pa.array([3, 8, 9, 34, 83, 89, 93, 128, 151, 159]),))
    with pytest.raises(DataError) as error:
        npy(tmp_path, values, ids)
    message = (
        "n.npy: row 128 (id 128), column 2 is nan, not finite; correct it in the file (rows and columns count from 0)"
    )
    assert str(error.value) == message
    npy(tmp_path, values, NodeIds((pa.array([3, 8, 9]),)))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (NAMES, "n.npy: ids are text, so they number no rows; use a table with a column `node`"),
        (KINDS, "n.npy: nodes are of two kinds, user and item; use a table with a column `node` and a column `kind`"),
        (
            NodeIds((pa.array([3, 9]),)),
            "n.npy: id 9 has no row, since the file has rows 0 to 8; add it, or use a table",
        ),
        (
            NodeIds((pa.array([-1, 3]),)),
            "n.npy: id -1 has no row, since the file has rows 0 to 8; add it, or use a table",
        ),
        (NodeIds((pa.array([3, 2**64 - 1], pa.uint64()),)), f"n.npy: id {2**64 - 1} has no row"),
    ],
)
def test_ids_that_number_no_rows(ids: NodeIds, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        npy(tmp_path, np.ones((9, 2)), ids)
    assert str(error.value).startswith(message)
