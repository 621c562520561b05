"""Helpers of the models' tests: sessions, awkward streams, and a run compared with its oracle batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose, draw_words
from mspipe_triton.iteration.pairs import training_negatives
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from tests.models.plain_apan import PlainAPAN
from tests.models.plain_jodie import PlainJODIE
from tests.models.plain_model import Event, PlainModel
from tests.models.plain_tgn import PlainTGN
from tests.models.six_events import SIX

SIX_STREAM = EventStream(*(torch.tensor(column) for column in zip(*SIX, strict=True)))


def session(stream: EventStream, batch_size: int, train: dict[str, object] | None = None, **model: object) -> Session:
    config = ModelConfig(**{"dtype": "float64", **model})
    return Session.create(RunConfig(model=config, train=TrainConfig(batch_size=batch_size, **(train or {}))), stream)


def first(stream: EventStream, events: int, unit: int = 1) -> EventStream:
    """Cut a stream to its first events, and divide times by `unit`: rounding of w·Δt is 2⁻⁵² of Δt, and training
    magnifies it."""
    features = stream.edge_features
    return replace(
        stream, src=stream.src[:events], dst=stream.dst[:events], t=stream.t[:events] // unit,
        edge_features=None if features is None else features[:events], labels=None,
    )  # fmt: skip


def irregular(stream: EventStream, events: int = 300) -> EventStream:
    """Cut a stream to its first events, round times to quarters of an hour, which ties many, and add self-loops."""
    stream = first(stream, events, 900)
    dst = stream.dst.clone()
    dst[::17] = stream.src[::17]
    return replace(stream, dst=dst)


def with_node_features(stream: EventStream, width: int = 2) -> EventStream:
    generator = torch.Generator().manual_seed(0)
    return replace(stream, node_features=torch.randn(stream.num_nodes, width, generator=generator))


def events_of(stream: EventStream) -> list[Event]:
    """Convert a stream to an oracle's events."""
    features = torch.zeros(len(stream), 0) if stream.edge_features is None else stream.edge_features
    columns = stream.src.tolist(), stream.dst.tolist(), stream.t.tolist(), features.double()
    return list(zip(*columns, strict=True))


def node_features(stream: EventStream) -> torch.Tensor | None:
    return None if stream.node_features is None else stream.node_features.double()


def oracle(run: Session, **settings: Any) -> PlainModel:
    """Return the oracle of a session's model, with the same parameters."""
    config, start = run.config.model, run.stream.t[0].item()
    parameters, settings = dict(run.model.named_parameters()), {"aggregator": config.aggregator, **settings}
    if config.model == "jodie":
        return PlainJODIE(parameters, config.dim, start, events_of(run.stream)[: run.split.train_end], **settings)
    heads, fanout = config.setting("heads"), config.setting("fanout")
    if config.model == "apan":
        return PlainAPAN(parameters, config.dim, heads, fanout, start, config.setting("slots"), **settings)
    return PlainTGN(parameters, config.dim, heads, fanout, start, **settings)


def compare(run: Session, plain: PlainModel, count: int, check: Callable[[], None] | None = None) -> None:
    """Train a session and its oracle for `count` batches, and compare losses, gradients, parameters and memory.

    Args:
        check: called after the last batch.
    """
    events, size = events_of(run.stream), run.config.train.batch_size
    each = run.config.train.train_negatives
    items = list(batches(0, size * count, size, run.negatives, Purpose.TRAIN_NEGATIVES, 1, each=each))
    run.model.train()
    batch_count = 0
    for item, done in zip(items, in_turn(Stages(run).training(), items), strict=True):
        columns = (column[item.start : item.stop] for column in (run.stream.src, run.stream.dst, run.stream.t))
        words = draw_words(run.seed, Purpose.HISTORICAL_NEGATIVES, 1, item.index)
        negatives, weights = training_negatives(run, *columns, item.negatives, words)
        expected = plain.train_batch(events[item.start : item.stop], negatives.tolist(), events, weights)
        assert done.outcome.loss.item() == pytest.approx(expected, rel=1e-9), item.index
        for name, parameter in run.model.named_parameters():
            close(parameter.grad, plain.p[name].grad, 1e-9, f"gradient of {name} in batch {item.index}")
            # Adam divides by the gradient's root mean square, which magnifies 1e-9 if a gradient is tiny.
            close(parameter, plain.p[name], 1e-6, f"{name} after batch {item.index}")
            with torch.no_grad():
                plain.p[name].copy_(parameter)  # so that the next gradients are of equal parameters
        batch_count += 1
    assert batch_count == count
    tables = run.state.state_dict()
    for node, (row, time) in plain.memory.items():
        if tables:
            close(tables["memory"][node], row, 1e-7, f"memory of {node}")
            assert tables["memory_time"][node] == time
    if check is not None:
        check()


def close(actual: torch.Tensor | None, expected: torch.Tensor | None, tolerance: float, name: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, msg=lambda message: f"{name}: {message}")
