"""TGN: states worked out by hand, the compact form against the full one, and no look into the future."""

from __future__ import annotations

from dataclasses import replace
from math import cos, tanh

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.training.batch import batches
from mspipe_triton.training.iteration import in_turn
from mspipe_triton.training.session import Session
from tests.models.plain_tgn import PlainTGN


def session(stream: EventStream, batch_size: int, **model: object) -> Session:
    config = ModelConfig(**{"dtype": "float64", **model})
    return Session.create(RunConfig(model=config, train=TrainConfig(batch_size=batch_size)), stream)


# Six events in batches of two: a tie at 10 with a repeat of node 0, a self-loop, a tie at 13 across batches.
SIX = EventStream(
    torch.tensor([0, 0, 2, 1, 0, 3]), torch.tensor([1, 2, 2, 0, 1, 0]), torch.tensor([10, 10, 12, 13, 13, 16])
)
# With width 1, W_h = 0, z = 0 and these weights of the new gate, h = tanh(m + 2·p + ½·cos Δt + ¼); tanh ¼ without mail.
K0 = tanh(0.25)
K1 = tanh(K0 + 2 * K0 + 0.5 * cos(0) + 0.25)  # after one mail, sent at 10 to a memory of time 10
K2 = tanh(K1 + 2 * K1 + 0.5 * cos(3) + 0.25)  # after the next, sent at 13

# Per batch and node: memory, its time, partner row, event, mail time.
AFTER = [
    {0: (K0, 10, K0, 1, 10), 1: (K0, 10, K0, 0, 10), 2: (K0, 10, K0, 1, 10), 3: (0, 10, 0, -1, 10)},
    {0: (K1, 10, K1, 3, 13), 1: (K1, 10, K1, 3, 13), 2: (K1, 10, K1, 2, 12), 3: (0, 10, 0, -1, 10)},
    {0: (K2, 13, K0, 5, 16), 1: (K2, 13, K2, 4, 13), 2: (K1, 10, K1, 2, 12), 3: (K0, 10, K2, 5, 16)},
]


@pytest.mark.parametrize("aggregator", ["last", "mean"])
def test_states_worked_out_by_hand(aggregator: str) -> None:
    run = session(SIX, 2, dim=1, heads=1, fanout=2, aggregator=aggregator)
    cell = run.model.updater.cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih[1] = -1000.0
        cell.weight_ih[2] = torch.tensor([1.0, 2.0, 0.5])
        cell.bias_ih[2] = 0.25
    items = batches(0, 6, 2, run.negatives, Purpose.EVAL_NEGATIVES, 0)
    for after, _ in zip(AFTER, in_turn(run.iteration.evaluation_stages(), items), strict=True):
        tables = run.state.state_dict()
        for node, expected in after.items():
            if aggregator == "mean" and expected == (K2, 13, K0, 5, 16):
                expected = (K2, 13, (K2 + K0) / 2, 5, 16)  # events 4 and 5 both reach node 0
            names = ("memory", "memory_time", "partner", "event_id", "mail_time")
            actual = [tables[name][node].item() for name in names]
            assert actual == pytest.approx(expected, abs=1e-12), (node, expected)


def irregular(stream: EventStream) -> EventStream:
    """The first 300 events, with self-loops and ties put in, in quarters of an hour.

    In seconds, two roundings of w·Δt would differ by 10⁶ · 2⁻⁵² already, and training would magnify that.
    """
    src, dst = stream.src[:300].clone(), stream.dst[:300].clone()
    dst[::17] = src[::17]
    return replace(stream, src=src, dst=dst, t=stream.t[:300] // 900, edge_features=stream.edge_features[:300])


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_full_mailbox_and_projected_attention(small_stream: EventStream, heads: int) -> None:
    stream = irregular(small_stream)
    run = session(stream, 50, dim=6, heads=heads, fanout=4)
    plain = PlainTGN(dict(run.model.named_parameters()), 6, heads, 4, int(stream.t[0]))
    features = stream.edge_features.double()
    events = list(zip(stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), features, strict=True))
    items = list(batches(0, 300, 50, run.negatives, Purpose.TRAIN_NEGATIVES, 1))
    run.model.train()
    for item, done in zip(items, in_turn(run.iteration.training_stages(), items), strict=True):
        expected = plain.train_batch(events[item.start : item.stop], item.negatives.tolist(), events)
        assert done.loss.item() == pytest.approx(expected, rel=1e-9)
        for name, parameter in run.model.named_parameters():
            torch.testing.assert_close(
                parameter.grad, plain.p[name].grad, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    for name, parameter in run.model.named_parameters():
        # Adam divides by the gradient's root mean square, which turns 1e-9 into more where a gradient is tiny.
        torch.testing.assert_close(parameter, plain.p[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    for node, (row, time) in plain.memory.items():
        torch.testing.assert_close(run.state.tables["memory"][node], row, rtol=0, atol=1e-7)
        assert run.state.tables["memory_time"][node] == time


def test_predictions_do_not_see_later_events_of_their_batch(small_stream: EventStream) -> None:
    seen, kept = 400, 30
    dst, t = small_stream.dst.clone(), small_stream.t.clone()
    dst[seen + kept : seen + 100] = dst[seen + kept : seen + 100].flip(0)
    t[seen + kept :] += 12_345
    scores = []
    for stream in (small_stream, replace(small_stream, dst=dst, t=t)):
        run = session(stream, 100, dim=8, fanout=5)
        items = batches(0, seen + 100, 100, run.negatives, Purpose.EVAL_NEGATIVES, 0)
        *_, last = in_turn(run.iteration.evaluation_stages(), items)
        scores.append((last.positive, last.negative))
    for ours, changed in zip(*scores, strict=True):
        assert (ours[:kept] - changed[:kept]).abs().max() < 1e-12
        assert (ours[kept:] - changed[kept:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "model",
    [{"sampler": "uniform"}, {"aggregator": "mean"}, {"time_encoder": "learned"}, {"dropout": 0.3}, {"fanout": 1}],
)
def test_every_setting_trains(small_stream: EventStream, model: dict[str, object]) -> None:
    node_features = torch.randn(small_stream.num_nodes, 2, generator=torch.Generator().manual_seed(0))
    run = session(replace(small_stream, node_features=node_features), 100, dim=8, **model)
    losses = []
    for epoch in (1, 2, 3, 4):
        run.state.reset()
        items = batches(0, 800, 100, run.negatives, Purpose.TRAIN_NEGATIVES, epoch)
        losses.append(sum(d.loss.item() for d in in_turn(run.iteration.training_stages(), items)))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in run.model.parameters())


def test_dropout_is_keyed_by_the_epoch(small_stream: EventStream) -> None:
    def losses(epoch: int) -> list[float]:
        run = session(small_stream, 100, dim=8, dropout=0.5)
        same = batches(0, 400, 100, run.negatives, Purpose.TRAIN_NEGATIVES, 1)
        items = [replace(batch, epoch=epoch) for batch in same]  # the negatives stay, the dropout's key changes
        return [done.loss.item() for done in in_turn(run.iteration.training_stages(), items)]

    assert losses(1) == losses(1)
    assert losses(1)[0] != losses(2)[0]


def test_dropout_is_off_in_evaluation(small_stream: EventStream) -> None:
    def scores(dropout: float) -> torch.Tensor:
        run = session(small_stream, 100, dim=8, dropout=dropout)
        items = batches(0, 400, 100, run.negatives, Purpose.EVAL_NEGATIVES, 0)
        return torch.cat([d.positive for d in in_turn(run.iteration.evaluation_stages(), items)])

    assert torch.equal(scores(0.5), scores(0.0))
