"""Ids that grow: new nodes are numbered in order of their first occurrence, one by one and many at once alike."""

from __future__ import annotations

import decimal
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.errors import DataError

DRAW = random.Random(0)
UUIDS = [str(uuid.UUID(int=DRAW.getrandbits(128))) for _ in range(4)]
NEW = {
    "integers": ([3, 5, 9], lambda: DRAW.randrange(-50, 400)),
    "unsigned": ([1, 2**64 - 1], lambda: 2**64 - 1 - DRAW.randrange(300)),
    "text": (["ann", "bob"], lambda: f"n{DRAW.randrange(300)}"),
}  # fmt: skip


def live(*ids: list[Any], kinds: tuple[str, ...] = ()) -> LiveIds:
    types = [pa.uint64() if each[-1] == 2**64 - 1 else None for each in ids]
    return LiveIds(NodeIds(tuple(map(pa.array, ids, types)), kinds))


def plain_ends(old: list[Any], src: list[Any], dst: list[Any]) -> tuple[list[int], list[int], list[Any]]:
    """Number ids event by event in a dictionary."""
    numbers = {each: number for number, each in enumerate(old)}
    pairs = [[numbers.setdefault(end, len(numbers)) for end in pair] for pair in zip(src, dst, strict=True)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs], list(numbers)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("sizes", [(1, 2, 1), (300, 500), (1, 400, 1, 300), (256, 257)])
def test_new_nodes_are_numbered_event_by_event(name: str, sizes: tuple[int, ...]) -> None:
    old, draw = NEW[name]
    ids, seen = live(old), list(old)
    for size in sizes:
        src, dst = ([draw() for _ in range(size)] for _ in range(2))
        sources, destinations, seen = plain_ends(seen, src, dst)
        before, count = ids.ends(src, dst), len(ids)
        results = ids.ends(src, dst, add=True)
        assert [each.tolist() for each in results] == [sources, destinations]
        assert [each if each < count else -1 for each in sources] == before[0].tolist()
        assert (len(ids), ids.of(range(len(ids)))) == (len(seen), seen)
        assert ids.column(np.arange(len(ids))).to_pylist() == seen
        assert ids.numbers(seen).tolist() == list(range(len(seen)))


def test_kinds_share_one_counter_and_no_ids() -> None:
    users, items, count = {"ann": 0, "bob": 1}, {1: 2, 7: 3}, 4
    ids = live(["ann", "bob"], [1, 7], kinds=("user", "item"))
    for size in (3, 300, 2, 400):
        src, dst = ([f"{DRAW.randrange(200)}" for _ in range(size)], [DRAW.randrange(200) for _ in range(size)])
        expected = []
        for pair in zip(src, dst, strict=True):
            for end, numbers in zip(pair, (users, items), strict=True):
                count += end not in numbers
                expected.append(numbers.setdefault(end, count - 1))
        results = ids.ends(src, dst, add=True)
        assert np.stack(results, 1).ravel().tolist() == expected
    by_number = {number: ("user", each) for each, number in users.items()}
    by_number |= {number: ("item", each) for each, number in items.items()}
    assert ids.of(range(len(ids))) == [by_number[number] for number in range(count)]
    assert ids.column(np.array([3, 0, -1])).to_pylist() == ["7", "ann", None]
    assert ids.column(np.array([3, -1])).to_pylist() == [7, None]
    assert ids.column(np.array([], dtype=np.int64)).to_pylist() == []
    assert ids.numbers("7", 1).tolist() == [3]
    assert ids.numbers(["ann", "nobody"], 0).tolist() == [0, -1]


def test_an_id_is_read_as_in_a_table() -> None:
    integers = live([1, 7])
    forms: list[Any] = ["1.0", " 1 ", 1.0, np.int32(1), np.float64(1), torch.tensor(1), np.array(1), pa.scalar(1), b"1",
                        decimal.Decimal("1.00"), "1e+00", [1], (1,), {1}, np.array([1.0]), torch.tensor([1]),
                        pa.array(["1"]), pa.chunked_array([[1]]), (each for each in [1])]  # fmt: skip
    for form in forms:
        assert integers.numbers(form).tolist() == [0], form
    others: list[Any] = ["01", "bob", 1.5, None, "", float("nan"), 2**70, True, "1_0"]
    assert integers.numbers(others).tolist() == [-1] * len(others)
    assert [integers.numbers(other).tolist() for other in others] == [[-1]] * len(others)
    text = live(["1", "É", "a b"])
    forms = [1, 1.0, " 1\t", "É", " a b ", np.str_("1"), "\u00a0É"]
    assert text.numbers(forms).tolist() == [0, 0, 0, 1, 2, 0, 1]
    assert text.numbers(pa.array(["1", " É", None])).tolist() == [0, 1, -1]
    assert text.numbers([each for each in ("1", " É", "A B") for _ in range(100)]).tolist()[::100] == [0, 1, -1]
    assert LiveIds(None, 5).numbers([4, "3", 5]).tolist() == [4, 3, -1]


def test_the_case_of_uuids_means_nothing() -> None:
    old, new = UUIDS[:2], UUIDS[2:]
    for size in (1, 300):
        ids = live([*old, "x"] if size > 1 else [old[0].upper(), "x"])
        count = len(ids)
        assert ids.numbers([old[0].upper()] * size).tolist() == [0] * size
        assert ids.numbers([old[0]] * size).tolist() == [0] * size
        assert set(ids.numbers([new[0].upper(), new[0]] * size, add=True).tolist()) == {count}
        assert ids.numbers(uuid.UUID(new[0])).tolist() == ids.numbers(new[0].upper()).tolist() == [count]
        assert ids.of([count]) == [new[0]]


