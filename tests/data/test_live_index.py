"""The live pair index against one that is built at once, bit for bit; and the index that it leaves alone."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.data import pair_index
from mspipe_triton.data.live_index import LiveIndex
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.errors import DataError
from tests.data.live_stream import live_stream, parts


def check(live: PairIndex, whole: PairIndex, seed: int) -> None:
    """Compare columns, and features of random pairs, padding and nodes without events among them."""
    for name in ("times", "earlier", "partners", "popularity"):
        ours, theirs = getattr(live, name), getattr(whole, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name
    random = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(-1, 33, (12,), generator=random), torch.randint(-1, 33, (12, 5), generator=random)
    moments = torch.cat([whole.times, whole.times[-1:] + 1])
    times = moments[torch.randint(0, len(moments), (12,), generator=random)]
    queries = src, dst, times, whole.before(times)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(live.features(*queries, dtype), whole.features(*queries, dtype))


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
@pytest.mark.parametrize("first", [0, 1, 150])
def test_features_equal_those_of_an_index_built_at_once(
    kind: torch.dtype, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_index, "_APART", 20)
    newer = set()
    for seed in range(3):
        stream = live_stream(seed, 350, kind)
        columns = stream.src, stream.dst, stream.t
        live = LiveIndex(PairIndex.build(*(each[:first] for each in columns)))
        for number, (start, part) in enumerate(parts(stream, first, seed)):
            live.append(*part)
            stop = start + part[0].numel()
            assert len(live.index) == stop
            newer.add(live.index.newer_events > 0)
            if number % 4 == 0 and stop:
                check(live.index, PairIndex.build(*(each[:stop] for each in columns)), number)
        check(live.index, PairIndex.build(*columns), seed)
    assert newer == {False, True}, "events were sorted apart, and all together"


def test_tables_are_those_of_an_extended_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_index, "_APART", 20)
    stream = live_stream(5, 300, torch.int64)
    index = PairIndex.build(stream.src[:100], stream.dst[:100], stream.t[:100])
    live = LiveIndex(index)
    for _, part in parts(stream, 100, 5):
        live.append(*part)
        index = index.extended(*part)
        assert index.tables.keys() == live.index.tables.keys()
        assert all(torch.equal(table, live.index.tables[name]) for name, table in index.tables.items())
        assert (index.newer_events, index.newer_pairs) == (live.index.newer_events, live.index.newer_pairs)


def test_the_index_of_the_first_events_does_not_change() -> None:
    stream = live_stream(1, 100, torch.int64)
    index = PairIndex.build(stream.src[:40], stream.dst[:40], stream.t[:40])
    index = index.extended(stream.src[40:60], stream.dst[40:60], stream.t[40:60])
    copies = {name: table.clone() for name, table in index.tables.items()}
    live = LiveIndex(index)
    live.append(stream.src[60:], stream.dst[60:], stream.t[60:])
    assert all(torch.equal(table, copies[name]) for name, table in index.tables.items())
    assert len(live.index) == 100


def test_refused_events_change_nothing() -> None:
    stream = live_stream(2, 50, torch.int64)
    live = LiveIndex(PairIndex.build(stream.src, stream.dst, stream.t))
    copies = {name: table.clone() for name, table in live.index.tables.items()}
    src, dst = torch.tensor([[0, 1], [1, 2]])
    late = stream.t[-1] - torch.tensor([0, 1])
    for columns, message in (
        ((src, dst, late), "the event at .* is earlier than the one before it"),
        ((src, dst - 2, late + 1), "dst of event 50 is -1; give numbers from 0"),
        ((src, dst, (late + 1).double()), "t is torch.float64, times are torch.int64"),
        ((src, dst[:1], late + 1), "src has 2 entries, dst 1, t 2"),
    ):
        with pytest.raises(DataError, match=f"^pair index: {message}"):
            live.append(*columns)
    assert all(torch.equal(table, copies[name]) for name, table in live.index.tables.items())
