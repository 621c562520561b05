"""TGB's protocol: split, generated and published candidates, and ranks, against plain oracles."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data import tgb
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.split import tgb_split
from mspipe_triton.data.tgb import NUMBERS, tgb_candidates
from mspipe_triton.errors import DataError
from mspipe_triton.iteration.step import reciprocal_ranks
from tests.data import plain_tgb as plain
from tests.data.tgb_stand_in import SPLIT, TABLE, install

Event = plain.Event
# Few sources, times and destinations, so that most events share theirs.
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(2, 9), st.integers(0, 2)), min_size=3, max_size=40)


@pytest.fixture(autouse=True)
def _no_tgb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide py-tgb, which may be installed, from tests without a stand-in."""
    monkeypatch.setitem(sys.modules, "tgb", None)


def stream_of(events: list[Event], name: str = "stream") -> EventStream:
    src, dst, t = (torch.tensor(column) for column in zip(*events, strict=True))
    return EventStream(src, dst, t, name=name)


def in_order(gaps: list[Event]) -> list[Event]:
    """Turn the gaps of time into times."""
    times = np.cumsum([gap for *_, gap in gaps]).tolist()
    return [(src, dst, t) for (src, dst, _), t in zip(gaps, times, strict=True)]


def rows_of(nodes: torch.Tensor) -> list[list[int]]:
    """Candidates without padding, which comes last."""
    rows = nodes.tolist()
    assert all(-1 not in row[: sum(node >= 0 for node in row)] for row in rows)
    return [[node for node in row if node >= 0] for row in rows]


# The split


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.sampled_from([1, 20, 1000]), st.booleans())
def test_the_split_is_tgbs(gaps: list[int], scale: int, floating: bool) -> None:
    timestamps = np.cumsum(gaps) * scale
    val_time, test_time = list(np.quantile(timestamps, [1 - 0.15 - 0.15, 1 - 0.15]))
    train_mask = timestamps <= val_time
    val_mask = np.logical_and(timestamps <= test_time, timestamps > val_time)
    test_mask = timestamps > test_time
    borders = plain.quantiles(timestamps.tolist())
    if not set(borders) & set(timestamps.tolist()):  # numpy may round such a quantile below the event at it
        for mask, times in zip((train_mask, val_mask, test_mask), plain.parts(timestamps.tolist()), strict=True):
            assert timestamps[mask].tolist() == times
    t = torch.tensor(timestamps, dtype=torch.float64 if floating else torch.int64)
    if not (val_mask.any() and test_mask.any()):
        with pytest.raises(DataError, match=r"^TGB's split: borders are \("):
            tgb_split(t)
        return
    assert tgb_split(t) == (train_mask.sum(), train_mask.sum() + val_mask.sum())


def test_an_event_at_a_quantile_is_in_the_earlier_part() -> None:
    assert tgb_split(torch.arange(101)) == Split(71, 86)
    assert tgb_split(torch.arange(100)) == Split(70, 85)
    assert tgb_split(torch.tensor([1, 2, 2, 2, 5, 6, 7, 7, 8, 9, 9])) == Split(8, 9)


def test_a_split_with_an_empty_part_is_refused() -> None:
    fault = r"^TGB's split: borders are \(8, 8\), not two ascending numbers .* below 8; use borders=\(3, 4\)$"
    with pytest.raises(DataError, match=fault):
        tgb_split(torch.tensor([1, 2, 3, 4, 9, 9, 9, 9]))
    with pytest.raises(DataError, match=r"^TGB's split: borders are \(\)"):
        tgb_split(torch.arange(0))


# Generated candidates


@settings(deadline=None, max_examples=80)
@given(
    gaps=EVENTS, name=st.sampled_from(["stream", "tgbl-coin", "tgbl_flight_edgelist_v2", "tgbl-wiki"]),
    seed=st.integers(0, 2**32 - 1), data=st.data(),
)  # fmt: skip
def test_generated_candidates_equal_the_oracle(gaps: list[Event], name: str, seed: int, data: st.DataObject) -> None:
    events = in_order(gaps)
    borders = [number for number in range(1, len(events)) if events[number - 1][2] < events[number][2]]
    if len(borders) < 2:
        return
    first = data.draw(st.integers(0, len(borders) - 2))
    split = Split(borders[first], borders[data.draw(st.integers(first + 1, len(borders) - 1))])
    number = {"stream": 100, "tgbl-wiki": 12_000}.get(name, 20)
    for which, start, stop in (("val", *split), ("test", split.val_end, len(events))):
        nodes = tgb_candidates(stream_of(events, name), split, which, seed).nodes
        expected = plain.candidates(events, split.train_end, start, stop, number, seed)
        assert rows_of(nodes) == expected
        assert nodes.shape == (stop - start, max(map(len, expected)))