@pytest.mark.parametrize("size", [1, 300])
@pytest.mark.parametrize(
    ("old", "value", "message"),
    [
        ([1], "bob", "id is 'bob', not an integer of int64, as the run's ids are; correct it, or omit the event"),
        ([1], 1.5, "id is 1.5, not an integer of int64"),
        ([1], 2**70, "id is '118.*4', not an integer of int64"),
        ([2**64 - 1], -1, "id is -1, not an integer of uint64"),
        ([1], None, "id is empty; give an id"),
        ([1], " ", "id is empty"),
        (["a"], "", "id is empty"),
        (["a"], None, "id is empty"),
    ],
)
def test_an_id_that_does_not_fit_adds_nothing(old: list[Any], value: Any, message: str, size: int) -> None:
    ids = live(old)
    filling = [f"x{n}" for n in range(size)] if isinstance(old[0], str) else list(range(2, 2 + size))
    with pytest.raises(DataError, match=f"^{message}"):
        ids.numbers([*filling, value], add=True)
    assert len(ids) == 1
    with pytest.raises(DataError, match=f"^row {size}: user{message.removeprefix('id')}"):
        ids.ends([*filling, value], [*filling, old[0]], True, lambda event: f"row {event}", ("user", "item"))
    assert (len(ids), ids.numbers(filling[0]).tolist()) == (1, [-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ids: ids.numbers([1]), "kind is None, but nodes are of two kinds; give 0 for user, or 1 for item"),
        (lambda ids: ids.numbers([1], 2), "kind is 2"),
        (lambda ids: ids.numbers([("user", "a")], 0), "ids are pairs"),
        (lambda ids: ids.numbers({"a": 1}, 0), "find: row 1: ids is of type dict"),
        (lambda ids: ids.ends(["a"], [1, 2]), "src has 1 ids and dst has 2; give one each per event"),
        (lambda ids: ids.of([9]), "node 9 is not one of the 2 nodes; give 0 to 1"),
        (lambda ids: ids.of([-1]), "node -1 is not one"),
        (lambda ids: ids.column(np.array([2])), "node 2 is not one"),
    ],
)
def test_calls_that_are_refused(call: Callable[[LiveIds], Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        call(live(["a"], [1], kinds=("user", "item")))


def test_a_file_keeps_the_numbers(tmp_path: Path) -> None:
    ids = live(["ann"], [2**64 - 1], kinds=("user", "item"))
    ids.ends(["zoe", "bob"], [3, 2], add=True)
    ids.save(tmp_path / "nodes.parquet")
    again = LiveIds.load(tmp_path / "nodes.parquet")
    expected = [("user", "ann"), ("item", 2**64 - 1), ("user", "zoe"), ("item", 3), ("user", "bob"), ("item", 2)]
    assert again.kinds == ("user", "item")
    assert again.of(range(6)) == ids.of(range(6)) == expected
    assert again.numbers("amy", 0, add=True).tolist() == [6]
    table = ids.table()
    assert table["kind"].to_pylist() == [kind for kind, _ in expected]
    assert table["id"].to_pylist() == [str(each) for _, each in expected]
    one = LiveIds(None, 3)
    one.numbers([9, 5], add=True)
    one.save(tmp_path / "one.parquet")
    assert LiveIds.load(tmp_path / "one.parquet").of(range(5)) == [0, 1, 2, 9, 5]
    stream = NodeIds((pa.array(["a", "b"]), pa.array([1, 2])), ("user", "item"))
    stream.save(tmp_path / "stream.parquet")
    assert LiveIds.load(tmp_path / "stream.parquet").of(range(4)) == stream.of(range(4))


def test_close_spellings() -> None:
    ids = live(["Anna", "bob smith", "007", "x7602"], [1, 30], kinds=("user", "item"))
    for id, kind, expected in (
        ("anna", 0, "Anna"), ("Bob  Smith ", 0, "bob smith"), (7, 0, "007"), ("7.0", 0, "007"), ("x7603", 0, "x7602"),
        ("bob smth", 0, "bob smith"), ("anna", 1, None), ("Anna", 1, ("user", "Anna")), (30, 0, ("item", 30)),
        ("0030", 1, 30), ("zzz", 0, None), (31, 1, None),
    ):  # fmt: skip
        assert ids.spelling(id, kind) == expected, id
    assert ids.numbers(["carla"], 0, add=True).tolist() == [6]
    assert ids.spelling("karla", 0) == "carla"
    assert live(["ann"]).spelling("ANN") == "ann"


def test_floats_beside_text() -> None:
    ids = live(["1", "b"])
    assert ids.numbers(np.array([1.0, 2.5])).tolist() == [0, -1]
    with pytest.raises(DataError, match=r"^id is 2\.5, not text, as the run's ids are"):
        ids.numbers(np.array([1.0, 2.5]), add=True)


@pytest.mark.parametrize("name", ["jodie_alphanumeric.csv", "names.csv"])
def test_ids_of_a_reported_table(real_cases: Path, name: str) -> None:
    from mspipe_triton.data.readers import read_stream

    stream = read_stream(real_cases / "16-text-ids" / name)
    assert stream.ids is not None
    ids = LiveIds(stream.ids)
    ends = [
        [each[1] if stream.ids.kinds else each for each in stream.ids.of(side)] for side in (stream.src, stream.dst)
    ]
    for events in (slice(0, 50), slice(None)):
        sources, destinations = ids.ends(ends[0][events], ends[1][events], add=True)
        assert sources.tolist() == stream.src[events].tolist()
        assert destinations.tolist() == stream.dst[events].tolist()
    assert len(ids) == stream.num_nodes
