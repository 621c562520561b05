"""Ids of nodes: ascending numbers, two kinds apart, and the way back to the user's ids."""

from __future__ import annotations

import random
from pathlib import Path

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
    assert integers.find(["7", "07", "x", "7.0"]).tolist() == [1, -1, -1, -1]
    assert integers.find([7.0, 7.5]).tolist() == [1, -1]
    assert integers.find([7, "1", None, 2**70]).tolist() == [1, 0, -1, -1]
    assert integers.find(np.array([1])).tolist() == [0]
    assert integers.find([]).tolist() == []
    assert NodeIds((pa.array(["1", "a"]),)).find([1, 2]).tolist() == [0, -1]
    assert NodeIds((pa.array([2**64 - 1], pa.uint64()),)).find([-1, 2**64 - 1]).tolist() == [-1, 0]


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
