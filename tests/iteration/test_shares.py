"""Shares of a batch: their events, roots and draws in each rank, without any exchange."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.clock import Clock
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import IterationDraws, Purpose, drawing_rank
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.iteration import shares
from mspipe_triton.iteration.scene import Batch, Scene, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.shares import SharedStages
from mspipe_triton.iteration.staged import Stages, scene_of
from mspipe_triton.placement import Placement

MODEL = {"dim": 8, "fanout": 4, "sampler": "uniform", "dropout": 0.5}


def session(stream: EventStream, ranks: Ranks = ALONE, size: int = 77, **model: Any) -> Session:
    config = RunConfig(model=ModelConfig(**{**MODEL, **model}), train=TrainConfig(batch_size=size, train_negatives=3))
    # Sessions of several ranks exchange their parameters when they start, which these tests never read.
    return replace(Session.create(config, stream), ranks=ranks)


def batch_of(run: Session, number: int, stop: int) -> Batch:
    items = batches(0, stop, run.size, run.negatives, Purpose.TRAIN_NEGATIVES, 1, each=3)
    return next(item for item in items if item.index == number)


@pytest.mark.parametrize("world", [1, 2, 4, 80])
@pytest.mark.parametrize(("number", "stop"), [(5, 600), (7, 600), (7, 540)])
def test_shares_are_the_batch(small_stream: EventStream, world: int, number: int, stop: int) -> None:
    """The last batch has 61 events, or one alone."""
    batch = batch_of(session(small_stream), number, stop)
    parts = [batch.share(Ranks(rank, world)) for rank in range(world)]
    full = [part for part in parts if part.weight]
    assert torch.equal(torch.cat([part.negatives for part in full]), batch.negatives)
    assert [event for part in full for event in range(part.start, part.stop)] == [*range(batch.start, batch.stop)]
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert all(part.size == -(-77 // world) for part in parts)
    for part in parts:
        assert part.places == slice(part.start - batch.start, part.stop - batch.start)
        if not part.weight:
            assert (part.start, part.stop) == (batch.stop - 1, batch.stop)


@pytest.mark.parametrize("world", [2, 4, 80])
@pytest.mark.parametrize(("number", "stop"), [(5, 600), (7, 600)])
@pytest.mark.parametrize("layers", [1, 2])
def test_uniform_neighbours_of_the_roots_do_not_depend_on_the_ranks(
    small_stream: EventStream, layers: int, number: int, stop: int, world: int
) -> None:
    run = session(small_stream, layers=layers)
    batch = batch_of(run, number, stop)
    whole, events = Stages(run).sample(batch), batch.stop - batch.start
    rows = scene_of(whole).around.hops[-1].event_ids
    sources, destinations, negatives = rows.split([77, 77, 3 * 77])
    for rank in range(world):
        work = SharedStages(replace(run, ranks=Ranks(rank, world))).sample(batch)
        places, size = work.share.places, work.share.size
        count = places.stop - places.start
        slots = scene_of(work).around.hops[-1].event_ids.split([size, size, 3 * size])
        assert torch.equal(slots[0][:count], sources[places])
        assert torch.equal(slots[1][:count], destinations[places])
        assert torch.equal(slots[2][: 3 * count], negatives[3 * places.start : 3 * places.stop])
    assert bool((rows[:events] >= 0).any())


def test_ranks_draw_apart() -> None:
    """Shares of equal events have unlike neighbours in the second hop."""
    src, dst, t = torch.arange(600) % 7, 7 + torch.arange(600) % 9, torch.arange(600)
    for column, value in ((src, 0), (dst, 8), (t, 200)):
        column[200:240] = value  # the sixth batch repeats one event
    run = session(EventStream(src, dst, t.sort().values), size=40, layers=2)
    batch = batch_of(run, 5, 240)
    ranks = [Ranks(rank, 2) for rank in range(2)]
    first, second = (SharedStages(replace(run, ranks=each)).sample(batch) for each in ranks)
    hops = [scene_of(work).around.hops[0].event_ids for work in (first, second)]
    count = min(hop.shape[0] for hop in hops)
    assert not torch.equal(hops[0][:count], hops[1][:count])


def test_dropout_differs_by_rank(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def record(model: Any, scene: Scene) -> None:
        assert scene.draws is not None
        keys.append(scene.draws.words(Purpose.ATTENTION_DROPOUT).tolist())
        raise InterruptedError

    monkeypatch.setattr(shares, "forward", record)
    for rank in range(3):
        stages = SharedStages(session(small_stream, Ranks(rank, 3)))
        work = stages.sample(batch_of(stages.session, 5, 600))
        with pytest.raises(InterruptedError):
            stages.forward(work)
    assert len({tuple(words) for words in keys}) == 3
    assert keys[0] == [0, Purpose.ATTENTION_DROPOUT, 1, 5]


BY_SHARE = {
    Purpose.ATTENTION_DROPOUT, Purpose.OUTPUT_DROPOUT, Purpose.MAILBOX_DROPOUT, Purpose.UPDATER_DROPOUT,
    Purpose.RANKING_NEIGHBOURS,
}  # fmt: skip


@pytest.mark.parametrize(("layers", "roots"), [(1, 0), (2, 1), (16, 1)])
def test_keys_of_draws(layers: int, roots: int) -> None:
    """Draws for whole batches have one key in all ranks; all other keys are distinct, in 32 bits."""
    ranks, distinct = (0, 1, 1023, 2**16 - 1), 0
    keys = set()
    for purpose in Purpose:
        for layer in range(layers):
            numbers = (drawing_rank(purpose, layer, layers, rank) for rank in ranks)
            draws = (IterationDraws(3, 1, 5, Placement(), number) for number in numbers)
            by_rank = {tuple(each.words(purpose, layer).tolist()) for each in draws}
            further = purpose == Purpose.UNIFORM_NEIGHBOURS and layer != roots
            assert len(by_rank) == (len(ranks) if purpose in BY_SHARE or further else 1), (purpose, layer)
            keys |= by_rank
            distinct += len(by_rank)
    assert len(keys) == distinct
    assert all(0 <= key[1] < 2**32 for key in keys)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_clock_has_the_keys_of_iterations(layers: int) -> None:
    for rank in (0, 5):
        clock = Clock(3, 40, torch.device("cpu"), layers, rank=rank)
        clock.start(0, 400, 2)
        clock.advance()
        for purpose in Purpose:
            for layer in range(layers):
                draws = IterationDraws(3, 2, 1, Placement(), drawing_rank(purpose, layer, layers, rank))
                assert torch.equal(clock.words(purpose, layer), draws.words(purpose, layer))
