"""TGN and TGAT: states computed by hand, compact forms against whole ones, and no look into the future."""

from __future__ import annotations

from dataclasses import replace
from math import cos, tanh
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.neighbourhood import Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from tests.models.beside_oracle import (
    SIX_STREAM,
    compare,
    irregular,
    node_features,
    session,
    with_node_features,
)
from tests.models.plain_tgn import PlainTGAT, PlainTGN
from tests.models.six_events import LAST_MAIL, last_mails

# With width 1, W_h = 0, z = 0 and these weights of the new gate, h = tanh(m + 2·p + ½·cos Δt + ¼); tanh ¼ without mail.
K0 = tanh(0.25)
K1 = tanh(K0 + 2 * K0 + 0.5 * cos(0) + 0.25)  # after one mail, sent at 10 to a memory of time 10
K2 = tanh(K1 + 2 * K1 + 0.5 * cos(4) + 0.25)  # after the next, sent at 14


@pytest.mark.parametrize("aggregator", ["last", "mean"])
def test_states_by_hand(aggregator: str) -> None:
    run = session(SIX_STREAM, 2, dim=1, pair_features=False, heads=1, fanout=2, aggregator=aggregator)
    cell = run.model.updater.cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih[1] = -1000.0
        cell.weight_ih[2] = torch.tensor([1.0, 2.0, 0.5])
        cell.bias_ih[2] = 0.25
    states = last_mails(K0, K1, K2)
    if aggregator == "mean":
        states[2][0] = (K2, 14, (K2 + K0) / 2, 5, 16)  # events 4 and 5 both reach node 0
    items = batches(0, 6, 2, run.negatives, Purpose.EVAL_NEGATIVES, 0)
    for after, _ in zip(states, in_turn(Stages(run).scoring(), items), strict=True):
        tables = run.state.state_dict()
        for node, expected in after.items():
            assert [tables[name][node].item() for name in LAST_MAIL] == pytest.approx(expected, abs=1e-12), node


