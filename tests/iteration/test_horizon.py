"""Scores read earlier events alone: in lagged batches those before the batch, else those before each event's time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.training.way import carry_out
from tests.models.beside_oracle import session

SIZE, FIRST = 100, 900  # events per batch, and the first one of a batch in validation
MODELS: dict[str, dict[str, Any]] = {
    "tgn": {"fanout": 5}, "tgn of two layers": {"layers": 2, "fanout": 3},
    "jodie": {"model": "jodie"}, "apan": {"model": "apan", "slots": 3}, "tgat": {"model": "tgat", "fanout": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def ties(small_stream: EventStream) -> EventStream:
    """The small stream at times of which most are shared."""
    return replace(small_stream, t=small_stream.t // 7200)


def last_batch(run: Session, lagged: bool) -> torch.Tensor:
    """Return scores [B, 2 + 6] of the batch from `FIRST` on: of its events, their negatives and candidates."""
    items = batches(0, FIRST, SIZE, run.negatives, Purpose.EVAL_NEGATIVES, 0)
    run.state.reset()
    for _ in in_turn(Stages(run).scoring(), items):
        pass
    items = batches(FIRST, FIRST + SIZE, SIZE, run.negatives, Purpose.EVAL_NEGATIVES, 0, 6, lagged=lagged)
    ((logits, ranked),) = (work.outcome for work in in_turn(Stages(run).scoring(), items))
    return torch.cat([logits.t(), ranked], 1)


@pytest.mark.parametrize("model", MODELS)
def test_a_lagged_batch_does_not_read_its_own_events(ties: EventStream, model: str) -> None:
    half = slice(FIRST, FIRST + SIZE // 2)
    dst = ties.dst.clone()
    dst[half] = dst[half].flip(0)
    assert bool((ties.t[half.stop :] > ties.t[half.start]).all())
    runs = [session(stream, SIZE, dim=8, **MODELS[model]) for stream in (ties, replace(ties, dst=dst))]
    changes = {}
    for lagged in (True, False):
        ours, changed = (last_batch(run, lagged)[SIZE // 2 :] for run in runs)
        changes[lagged] = float((ours - changed).abs().max())
    assert changes[True] < 1e-12
    assert changes[False] > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_lagging_changes_no_score_at_the_time_of_the_first_event(ties: EventStream, model: str) -> None:
    run = session(ties, SIZE, dim=8, **MODELS[model])
    lagged, usual = last_batch(run, True), last_batch(run, False)
    count = int((ties.t[FIRST : FIRST + SIZE] == ties.t[FIRST]).sum())
    assert 0 < count < SIZE
    assert (lagged[:count] - usual[:count]).abs().max() < 1e-12
    assert (lagged[count:] - usual[count:]).abs().max() > 1e-3


@pytest.mark.parametrize("uniform", [False, True], ids=["recent", "uniform"])
def test_neighbours_before_the_horizon_at_their_distance_from_the_root(ties: EventStream, uniform: bool) -> None:
    run = session(ties, SIZE, dim=8, fanout=4, sampler="uniform" if uniform else "recent")
    stream, events = run.stream, torch.arange(FIRST, FIRST + SIZE)
    nodes, times, horizon = stream.src[events], stream.t[events], stream.t[FIRST]
    words = torch.tensor([0, 1, 2, 3])
    neighbours, ids, deltas, counts = run.sampler.neighbours(nodes, times, words, horizon)
    columns = [column.tolist() for column in (stream.src, stream.dst, stream.t)]
    for row, (node, time) in enumerate(zip(nodes.tolist(), times.tolist(), strict=True)):
        earlier = {
            (event, src + dst - node)
            for event, (src, dst, moment) in enumerate(zip(*columns, strict=True))
            if node in (src, dst) and moment < float(horizon)
        }
        count = int(counts[row])
        sampled = list(zip(ids[row, :count].tolist(), neighbours[row, :count].tolist(), strict=True))
        assert set(sampled) <= earlier
        assert count == min(4, len(earlier)) or uniform
        if not uniform:
            assert sorted(event for event, _ in sampled) == sorted(event for event, _ in earlier)[-4:]
        assert deltas[row, :count].tolist() == [time - columns[2][event] for event, _ in sampled]
        assert set(deltas[row, count:].tolist()) <= {0.0}
    assert counts.max() == 4
    assert (deltas > float(times[-1] - horizon)).any()


def scores(run: Session) -> Iterator[torch.Tensor]:
    """Yield scores of all events of validation and test, of their negatives, and their ranks, in columns."""
    way = carry_out(run)
    run.state.reset()
    run.model.eval()
    for split in ("val", "test"):
        yield torch.cat([torch.stack(columns, 1) for _, columns in way.predict(split, 5)])


@pytest.mark.sample(2)
@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("model", MODELS)
def test_an_event_is_scored_without_those_at_its_time_or_later(ties: EventStream, model: str, placement: str) -> None:
    train, numbers = {"placement": placement}, torch.arange(len(ties))
    run = session(ties, SIZE, train, dim=8, **MODELS[model])
    first, ours = run.split.train_end, torch.cat(list(scores(run)))
    for start, place in ((run.split.train_end, 137), (run.split.val_end, 64)):
        event = start + place
        batch = event - place % SIZE  # a tie with an earlier batch is in the node memory
        others = numbers[(ties.t >= ties.t[event]) & (numbers != event) & (numbers >= batch)]
        dst = ties.dst.clone()
        dst[others] = dst[others].flip(0)
        changed = session(replace(ties, dst=dst), SIZE, train, dim=8, **MODELS[model])
        differences = (torch.cat(list(scores(changed))) - ours).abs()
        assert differences[event - first].max() < 1e-12
        assert differences[event - first :].max() > 1e-3