@pytest.mark.parametrize(("name", "number", "nodes"), [("tgbl-coin", 20, 300), ("tgbl-uci", 1000, 1500)])
def test_large_sets_equal_the_oracle(name: str, number: int, nodes: int) -> None:
    """Half of the candidates are from training where a source has met enough destinations, over several blocks."""
    draws = np.random.default_rng(5)
    src = np.sort(draws.geometric(0.3, 5000))[draws.permutation(5000)]
    columns = (src, draws.integers(7, 7 + nodes, 5000), np.arange(5000) // 3)
    events = list(zip(*(column.tolist() for column in columns), strict=True))
    split = Split(4500, 4530)
    rows = rows_of(tgb_candidates(stream_of(events, name), split, "val", 3).nodes)
    assert rows == plain.candidates(events, 4500, 4500, 4530, number, 3)
    many = rows_of(tgb_candidates(stream_of(events, name), Split(3000, 3300), "test", 3).nodes)
    assert {len(row) for row in many} <= set(range(number + 1))
    assert all(len(set(row)) == len(row) for row in many)


def test_every_set_of_candidates_is_equally_likely() -> None:
    """Pearson's statistic over the 126 sets of 4 in 9, from training, and as many of the rest, has 125 degrees."""
    numbers = torch.arange(30_000)
    dst = torch.where(numbers < 18, numbers % 9 + 1, 0)
    dst[18] = 18
    stream = EventStream(torch.zeros_like(numbers), dst, numbers, name="tgbl-coin")
    nodes = tgb._Generator(stream, 18, (20, len(numbers)), 8, 1).nodes()
    assert nodes.shape == (29_980, 8)
    for half in (nodes[:, :4], nodes[:, 4:] - 9):
        assert set(half.unique().tolist()) == set(range(1, 10))
        sets = (2**half).sum(1)
        _, counts = sets.unique(return_counts=True)
        assert counts.numel() == 126
        expected = len(sets) / 126
        statistic = ((counts - expected) ** 2 / expected).sum().double()
        freedom = torch.tensor(125.0, dtype=torch.float64)
        assert 1e-6 < torch.special.gammaincc(freedom / 2, statistic / 2) < 1 - 1e-6  # of fixed draws


def test_candidates_depend_on_the_seed_and_the_event_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(900)
    stream = EventStream(numbers % 7, numbers * numbers % 401, numbers)
    split = Split(600, 700)
    first = tgb_candidates(stream, split, "test", 1)
    assert torch.equal(first.nodes, tgb_candidates(stream, split, "test", 1).nodes)
    assert not torch.equal(first.nodes, tgb_candidates(stream, split, "test", 2).nodes)
    later = tgb_candidates(stream, Split(600, 800), "test", 1)
    assert torch.equal(first.nodes[100:], later.nodes)
    monkeypatch.setattr(tgb, "_MARKS", 0)
    assert torch.equal(first.nodes, tgb_candidates(stream, split, "test", 1).nodes)
    monkeypatch.setattr(tgb, "_VALUES", 300)
    assert torch.equal(first.nodes, tgb_candidates(stream, split, "test", 1).nodes)
    assert first.origin == "up to 100 per event by TGB's rule, at most half from training"


def test_largest_ids_and_a_single_destination() -> None:
    largest = 2**31 - 1
    src = torch.tensor([largest, largest, largest, 0])
    stream = EventStream(src, torch.tensor([largest, largest - 1, largest - 2, largest]), torch.arange(4))
    assert rows_of(tgb_candidates(stream, Split(2, 3), "val", 0).nodes) == [[largest - 1, largest]]
    assert rows_of(tgb_candidates(stream, Split(2, 3), "test", 0).nodes) == [[largest - 2, largest - 1]]
    single = EventStream(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64), torch.arange(4))
    assert tgb_candidates(single, Split(2, 3), "val", 0).nodes.shape == (1, 0)


# Published candidates


