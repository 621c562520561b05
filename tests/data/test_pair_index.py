"""The pair index: its columns by hand, extension bit for bit, devices, and events that it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from mspipe_triton.data import pair_index
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.errors import DataError
from tests.kernels.link.pair_case import Case, cases, random_case

TABLES = ("source_keys", "destination_keys", "pairs", "pair_keys", "times", "earlier", "partners", "popularity")
EVENT = 2**32


def index_of(*events: tuple[int, int, int]) -> PairIndex:
    src, dst, t = (torch.tensor(column) for column in zip(*events, strict=True))
    return PairIndex.build(src, dst, t)


def check_same(one: PairIndex, other: PairIndex) -> None:
    for name in TABLES:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    assert (one.newer_events, one.newer_pairs) == (other.newer_events, other.newer_pairs)


def test_tables_by_hand() -> None:
    index = index_of((1, 0, 5), (0, 1, 5), (1, 0, 6), (1, 1, 9))
    assert index.source_keys.tolist() == [1, EVENT, EVENT + 2, EVENT + 3]
    assert index.destination_keys.tolist() == [0, 2, EVENT + 1, EVENT + 3]
    assert index.pairs.tolist() == [1, EVENT, EVENT + 1]
    assert index.pair_keys.tolist() == [1, EVENT, EVENT + 2, 2 * EVENT + 3]
    assert index.times.tolist() == [5, 5, 6, 9]
    assert index.earlier.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [2, 1, 0]]
    assert index.partners.tolist() == [[1, 1], [1, 1], [1, 1], [2, 2]]
    twice = [1 + math.exp(-2 / span) for span in (50, 500, 5000)]
    expected = torch.tensor([[1.0] * 3, [1.0] * 3, twice, twice], dtype=torch.float64)
    torch.testing.assert_close(index.popularity, expected, rtol=1e-15, atol=0)
    assert len(index) == 4
    assert index.nbytes == 8 * (4 + 4 + 3 + 4 + 4) + 4 * (3 * 4 + 2 * 4 + 3 * 8)


def test_before_counts_strictly_earlier_events() -> None:
    index = index_of((1, 0, 5), (0, 1, 5), (1, 0, 6))
    assert index.before(torch.tensor([4, 5, 6, 7])).tolist() == [0, 0, 2, 3]


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_an_extended_index_has_the_features_of_one_of_all_events(case: Case) -> None:
    whole, extended, queries = PairIndex.build(*case.columns()), case.index(), case.pairs()
    assert len(extended) == len(whole)
    for name in ("times", "earlier", "partners", "popularity"):
        assert torch.equal(getattr(extended, name), getattr(whole, name)), name
    for dtype in (torch.float32, torch.float64):
        features = extended.features(*queries, dtype)
        assert features.dtype == dtype
        assert torch.equal(features, whole.features(*queries, dtype))


def test_many_newer_events_are_sorted_together_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_index, "_APART", 10)
    case = random_case(400, 60, 3)
    whole = PairIndex.build(*case.columns())
    index, newer = PairIndex.build(*case.columns(case.events[:200])), []
    for start in range(200, 400, 8):
        index = index.extended(*case.columns(case.events[start : start + 8]))
        newer.append(index.newer_events)
        assert (index.newer_pairs > 0) == (index.newer_events > 0)
    assert newer[:4] == [8, 16, 24, 0], "27 are more than an eighth of 216, 24 are not; then 32 of 232"
    assert max(newer) <= 400 // 8
    assert torch.equal(index.features(*case.pairs()), whole.features(*case.pairs()))
    last = index.extended(*case.columns(case.events[-1:] * 60))
    check_same(last, PairIndex.build(*case.columns(case.events + case.events[-1:] * 60)))


def test_numbers_as_python_objects_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(300, 1, 1)
    whole = PairIndex.build(*case.columns())
    monkeypatch.setattr(pair_index, "_CHUNK", 7)
    check_same(PairIndex.build(*case.columns()), whole)


def test_extending_by_nothing_and_from_nothing() -> None:
    case = random_case(50, 5, 2, newer=20)
    index, none = case.index(), case.columns([])
    check_same(index.extended(*none), index)
    check_same(PairIndex.build(*none).extended(*case.columns()), PairIndex.build(*case.columns()))


def test_extending_changes_no_table_of_the_index() -> None:
    case = random_case(50, 5, 2)
    index = PairIndex.build(*case.columns(case.events[:30]))
    copies = {name: getattr(index, name).clone() for name in TABLES}
    index.extended(*case.columns(case.events[30:]))
    assert all(torch.equal(getattr(index, name), copy) for name, copy in copies.items())


def test_on_a_device() -> None:
    index = random_case(50, 5, 2, newer=20).index()
    check_same(index.on(torch.device("cpu")), index)
    moved = index.on(torch.device("meta"))
    assert all(getattr(moved, name).device.type == "meta" for name in TABLES)
    assert (moved.newer_events, moved.nbytes) == (20, index.nbytes)


@pytest.mark.parametrize(
    ("src", "dst", "t", "message"),
    [
        ([0], [1], [8], "the event at 8 is earlier than the one before it, at 9; give events in order of time"),
        ([0, 0], [1, 1], [11, 10], "the event at 10 is earlier than the one before it, at 11"),
        ([0], [1, 2], [9], "src has 1 entries, dst 2, t 1; give one per event"),
        ([0], [1], [9.5], r"t is torch.float64, times are torch.int64; use t.to\(torch.int64\)"),
        ([0, -1], [1, 1], [9, 9], "src of event 3 is -1; give numbers from 0 to 2147483647"),
        ([0], [2**31], [9], "dst of event 2 is 2147483648; give numbers from 0 to 2147483647"),
    ],
)
def test_events_that_cannot_follow_are_refused(src: list[int], dst: list[int], t: list[float], message: str) -> None:
    index = index_of((1, 0, 5), (0, 1, 9))
    kind = torch.float64 if isinstance(t[0], float) else torch.int64
    with pytest.raises(DataError, match=f"^pair index: {message}"):
        index.extended(torch.tensor(src), torch.tensor(dst), torch.tensor(t, dtype=kind))
