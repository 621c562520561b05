"""Ids of nodes: ascending numbers, two kinds apart, and the way back to the user's ids."""

from __future__ import annotations

import decimal
import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.ids import NodeIds, compact_ids, number_nodes
from mspipe_triton.errors import DataError

DRAW = random.Random(0)
KINDS_OF_IDS = {
    "dense": [DRAW.randrange(50) for _ in range(200)],
    "sparse": [DRAW.randrange(2**62) for _ in range(50)] * 2,
    "negative": [DRAW.randrange(-40, 40) for _ in range(100)],
    "unsigned": [2**64 - 1 - DRAW.randrange(9) for _ in range(60)],
    "text": [f"n{DRAW.randrange(30)}" for _ in range(90)],
}


@pytest.mark.parametrize("name", KINDS_OF_IDS)
def test_nodes_are_numbered_in_ascending_order(name: str) -> None:
    values = KINDS_OF_IDS[name]
    kind = pa.uint64() if name == "unsigned" else None
    src, dst = values[::2], values[1::2]
    order = sorted(set(values))
    numbers = {each: number for number, each in enumerate(order)}
    sources, destinations, ids = number_nodes(pa.array(src, kind), pa.array(dst, kind))
    assert sources.tolist() == [numbers[each] for each in src]
    assert destinations.tolist() == [numbers[each] for each in dst]
    assert sources.dtype == destinations.dtype == np.int64
    assert (len(ids), ids.of(range(len(ids)))) == (len(order), order)
    assert ids.find(values).tolist() == [numbers[each] for each in values]
    torch.from_numpy(sources)[0] = 0  # writable


@pytest.mark.parametrize("name", KINDS_OF_IDS)
def test_two_kinds_are_numbered_apart(name: str) -> None:
    values = KINDS_OF_IDS[name]
    kind = pa.uint64() if name == "unsigned" else None
    src, dst = values[:40], values[20:60]
    users, items = sorted(set(src)), sorted(set(dst))
    sources, destinations, ids = number_nodes(pa.array(src, kind), pa.array(dst, kind), ("user", "item"))
    assert sources.tolist() == [users.index(each) for each in src]
    assert destinations.tolist() == [len(users) + items.index(each) for each in dst]
    assert ids.of(sources[:3]) == [("user", each) for each in src[:3]]
    assert ids.of(torch.from_numpy(destinations)) == [("item", each) for each in dst]
    assert ids.find(dst, "item").tolist() == destinations.tolist()


def test_types_that_differ() -> None:
    for src, dst, order in (
        (pa.array([1, 2]), pa.array([2**64 - 1, 1], pa.uint64()), [1, 2, 2**64 - 1]),
        (pa.array([-1]), pa.array([2**64 - 1], pa.uint64()), ["-1", str(2**64 - 1)]),
        (pa.array([7, 10]), pa.array(["7", "a"]), ["10", "7", "a"]),
    ):
        _, _, ids = number_nodes(src, dst)
        assert ids.of(range(len(ids))) == order


def test_find_speaks_the_type_of_the_ids() -> None:
    integers = NodeIds((pa.array([1, 7]),))
    assert integers.find([7, 8, 1]).tolist() == [1, -1, 0]
    assert integers.find(["7", "07", "x", "7.0", " 7 ", "7e+00", "7E0"]).tolist() == [1, -1, -1, 1, 1, 1, -1]
    assert integers.find([7.0, 7.5]).tolist() == [1, -1]
    assert integers.find([7, "1", None, 2**70]).tolist() == [1, 0, -1, -1]
    for one in (np.array([1]), torch.tensor([1]), pa.array([1]), pa.chunked_array([["1"]]), (1,), {1}, [b"1"],
                (each for each in [1]), [decimal.Decimal("1.00")], np.array(["1.0"])):  # fmt: skip
        assert integers.find(one).tolist() == [0]
    assert integers.find([]).tolist() == []
    assert NodeIds((pa.array(["1", "a"]),)).find([1, 2]).tolist() == [0, -1]
    assert NodeIds((pa.array([2**64 - 1], pa.uint64()),)).find([-1, 2**64 - 1]).tolist() == [-1, 0]


def test_find_takes_series() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    ids = NodeIds((pa.array([1, 7]),))
    for column in (pandas.Series([7, 2]), pandas.Index([7, 2]), pandas.Categorical([7, 2]), polars.Series([7, 2])):
        assert ids.find(column).tolist() == [1, -1]


def test_find_reads_text_as_it_is() -> None:
    text = NodeIds((pa.array(["007", "1", "1.0"]),))
    assert text.find(["007", "7", "1.0", 1, 1.0, None, " 1 "]).tolist() == [0, -1, 2, 1, 1, -1, 1]