def test_published_negatives_in_the_streams_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    users, items = {0: 0, 2: 1, 3: 2}, {0: 5, 1: 4, 2: 3}
    stream = stream_of([(users[src], items[dst], t) for src, dst, t in TABLE], "tgbl-wiki")
    result = tgb_candidates(stream, SPLIT, "val", 0)
    assert result.nodes.tolist() == [[4, 3], [5, 3]]
    assert result.origin == "the negatives that TGB publishes for tgbl-wiki"
    assert tgb_candidates(stream, SPLIT, "test", 0).nodes.tolist() == [[5]]
    monkeypatch.setattr(tgb, "_EVENTS", 1)
    stream = replace(stream, name="tgbl_wiki_edgelist_v2")
    assert tgb_candidates(stream, SPLIT, "val", 0).nodes.tolist() == [[4, 3], [5, 3]]
    scaled = replace(stream, borders=SPLIT).at(stream.t.double() / 7)
    assert tgb_candidates(scaled, SPLIT, "val", 0).nodes.tolist() == [[4, 3], [5, 3]]


@pytest.mark.parametrize("block", [1024, 1])
def test_rows_of_several_lengths_are_padded(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [*TABLE[:5], (2, 0, 50), *TABLE[6:]]
    install(monkeypatch, events=events)
    monkeypatch.setattr(tgb, "_EVENTS", block)
    stream = stream_of([(src, dst + 4, t) for src, dst, t in events], "tgbl-wiki")
    assert tgb_candidates(stream, SPLIT, "val", 0).nodes.tolist() == [[5, -1], [4, 6]]


GAP = [(src, 3 * (dst == 1) or dst, t) for src, dst, t in TABLE]  # destinations 0, 2, 3; node 1 has no event
LONELY = [*GAP[:3], (1, 2, 30), *GAP[4:]]  # node 1 is a source alone


@pytest.mark.parametrize("numbering", ["together", "TGB's"])
def test_negatives_that_are_never_a_destination(numbering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, events=LONELY)
    shift = 0 if numbering == "together" else 4
    stream = stream_of([(src, dst + shift, t) for src, dst, t in LONELY], "tgbl-wiki")
    expected = [[node + shift for node in row] for row in ([1, 2, 3], [0, 1, 2])]
    assert tgb_candidates(stream, SPLIT, "val", 0).nodes.tolist() == expected


def test_negatives_that_are_no_node_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, events=LONELY)
    items = {0: 4, 2: 5, 3: 6}
    stream = stream_of([(src, items[dst], t) for src, dst, t in LONELY], "tgbl-wiki")
    with pytest.raises(DataError, match=r"^tgbl-wiki: .* have its node 5, which no event has; .* \(--one-kind\)$"):
        tgb_candidates(stream, SPLIT, "val", 0)


def test_other_events_and_splits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    for events, split, fault in (
        (TABLE[:-1], SPLIT, r"^tgbl-wiki: has 7 events, and TGB's tgbl-wiki has 8; give all events of its table, or "),
        (TABLE, Split(4, 7), r"are for a split at events 5 and 7, not 4 and 7; use split_at=\"50,60\"$"),
        ([*TABLE[:6], (0, 2, 50), TABLE[7]], SPLIT, r"^tgbl-wiki: event 6: is not event 6 of TGB's tgbl-wiki; give "),
        ([*TABLE[:6], (1, 1, 50), TABLE[7]], SPLIT, r"^tgbl-wiki: event 6: is not"),
        ([TABLE[0], (2, 0, 11), *TABLE[2:]], SPLIT, r"^tgbl-wiki: event 1: is not"),
    ):
        with pytest.raises(DataError, match=fault):
            tgb_candidates(stream_of(events, "tgbl-wiki"), split, "val", 0)


def test_without_the_package_or_its_files_candidates_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(TABLE, "tgbl-wiki")
    origin = "up to 12,000 per event by TGB's rule for tgbl-wiki, at most half from training"
    assert tgb_candidates(stream, SPLIT, "val", 0).origin == origin
    install(monkeypatch, files=False)
    assert tgb_candidates(stream, SPLIT, "val", 0).origin == origin
    install(monkeypatch)
    assert tgb_candidates(stream_of(TABLE, "wiki"), SPLIT, "val", 0).origin.startswith("up to 100 per event")
    assert NUMBERS.keys() == {
        f"tgbl-{name}"
        for name in ("wiki", "review", "coin", "comment", "flight", "enron", "lastfm", "subreddit", "uci")
    }


# Ranks


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=5, max_size=5)), min_size=1, max_size=9)
)
def test_reciprocal_ranks_are_tgbs(scores: list[tuple[int, list[int]]]) -> None:
    positive, negatives = (torch.tensor(column, dtype=torch.float32) for column in zip(*scores, strict=True))
    expected = [plain.reciprocal_rank(*row) for row in scores]
    assert reciprocal_ranks(positive, negatives).tolist() == expected
