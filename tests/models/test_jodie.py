"""JODIE: states and logits computed by hand, and whole runs against the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.readers import read_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.models import Facts
from tests.models import six_events
from tests.models.beside_oracle import (
    SIX_STREAM,
    compare,
    events_of,
    first,
    irregular,
    node_features,
    session,
    with_node_features,
)
from tests.models.plain_jodie import PlainJODIE


def oracle(run: Session, **options: Any) -> PlainJODIE:
    parameters, training = dict(run.model.named_parameters()), events_of(run.stream)[: run.split.train_end]
    return PlainJODIE(parameters, run.config.model.dim, run.stream.t[0].item(), training, **options)


def test_states_and_logits_by_hand() -> None:
    run = session(SIX_STREAM, 2, model="jodie", pair_features=False, **six_events.JODIE)
    weights = {name: torch.tensor(values, dtype=torch.float64) for name, values in six_events.JODIE_WEIGHTS.items()}
    missing, unknown = run.model.load_state_dict(weights, strict=False)
    assert (set(missing), unknown) == ({"time.frequency", "time.phase"}, [])
    items = batches(0, 6, 2, run.negatives, Purpose.EVAL_NEGATIVES, 0)
    outputs = in_turn(Stages(run).scoring(), items)
    for after, logits, done in zip(six_events.JODIE_AFTER, six_events.JODIE_LOGITS, outputs, strict=True):
        assert done.outcome.logits[0].tolist() == pytest.approx(logits, abs=1e-12)
        tables = run.state.state_dict()
        for node, expected in after.items():
            actual = [tables[name][node].item() for name in six_events.LAST_MAIL]
            assert actual == pytest.approx(expected, abs=1e-12), node


@pytest.mark.sample(2)
@pytest.mark.parametrize("aggregator", ["last", "mean"])
@pytest.mark.parametrize("features", [False, True], ids=["", "node features"])
def test_equals_the_oracle(small_stream: EventStream, aggregator: str, features: bool) -> None:
    stream = irregular(small_stream, 900)
    stream = with_node_features(stream) if features else stream
    run = session(stream, 12, model="jodie", dim=6, aggregator=aggregator)
    compare(run, oracle(run, aggregator=aggregator, node_features=node_features(stream)), 50)


@pytest.mark.data
def test_equals_the_oracle_on_a_real_stream(real_data: Path) -> None:
    run = session(first(read_stream(real_data / "wiki.csv"), 900), 12, model="jodie", dim=6)
    compare(run, oracle(run), 50)


def test_the_gap_scale_comes_from_training_events(small_stream: EventStream) -> None:
    for stream in (SIX_STREAM, irregular(small_stream), first(small_stream, 300)):
        run = session(stream, 2, model="jodie", dim=2)
        assert Facts.of(run.stream, run.sampler.adjacency, run.split, 9.0).gap == pytest.approx(
            oracle(run).gap, rel=1e-12
        )


def test_it_has_no_dropout() -> None:
    with pytest.raises(ConfigError, match=r"dropout 0.5: model jodie has none"):
        session(SIX_STREAM, 2, model="jodie", dropout=0.5)
