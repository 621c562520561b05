"""APAN: states and logits computed by hand, whole runs against the oracle, and the effects of dropout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.readers import read_stream
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from tests.models import six_events
from tests.models.beside_oracle import (
    SIX_STREAM,
    close,
    compare,
    first,
    irregular,
    node_features,
    session,
    with_node_features,
)
from tests.models.plain_apan import PlainAPAN
from tests.models.six_events import UNIT, ApanState

SETTINGS = {"model": "apan", "dim": 6, "heads": 2, "fanout": 3, "slots": 4}


def oracle(run: Session, **options: Any) -> PlainAPAN:
    config = run.config.model
    return PlainAPAN(
        dict(run.model.named_parameters()), config.dim, config.heads, config.fanout, run.stream.t[0].item(),
        config.slots, **options,
    )  # fmt: skip


def state_of(tables: dict[str, torch.Tensor], node: int) -> list[Any]:
    """State of a node of width 2: memory, its time, mail count, and sender row, partner row, event, time per slot."""
    mails, slots = tables["mails"][node] / UNIT, []
    assert not mails[:, 1::2].any()
    for (sender, partner), event, time in zip(
        mails[:, ::2].tolist(), tables["event_id"][node].tolist(), tables["mail_time"][node].tolist(), strict=True
    ):
        slots += [sender, partner, event, time]
    memory, time, received = (tables[name][node] for name in ("memory", "memory_time", "received"))
    assert memory[1] == 0
    return [memory[0].item() / UNIT, time.item(), received.item(), *slots]


@pytest.mark.parametrize(
    ("aggregator", "states"), [("last", six_events.APAN_AFTER), ("mean", six_events.APAN_MEAN_AFTER)]
)
def test_states_and_logits_by_hand(aggregator: str, states: list[dict[int, ApanState]]) -> None:
    run = session(SIX_STREAM, 2, model="apan", pair_features=False, aggregator=aggregator, **six_events.APAN)
    weights = {name: torch.tensor(values, dtype=torch.float64) for name, values in six_events.APAN_WEIGHTS.items()}
    missing, unknown = run.model.load_state_dict(weights, strict=False)
    assert (set(missing), unknown) == ({"time.frequency", "time.phase"}, [])
    items = batches(0, 6, 2, run.negatives, Purpose.EVAL_NEGATIVES, 0)
    outputs = in_turn(Stages(run).scoring(), items)
    for after, logits, done in zip(states, six_events.APAN_LOGITS, outputs, strict=True):
        assert done.outcome.logits[0].tolist() == pytest.approx(logits, abs=1e-12)
        for node, (*expected, slots) in after.items():
            expected += [part for slot in slots for part in (slot or (0, 0, -1, 10))]
            assert state_of(run.state.state_dict(), node) == pytest.approx(expected, abs=1e-12), node


def check_rings(run: Session, plain: PlainAPAN) -> None:
    """Check the mail count and every slot of every node."""
    tables, start = run.state.state_dict(), plain.start
    for node in range(run.stream.num_nodes):
        assert tables["received"][node] == run.state.sent[node] == plain.mail_count(node)
        for slot, mail in enumerate(plain.ring(node)):
            times = tables["event_id"][node, slot].item(), tables["mail_time"][node, slot].item()
            assert times == ((-1, start) if mail is None else (mail.event, mail.time)), (node, slot)
            if mail is not None:
                close(
                    tables["mails"][node, slot], torch.cat([mail.sender, mail.partner]), 1e-7, f"mail {slot} of {node}"
                )
            if mail is not None and "mail_features" in tables:
                close(tables["mail_features"][node, slot], mail.features, 1e-12, f"features of mail {slot} of {node}")


@pytest.mark.sample(2)
@pytest.mark.parametrize("aggregator", ["last", "mean"])
@pytest.mark.parametrize("features", [False, True], ids=["", "node features"])
def test_equals_the_oracle(small_stream: EventStream, aggregator: str, features: bool) -> None:
    stream = irregular(small_stream, 900)
    stream = with_node_features(stream) if features else stream
    run = session(stream, 12, aggregator=aggregator, **SETTINGS)
    plain = oracle(run, aggregator=aggregator, node_features=node_features(stream))
    compare(run, plain, 50)
    check_rings(run, plain)
    assert int(run.state.sent.max()) > 10  # mails have replaced mails


@pytest.mark.data
@pytest.mark.parametrize("aggregator", ["last", "mean"])
def test_equals_the_oracle_on_a_real_stream(real_data: Path, aggregator: str) -> None:
    run = session(first(read_stream(real_data / "wiki.csv"), 900), 12, aggregator=aggregator, **SETTINGS)
    plain = oracle(run, aggregator=aggregator)
    compare(run, plain, 50)
    check_rings(run, plain)


def test_one_head_of_the_whole_width(small_stream: EventStream) -> None:
    run = session(irregular(small_stream), 30, **{**SETTINGS, "heads": 1, "slots": 1, "fanout": 1})
    compare(run, oracle(run), 5)


def test_dropout_depends_on_the_epoch_and_trains(small_stream: EventStream) -> None:
    def losses(dropout: float, epoch: int) -> list[float]:
        run = session(small_stream, 100, dropout=dropout, **SETTINGS)
        first_epoch = batches(0, 400, 100, run.negatives, Purpose.TRAIN_NEGATIVES, 1)
        items = [replace(batch, epoch=epoch) for batch in first_epoch]  # the negatives stay, the key of dropout changes
        return [done.outcome.loss.item() for done in in_turn(Stages(run).training(), items)]

    assert losses(0.5, 1) == losses(0.5, 1)
    assert losses(0.5, 1)[0] != losses(0.5, 2)[0]
    assert losses(0.5, 1)[0] != losses(0.0, 1)[0]


def test_dropout_acts_on_attention_and_on_the_hidden_units(small_stream: EventStream) -> None:
    """Disable the output layer, so that dropout acts on attention alone; without values, it acts on nothing."""

    def losses(dropout: float, *without: str) -> list[float]:
        run = session(small_stream, 100, dropout=dropout, **SETTINGS)
        with torch.no_grad():
            for name in without:
                for parameter in getattr(run.model.updater, name).parameters():
                    parameter.zero_()
        run.optimizer.param_groups[0]["lr"] = 0.0
        items = batches(0, 300, 100, run.negatives, Purpose.TRAIN_NEGATIVES, 1)
        return [done.outcome.loss.item() for done in in_turn(Stages(run).training(), items)]

    assert losses(0.5, "output") != losses(0.0, "output")
    assert losses(0.5, "value") != losses(0.0, "value")
    assert losses(0.5, "output", "value") == losses(0.0, "output", "value")


def test_dropout_is_off_in_evaluation(small_stream: EventStream) -> None:
    def scores(dropout: float) -> torch.Tensor:
        run = session(small_stream, 100, dropout=dropout, **SETTINGS)
        items = batches(0, 400, 100, run.negatives, Purpose.EVAL_NEGATIVES, 0)
        return torch.cat([d.outcome.logits[0] for d in in_turn(Stages(run).scoring(), items)])

    assert torch.equal(scores(0.5), scores(0.0))