def test_find_takes_uuids_and_bytes_in_the_form_of_the_ids() -> None:
    values = [uuid.UUID(int=2**100 + number) for number in range(2)]
    for spelling in (str, lambda each: str(each).upper()):
        ids = NodeIds((pa.array(sorted(map(spelling, values))),))
        for sought in (values, [str(each).upper() for each in values], [str(each) for each in values]):
            assert ids.find([*sought, "x"]).tolist() == [0, 1, -1]
    lower = NodeIds((pa.array([str(each) for each in values]),))
    assert lower.find([each.bytes for each in values]).tolist() == [0, 1]
    assert lower.find(pa.array(values)).tolist() == [0, 1]
    assert NodeIds((pa.array(["0x6162", "0xff"]),)).find([b"ab", "ab", b"\xff"]).tolist() == [0, -1, 1]
    assert NodeIds((pa.array(["6162", "ab"]),)).find([b"ab", b"\xff"]).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (7, "ids is 7, not a list of ids; give a list"), ("ann", "ids is 'ann', not a list"), (b"a", "ids is b'a'"),
        (torch.tensor(7), "ids is tensor.7., not a list"), ([("user", "a")], "ids are pairs; give ids of one kind"),
        (np.ones((2, 2)), "ids are of type fixed_size_list"), ([[7]], "ids are of type list"),
        ([object()], "find: row 1: ids is of type object, not a number, text, a date or a UUID; convert it"),
    ],
)  # fmt: skip
def test_ids_that_find_refuses(ids: object, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        NodeIds((pa.array([1, 7]),)).find(ids)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([0, 2], "node 2 is not one of the 2 nodes; give 0 to 1"), ([-1], "node -1 is not one of"),
        ([0.5], r"nodes have type float64 and shape \[1\]; give integers"), (["0"], "nodes have type <U1"),
        ([True], "nodes have type bool"), (1, "nodes is 1; give integers"), ("1", "nodes is '1'"),
        (torch.tensor(1), r"nodes have type int64 and shape \[\]"), (np.ones((1, 1), int), r"nodes .* shape \[1, 1\]"),
        ([[1], [0, 1]], "nodes differ in length"),
    ],
)  # fmt: skip
def test_nodes_that_of_refuses(nodes: Any, message: str) -> None:
    for ids in (NodeIds((pa.array([1, 7]),)), NodeIds((pa.array([1]), pa.array(["a"])), ("user", "item"))):
        with pytest.raises(DataError, match=f"^{message}"):
            ids.of(nodes)


def test_representation() -> None:
    assert repr(NodeIds((pa.array([1, 7]),))) == "NodeIds(2 nodes: 1, 7)"
    kinds = NodeIds((pa.array(range(2000)), pa.array(["a"])), ("user", "item"))
    assert repr(kinds) == "NodeIds(2,000 user: 0, 1, 2, …; 1 item: 'a')"


def test_kinds_must_be_named() -> None:
    ids = NodeIds((pa.array([1]), pa.array([1])), ("movie fan", "movie"))
    assert [ids.number_of_kind(kind) for kind in (" Movie", "movie fan", "src", "item", "dst", "user")] == [
        1,
        0,
        0,
        1,
        1,
        0,
    ]
    for kind in (None, "shop"):
        with pytest.raises(DataError, match=f"kind {kind!r} is not one of movie fan, movie; .* so name one"):
            ids.find([1], kind)
    with pytest.raises(DataError, match="kind is 'user', but all nodes are of one kind; omit kind"):
        NodeIds((pa.array([1]),)).find([1], "user")


@pytest.mark.parametrize(
    "ids",
    [
        NodeIds((pa.array([1, 5]),)), NodeIds((pa.array([2**64 - 1], pa.uint64()),)),
        NodeIds((pa.array(["", "a\nb"]),)),
        NodeIds((pa.array([1, 5]), pa.array(["a"])), ("user", "item")),
        NodeIds((pa.array([1]), pa.array([2**64 - 1], pa.uint64())), ("src", "dst")),
    ],
)  # fmt: skip
def test_saved_ids_come_back(ids: NodeIds, tmp_path: Path) -> None:
    ids.save(tmp_path / "ids.parquet")
    again = NodeIds.load(tmp_path / "ids.parquet")
    assert again.kinds == ids.kinds
    assert all(one.equals(other) for one, other in zip(again.ids, ids.ids, strict=True))
    assert ids.table().num_rows == len(ids)


def test_compact_ids() -> None:
    src, dst, ids = compact_ids(np.array([5, 2**40]), np.array([7, 5]))
    assert (src.tolist(), dst.tolist(), ids.tolist()) == ([0, 2], [1, 0], [5, 7, 2**40])