def oracle(run: Session, **options: Any) -> PlainTGN:
    config, kind = run.config.model, PlainTGAT if run.config.model.model == "tgat" else PlainTGN
    return kind(
        dict(run.model.named_parameters()), config.dim, config.setting("heads"), config.setting("fanout"),
        run.stream.t[0].item(), config.setting("layers"), node_features=node_features(run.stream), **options,
    )  # fmt: skip


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_whole_messages_and_projected_attention(small_stream: EventStream, heads: int) -> None:
    run = session(irregular(small_stream), 50, dim=6, heads=heads, fanout=4)
    compare(run, oracle(run), 4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("aggregator", ["last", "mean"])
@pytest.mark.parametrize("features", [False, True], ids=["", "node features"])
def test_two_layers_equal_their_recursion(small_stream: EventStream, aggregator: str, features: bool) -> None:
    stream = irregular(small_stream)
    stream = with_node_features(stream) if features else stream
    run = session(stream, 10, dim=4, fanout=3, layers=2, aggregator=aggregator)
    compare(run, oracle(run, aggregator=aggregator), 20)


def test_three_layers_equal_their_recursion(small_stream: EventStream) -> None:
    run = session(irregular(small_stream), 20, dim=4, fanout=2, layers=3)
    compare(run, oracle(run), 4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("features", [False, True], ids=["", "node features"])
def test_tgat_equals_the_recursion_without_memory(small_stream: EventStream, layers: int, features: bool) -> None:
    stream = irregular(small_stream)
    stream = with_node_features(stream) if features else stream
    run = session(stream, 10, model="tgat", dim=4, fanout=3, layers=layers)
    compare(run, oracle(run), 20)
    assert run.state.state_dict() == {}
    assert run.model.updater is None


@pytest.mark.parametrize("model", [{"fanout": 5}, {"layers": 2, "fanout": 3}, {"model": "tgat", "fanout": 3}])
def test_predictions_do_not_depend_on_later_events_of_their_batch(
    small_stream: EventStream, model: dict[str, object]
) -> None:
    start, same = 400, 30  # the batch's first event, and its number of unchanged events
    dst, t = small_stream.dst.clone(), small_stream.t.clone()
    dst[start + same : start + 100] = dst[start + same : start + 100].flip(0)
    t[start + same :] += 12_345
    scores, parameters = [], session(small_stream, 100, dim=8, **model).model.state_dict()
    for stream in (small_stream, replace(small_stream, dst=dst, t=t)):
        run = session(stream, 100, dim=8, **model)
        run.model.load_state_dict(parameters)  # the pairs' weights are fitted to the changed events, too
        items = batches(0, start + 100, 100, run.negatives, Purpose.EVAL_NEGATIVES, 0)
        *_, last = in_turn(Stages(run).scoring(), items)
        scores.append(tuple(last.outcome.logits))
    for ours, changed in zip(*scores, strict=True):
        assert (ours[:same] - changed[:same]).abs().max() < 1e-12
        assert (ours[same:] - changed[same:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "model",
    [
        {"sampler": "uniform"}, {"aggregator": "mean"}, {"time_encoder": "learned"}, {"dropout": 0.3}, {"fanout": 1},
        {"layers": 2, "fanout": 3, "sampler": "uniform", "dropout": 0.1}, {"model": "tgat", "fanout": 3},
        {"model": "jodie", "time_encoder": "learned"}, {"model": "apan", "sampler": "uniform", "slots": 2},
    ],
)  # fmt: skip
def test_every_setting_trains(small_stream: EventStream, model: dict[str, object]) -> None:
    run = session(with_node_features(small_stream), 100, dim=8, **model)
    losses = []
    for epoch in (1, 2, 3, 4):
        run.state.reset()
        items = batches(0, 800, 100, run.negatives, Purpose.TRAIN_NEGATIVES, epoch)
        losses.append(sum(d.outcome.loss.item() for d in in_turn(Stages(run).training(), items)))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in run.model.parameters())


def test_dropout_depends_on_the_epoch(small_stream: EventStream) -> None:
    def losses(epoch: int) -> list[float]:
        run = session(small_stream, 100, dim=8, dropout=0.5)
        first_epoch = batches(0, 400, 100, run.negatives, Purpose.TRAIN_NEGATIVES, 1)
        items = [replace(batch, epoch=epoch) for batch in first_epoch]  # the negatives stay, the key of dropout changes
        return [done.outcome.loss.item() for done in in_turn(Stages(run).training(), items)]

    assert losses(1) == losses(1)
    assert losses(1)[0] != losses(2)[0]


def test_layers_and_hops_have_their_own_draws(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    run = session(small_stream, 100, dim=8, layers=2, sampler="uniform", dropout=0.5)
    keys: list[list[torch.Tensor]] = []

    def around(self: NeighbourSampler, roots: Roots, draws: list[torch.Tensor], horizon: None) -> Neighbourhood:
        keys.append(draws)
        return original(self, roots, draws, horizon)

    original = NeighbourSampler.around
    monkeypatch.setattr(NeighbourSampler, "around", around)
    Stages(run).sample(next(batches(0, 100, 100, run.negatives, Purpose.TRAIN_NEGATIVES, 1)))
    ((below, above),) = keys
    assert not torch.equal(below, above)
    assert [attention.layer for attention in run.model.embedding.attention] == [0, 1]


def test_dropout_is_off_in_evaluation(small_stream: EventStream) -> None:
    def scores(dropout: float) -> torch.Tensor:
        run = session(small_stream, 100, dim=8, dropout=dropout)
        items = batches(0, 400, 100, run.negatives, Purpose.EVAL_NEGATIVES, 0)
        return torch.cat([d.outcome.logits[0] for d in in_turn(Stages(run).scoring(), items)])

    assert torch.equal(scores(0.5), scores(0.0))
