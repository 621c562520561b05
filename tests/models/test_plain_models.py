"""The oracles of JODIE and APAN: states computed by hand, staleness, mail counts and means."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from tests.models import six_events
from tests.models.plain_apan import PlainAPAN
from tests.models.plain_jodie import PlainJODIE
from tests.models.plain_model import Event, PlainModel
from tests.models.six_events import SIX, UNIT, ApanState, State, Weights

NONE = torch.zeros(0, dtype=torch.float64)
EVENTS: list[Event] = [(*event, NONE) for event in SIX]
NEGATIVES = [[2], [3]]


def tensors(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in weights.items()}


def jodie(events: list[Event] = EVENTS[: six_events.TRAINING], staleness: int = 0) -> PlainJODIE:
    return PlainJODIE(
        tensors(six_events.JODIE_WEIGHTS), start=10, training=events, staleness=staleness, **six_events.JODIE
    )


def apan(aggregator: str, staleness: int = 0) -> PlainAPAN:
    settings = six_events.APAN
    return PlainAPAN(tensors(six_events.APAN_WEIGHTS), start=10, aggregator=aggregator, staleness=staleness, **settings)


def jodie_state(plain: PlainModel, node: int) -> State:
    row, time = plain.memory_of(node)
    if node not in plain.mails:
        return row.item(), time, 0, -1, 10
    mail = plain.mails[node][-1]
    return row.item(), time, mail.partner.item(), mail.event, mail.time


def multiple(row: torch.Tensor) -> float:
    """Return r of a row (UNIT·r, 0)."""
    assert row[1] == 0
    return row[0].item() / UNIT


def apan_state(plain: PlainAPAN, node: int) -> ApanState:
    row, time = plain.memory_of(node)
    slots = [
        mail and (multiple(mail.sender), multiple(mail.partner), mail.event, mail.time) for mail in plain.ring(node)
    ]
    return multiple(row), time, plain.mail_count(node), slots


def check_jodie(plain: PlainModel, after: dict[int, State]) -> None:
    for node, expected in after.items():
        assert jodie_state(plain, node) == pytest.approx(expected, abs=1e-12), node


def check_apan(plain: PlainAPAN, after: dict[int, ApanState]) -> None:
    for node, (*expected, slots) in after.items():
        *actual, ring = apan_state(plain, node)
        assert actual == pytest.approx(expected, abs=1e-12), node
        for slot, mail in zip(slots, ring, strict=True):
            assert mail == (None if slot is None else pytest.approx(slot, abs=1e-12)), node


def test_jodie_by_hand() -> None:
    plain = jodie()
    for batch, after in enumerate(six_events.JODIE_AFTER):
        positive = plain.score_batch(EVENTS[2 * batch : 2 * batch + 2], NEGATIVES, EVENTS)[:, 0]
        assert positive.tolist() == pytest.approx(six_events.JODIE_LOGITS[batch], abs=1e-12)
        check_jodie(plain, after)
    assert [plain.digest(node).item() for node in range(4)] == pytest.approx(six_events.JODIE_NEXT, abs=1e-12)


@pytest.mark.parametrize(
    ("aggregator", "states"), [("last", six_events.APAN_AFTER), ("mean", six_events.APAN_MEAN_AFTER)]
)
def test_apan_by_hand(aggregator: str, states: list[dict[int, ApanState]]) -> None:
    plain = apan(aggregator)
    for batch, after in enumerate(states):
        positive = plain.score_batch(EVENTS[2 * batch : 2 * batch + 2], NEGATIVES, EVENTS)[:, 0]
        assert positive.tolist() == pytest.approx(six_events.APAN_LOGITS[batch], abs=1e-12)
        check_apan(plain, after)
    if aggregator == "last":
        plain.now = six_events.NEXT
        rows = [multiple(plain.digest(node)) for node in range(4)]
        assert rows == pytest.approx(six_events.APAN_NEXT, abs=1e-12)


@pytest.mark.parametrize("model", ["jodie", "apan"])
def test_a_stale_batch_does_not_read_the_last_writes(model: str) -> None:
    """With staleness 2, three batches read an empty state, and only the first one is written."""
    stale = jodie(staleness=2) if model == "jodie" else apan("last", staleness=2)
    for batch in range(3):
        assert not stale.memory
        assert not stale.mails
        stale.score_batch(EVENTS[2 * batch : 2 * batch + 2], NEGATIVES, EVENTS)
    if isinstance(stale, PlainAPAN):
        check_apan(stale, six_events.APAN_AFTER[0])
    else:
        check_jodie(stale, six_events.JODIE_AFTER[0])


def test_stale_mails_count_once_they_are_written() -> None:
    plain = apan("last", staleness=1)
    counts = []
    for batch in range(3):
        plain.score_batch(EVENTS[2 * batch : 2 * batch + 2], NEGATIVES, EVENTS)
        counts.append([plain.mail_count(node) for node in range(4)])
    assert counts == [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 2, 0]]
    assert [mail and mail.event for mail in plain.ring(0)] == [1, 3]


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [
        ("last", {0: (1, 2, 4), 1: (1, 2, 4), 2: (2, 1, 4), 3: (2, 1, 4)}),
        ("mean", {0: (5 / 3, 2, 3), 1: (1, 2, 4), 2: (2, 11 / 5, 11 / 5), 3: (5 / 2, 3 / 2, 5 / 2)}),
    ],
)
def test_the_mail_kept_of_several(aggregator: str, expected: dict[int, tuple[float, float, float]]) -> None:
    """Add two events, 2 with 3 at 20 and 1 with 2 at 21, with two neighbours each; node k's row is k, features 1 and 4.

    In the first event, the mail of 2 goes to 2, 2, 2 (its self-loop counts twice), and the mail of 3 to 3 and 0. In the
    second, the mail of 1 goes to 1, 0, 0, and the mail of 2 to 2, 3, 2.
    """
    plain = apan(aggregator)
    plain.fanout = 2
    plain.events = 6
    events: list[Event] = [
        (2, 3, 20, torch.tensor([1.0], dtype=torch.float64)), (1, 2, 21, torch.tensor([4.0], dtype=torch.float64))
    ]  # fmt: skip
    plain.history = EVENTS + events
    mails = plain.batch_mails(events, {node: torch.tensor([node], dtype=torch.float64) for node in range(4)})
    for node, rows in expected.items():
        mail = mails[node]
        assert (mail.sender.item(), mail.partner.item(), mail.features.item()) == pytest.approx(rows), node
        assert (mail.time, mail.event) == (21, 7)
    assert mails.keys() == expected.keys()


def test_the_destinations_mail_is_the_later_one_of_an_event() -> None:
    """Add an event, 0 with 1 at 17: the mail of 0 goes to 0 and 3, and the mail of 1 to 1 and 0."""
    plain = apan("last")
    plain.history = EVENTS
    mails = plain.batch_mails(
        [(0, 1, 17, NONE)], {node: torch.tensor([node], dtype=torch.float64) for node in range(2)}
    )
    assert {node: mail.sender.item() for node, mail in mails.items()} == {0: 1, 1: 1, 3: 0}


@pytest.mark.parametrize(
    ("stop", "gap"),
    # Event 4 adds the gaps 0 and 0; event 5 adds 6 for node 3, whose first event it is, and 2 for node 0.
    [(six_events.TRAINING, six_events.GAP), (6, sqrt(73 / 12 - (17 / 12) ** 2)), (2, 1)],
)
def test_gaps_of_the_training_events(stop: int, gap: float) -> None:
    assert jodie(EVENTS[:stop]).gap == pytest.approx(gap)


def random_parameters(weights: Weights, dim: int, dim_edge: int) -> dict[str, torch.Tensor]:
    """Draw parameters for the layers of `weights`, wider, with active hidden units in the predictor."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        name: (dim, dim) if isinstance(value[0], list) else (dim,) for name, value in weights.items()
    }
    for name in ("updater.cell.weight_ih", "updater.key.weight", "updater.value.weight"):
        if name in shapes:
            shapes[name] = (dim, 3 * dim + dim_edge)
    shapes |= {"predictor.out.weight": (1, dim), "predictor.out.bias": (1,)}
    parameters = {name: 0.4 * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}
    return parameters | {"predictor.src.bias": torch.ones(dim, dtype=torch.float64)}


@pytest.mark.parametrize("model", ["jodie", "apan"])
def test_training_reaches_every_parameter(model: str) -> None:
    events: list[Event] = [
        (i * i % 5, 5 + i * i % 5, i // 2, torch.tensor([i % 3, 1.0], dtype=torch.float64)) for i in range(40)
    ]
    negatives = [[5 + (i * i + 1) % 5] for i in range(40)]
    plain: PlainModel
    if model == "jodie":
        plain = PlainJODIE(random_parameters(six_events.JODIE_WEIGHTS, 4, 2), 4, 0, events)
    else:
        plain = PlainAPAN(random_parameters(six_events.APAN_WEIGHTS, 4, 2), 4, 2, 3, 0, 3)
    names, losses = set(), []
    for _ in range(4):
        plain.reset()
        losses.append(0.0)
        for i in range(0, 40, 8):
            losses[-1] += plain.train_batch(events[i : i + 8], negatives[i : i + 8], events)
            names |= {name for name, value in plain.p.items() if value.grad is not None and value.grad.any()}
    assert losses[-1] < losses[0]
    assert names == set(plain.p)
