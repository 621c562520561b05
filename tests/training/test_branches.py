"""Branches of a resident iteration: work in parallel, with the same numbers as without branches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident
from tests.models.beside_oracle import irregular

SIZE = 70


def resident_run(stream: EventStream, settings: RunSettings | None = None) -> tuple[Session, Resident]:
    train = TrainConfig(batch_size=SIZE, placement="device")
    model = ModelConfig(dim=8, dtype="float64", fanout=4)
    session = Session.create(RunConfig(model=model, train=train, settings=settings), stream)
    return session, Resident(session)


@pytest.fixture(scope="module")
def stream() -> EventStream:
    """Events with ties, repeats and self-loops."""
    return irregular(synthetic_stream(SyntheticConfig(events=300, users=25, items=12, edge_features=3, seed=1)))


def test_losses_are_the_same_without_branches_to_the_bit(stream: EventStream) -> None:
    losses = []
    for branch in (True, False):
        _, resident = resident_run(stream, settings=RunSettings(schedule="resident", branch=branch))
        losses.append(torch.cat([resident.train_epoch(epoch).losses for epoch in (1, 2)]))
    assert torch.equal(*losses)


def test_mail_is_written_in_parallel_to_the_optimisers_step(
    stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail follows the backward pass, whose gradients exist by then, and is joined before the step ends."""
    session, resident = resident_run(stream)
    steps, log = resident.training(), list[str]()
    step, deliver = steps.optimizer.step, steps.deliver

    @contextmanager
    def side_stream() -> Iterator[Callable[[], None]]:
        log.append("side stream")
        yield lambda: log.append("joined")
        log.append("main stream")

    def deliver_and_log(*arguments: Any) -> None:
        assert all(each.grad is not None for each in session.model.parameters() if each.requires_grad)
        log.append("mail")
        deliver(*arguments)

    steps.start(0, SIZE, 1)
    assert steps.scene is not None
    monkeypatch.setattr(steps, "side_stream", side_stream)
    monkeypatch.setattr(steps, "deliver", deliver_and_log)
    monkeypatch.setattr(steps.optimizer, "step", lambda: (log.append("Adam"), step()))
    steps.work(steps.scene)
    assert log == ["side stream", "mail", "main stream", "Adam", "joined"]
