"""Shares of batches at static shapes: the events, roots and draws of each rank are those of the stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import IterationDraws, Purpose
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.iteration.passes import TrainPass
from mspipe_triton.iteration.scene import Scene
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.shares import SharedStages
from mspipe_triton.iteration.staged import scene_of
from mspipe_triton.placement import Placement
from tests.iteration.test_shares import batch_of

SIZE, STOP, EACH = 77, 600, 3


def session(stream: EventStream, ranks: Ranks = ALONE) -> Session:
    model = ModelConfig(dim=8, fanout=4, layers=2, sampler="uniform", dropout=0.5)
    train = TrainConfig(batch_size=SIZE, train_negatives=EACH, placement="device")
    return replace(Session.create(RunConfig(model=model, train=train), stream), ranks=ranks)


def sampled(stream: EventStream, number: int, ranks: Ranks) -> tuple[TrainPass, Scene]:
    """The scene of a batch, and the pass whose clock is at it."""
    steps = TrainPass(session(stream, ranks), 8)
    for clock in (steps.ahead, steps.clock):
        clock.start(0, STOP, 1)
        for _ in range(number):
            clock.advance()
    return steps, steps.sample()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("number", [2, 7])  # the last one has 61 events
def test_a_share_has_the_roots_and_draws_of_the_stages(small_stream: EventStream, number: int, world: int) -> None:
    for rank in range(world):
        ranks = Ranks(rank, world)
        steps, scene = sampled(small_stream, number, ranks)
        run = session(small_stream, ranks)
        work = SharedStages(run).sample(batch_of(run, number, STOP))
        expected = scene_of(work)
        count = work.share.stop - work.share.start
        assert scene.count is not None
        assert int(scene.count) == count
        assert torch.equal(scene.roots, expected.roots)
        assert torch.equal(scene.events[:count], expected.events)
        assert torch.equal(scene.around.hops[-1].event_ids, expected.around.hops[-1].event_ids)
        real = expected.around.hops[0].event_ids.shape[0]
        assert torch.equal(scene.around.hops[0].event_ids[:real], expected.around.hops[0].event_ids)
        draws = IterationDraws(run.seed, 1, number, Placement(), rank)
        for layer in range(2):
            words = draws.words(Purpose.ATTENTION_DROPOUT, layer)
            assert torch.equal(steps.clock.words(Purpose.ATTENTION_DROPOUT, layer), words)


@pytest.mark.parametrize("world", [1, 2, 80])
def test_a_whole_batch_is_the_same_in_all_ranks(small_stream: EventStream, world: int) -> None:
    """The rows of a node's ends are one row, and hold that node among the ends that the ranks send."""
    alone = sampled(small_stream, 7, ALONE)[1]
    assert alone.whole is None
    scenes = [sampled(small_stream, 7, Ranks(rank, world))[1] for rank in range(min(world, 3))]
    if world == 1:
        assert scenes[0].whole is None
        return
    share = -(-SIZE // world)
    events = torch.arange(world * share)
    places = torch.where(events < SIZE, events, 0)
    src, dst = (part.index_select(0, places).view(world, share) for part in alone.roots[: 2 * SIZE].chunk(2))
    sent = torch.stack([src, dst], 1).flatten()
    weights = [min(max(61 - rank * share, 0), share) / 61 for rank in range(len(scenes))]
    for scene, weight in zip(scenes, weights, strict=True):
        whole = scene.whole
        assert whole is not None
        assert torch.equal(torch.cat([whole.src, whole.dst]), alone.roots[: 2 * SIZE])
        assert torch.equal(whole.events, alone.events)
        assert scene.now == alone.times[0]
        assert float(whole.weight) == pytest.approx(weight)
        rows, nodes = torch.cat([whole.src_rows, whole.dst_rows]), torch.cat([whole.src, whole.dst])
        real = nodes >= 0
        assert torch.equal(sent[rows[real]], nodes[real])
        assert torch.unique(rows[real]).numel() == torch.unique(nodes[real]).numel()
