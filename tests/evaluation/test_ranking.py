"""Ranking embeds each (node, time) pair once: the scores are those of embedding every candidate by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration import ranking
from mspipe_triton.iteration.ranking import Pairs, StaticPairs
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.staged import Stages, in_turn
from tests.training.schedule_run import session

BATCH, CANDIDATES = 40, 7
# In torch, the last elements of a table round differently if its size is no multiple of the vector length.
WIDTH = 32


def one_by_one(nodes: torch.Tensor, times: torch.Tensor) -> Pairs:
    """Pairs that share nothing: one for every node of every event, column by column."""
    events, columns = nodes.shape
    rows = torch.arange(nodes.numel()).view(columns, events).t()
    return Pairs(nodes.t().reshape(-1), times.repeat(columns), rows, torch.tensor([nodes.numel()]))


def rank(stream: EventStream, model: str, dtype: str) -> torch.Tensor:
    run = session(stream, BATCH, {"model": model, "dim": WIDTH, "dtype": dtype})
    items = batches(0, 3 * BATCH, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, CANDIDATES)
    return torch.cat([work.outcome.ranked for work in in_turn(Stages(run).scoring(), items)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_scores_are_those_of_candidates_one_by_one(
    small_stream: EventStream, model: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = rank(small_stream, model, dtype)
    assert shared.shape == (3 * BATCH, CANDIDATES)
    monkeypatch.setattr(Pairs, "of", staticmethod(one_by_one))
    monkeypatch.setattr(ranking, "GROUP", BATCH)
    assert torch.equal(rank(small_stream, model, dtype), shared)


events = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), min_size=size, max_size=size),
        st.lists(st.integers(0, 3), min_size=size, max_size=size).map(sorted),
    )
)


@settings(max_examples=100, deadline=None)
@given(events)
def test_pairs_are_distinct_and_sorted(case: tuple[list[list[int]], list[int]]) -> None:
    nodes, times = case
    real = sorted({(node, time) for row, time in zip(nodes, times, strict=True) for node in row if node >= 0})
    pairs = Pairs.of(torch.tensor(nodes), torch.tensor(times))
    assert int(pairs.count) == len(real)
    table = list(zip(pairs.nodes.tolist(), pairs.times.tolist(), strict=True))
    assert table[: len(real)] == real
    assert {node for node, _ in table[len(real) :]} <= {-1}
    for row, time, numbers in zip(nodes, times, pairs.rows.tolist(), strict=True):
        assert all(table[number] == (node, time) for node, number in zip(row, numbers, strict=True) if node >= 0)


def test_static_pairs_have_room_for_the_most_that_were_found() -> None:
    few, many = torch.tensor([[1, 1], [2, -1]]), torch.tensor([[1, 2], [3, 4]])
    source, times = StaticPairs(torch.device("cpu")), torch.tensor([5, 6])
    assert [source.of(each, times).nodes.numel() for each in (few, many)] == [4, 4]
    source.fit()
    assert source.of(many, times).nodes.tolist() == [1, 2, 3, 4]
    source = StaticPairs(torch.device("cpu"))
    source.of(few, times)
    source.fit()
    pairs = source.of(few, times)
    assert pairs.nodes.tolist() == [1, 2]
    assert pairs.times.tolist() == [5, 6]
    assert pairs.rows[0].tolist() == [0, 0]
    assert int(pairs.rows.max()) <= 1  # padding refers to an existing row
