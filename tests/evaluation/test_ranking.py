"""Ranking embeds each (node, time) pair once: the scores are those of embedding every candidate by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration import ranking, step
from mspipe_triton.iteration.ranking import Pairs, StaticPairs
from mspipe_triton.iteration.scene import Scene, batches
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.models.model import TemporalModel
from tests.training.schedule_run import session

BATCH, CANDIDATES, WIDTH = 40, 7, 8


def one_by_one(nodes: torch.Tensor, times: torch.Tensor) -> Pairs:
    """Pairs that share nothing: one for every node of every event, column by column."""
    events, columns = nodes.shape
    rows = torch.arange(nodes.numel()).view(columns, events).t()
    return Pairs(nodes.t().reshape(-1), times.repeat(columns), rows, torch.tensor([nodes.numel()]))


def rank(stream: EventStream, model: str, whole_weights: bool = False) -> torch.Tensor:
    run = session(stream, BATCH, {"model": model, "dim": WIDTH, "dtype": "float64"})
    with torch.no_grad():
        for weights in run.model.predictor.parameters() if whole_weights else ():
            weights.mul_(8).round_()
    items = batches(0, 3 * BATCH, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, CANDIDATES)
    return torch.cat([work.outcome.ranked for work in in_turn(Stages(run).scoring(), items)])


@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_scores_are_those_of_candidates_one_by_one(
    small_stream: EventStream, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = rank(small_stream, model)
    assert shared.shape == (3 * BATCH, CANDIDATES)
    monkeypatch.setattr(Pairs, "of", staticmethod(one_by_one))
    for columns in (1, 16, 1 + CANDIDATES):  # products of other shapes round differently
        monkeypatch.setattr(ranking, "PAIRS", columns * BATCH // 2)
        torch.testing.assert_close(rank(small_stream, model), shared, rtol=0, atol=1e-12)


def test_sharing_itself_changes_no_bit(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """With embeddings and weights that are small integers nothing is rounded, so equal means equal."""

    def exact(model: TemporalModel, scene: Scene, now: torch.Tensor | None = None) -> tuple[None, torch.Tensor]:
        hashed = scene.roots.unsqueeze(1) * 31 + scene.times.unsqueeze(1) * 17 + torch.arange(WIDTH)
        return None, (hashed % 13 - 6).double()

    monkeypatch.setattr(step, "forward", exact)
    shared = rank(small_stream, "tgat", whole_weights=True)
    monkeypatch.setattr(Pairs, "of", staticmethod(one_by_one))
    monkeypatch.setattr(ranking, "PAIRS", BATCH)
    assert torch.equal(rank(small_stream, "tgat", whole_weights=True), shared)
    assert shared.unique().numel() > 10


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
    assert int(pairs.real) == len(real)
    table = list(zip(pairs.nodes.tolist(), pairs.times.tolist(), strict=True))
    assert table[: len(real)] == real
    assert {node for node, _ in table[len(real) :]} <= {-1}
    for row, time, numbers in zip(nodes, times, pairs.rows.tolist(), strict=True):
        assert all(table[number] == (node, time) for node, number in zip(row, numbers, strict=True) if node >= 0)


def test_static_pairs_have_room_for_the_most_that_were_found() -> None:
    source, times = StaticPairs(torch.device("cpu")), torch.arange(4)
    few = torch.tensor([[1] * 10, [2] * 10, [3] * 10, [-1] * 10])
    many = few.clone()
    many[0] = torch.arange(10, 20)
    assert [source.of(each, times).nodes.numel() for each in (few, many)] == [40, 40]
    source.fit()
    pairs = source.of(few, times)
    assert (pairs.nodes.numel(), pairs.real.tolist()) == (16, [3])  # 12 pairs, rounded up
    assert pairs.nodes[:4].tolist() == [1, 2, 3, -1]
    assert pairs.rows[:3, 0].tolist() == [0, 1, 2]
    assert int(pairs.rows.max()) < 16  # padding refers to an existing row
