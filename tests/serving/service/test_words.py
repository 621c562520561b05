"""Words of messages: each of a predictor's errors that a client can cause has the fields of requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.errors import InputError
from mspipe_triton.serving.service.web.refusals import refusal_of
from mspipe_triton.serving.service.words import in_words_of
from tests.serving.served import APRIL, ONES, WEB

EARLY = "2024-03-02"
# Each call with words that its message has about JSON, about Arrow and about a line of a followed source.
CASES: dict[str, tuple[Callable[[Predictor], Any], str, str, str]] = {
    "late": (
        lambda predictor: predictor.observe("u1", 100, EARLY, WEB),
        'T15:00:00; leave late events out with "late": "drop"',
        "T15:00:00; leave late events out with late=drop in the query",
        "T15:00:00; leave late events out with --late drop",
    ),
    "unsorted": (
        lambda predictor: predictor.observe(["u1"] * 2, [100] * 2, ["2024-04-02", APRIL], [WEB] * 2),
        'sort the events, or leave late events out with "late": "drop"',
        "sort the events, or leave late events out with late=drop in the query",
        "sort the events, or leave late events out with --late drop",
    ),
    "no features": (
        lambda predictor: predictor.observe("u1", 100, APRIL),
        '(amount, channel); send an object of them, "features"',
        "(amount, channel); send a column of each",
        "(amount, channel); add them",
    ),
    "a matrix": (
        lambda predictor: predictor.observe("u1", 100, APRIL, [1.0, 2.0]),
        "is text; send an object with amount, channel",
        "is text; send columns amount, channel",
        "is text; write an object with amount, channel",
    ),
    "no date": (
        lambda predictor: predictor.observe("u1", 100, "yesterday", WEB),
        "t is 'yesterday', neither",
        "t is 'yesterday', neither",
        "time is 'yesterday', neither",
    ),
    "new": (
        lambda predictor: predictor.rank("someone"),
        'since no event so far has it; "new": true takes it for a node without events',
        "since no event so far has it; new=true in the query takes it for a node without events",
        'since no event so far has it; "new": true takes it for a node without events',
    ),
    "a slip": (
        lambda predictor: predictor.score("U1", 100),
        'If it is new, "new": true takes it',
        "If it is new, new=true in the query takes it",
        'If it is new, "new": true takes it',
    ),
    "a time that has passed": (
        lambda predictor: predictor.rank("u1", EARLY),
        "before the last event, at 2024-03-17T15:00:00; a service cannot go back, so give a later time",
        "before the last event, at 2024-03-17T15:00:00; a service cannot go back, so give a later time",
        "before the last event, at 2024-03-17T15:00:00; a service cannot go back, so give a later time",
    ),
}
PYTHON = ("=...", "='drop'", "=True", "features=", "to_numpy", "load(", "pass ")


@pytest.fixture(scope="module")
def shop(shop_run: Path) -> Predictor:
    return load(shop_run)


def error_of(call: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_a_message_has_the_words_of_its_form(case: str, shop: Predictor) -> None:
    call, *expected = CASES[case]
    error = error_of(lambda: call(shop))
    bodies = [json.loads(bytes(refusal_of(error, arrow).body))["detail"] for arrow in (False, True)]
    messages = [*bodies, in_words_of("line", str(error))]
    for message, words in zip(messages, expected, strict=True):
        assert words in message
        assert not [each for each in PYTHON if each in message]


def test_features_without_names(run: Path, small_stream: Any) -> None:
    predictor = load(run, stream=small_stream)
    error = str(error_of(lambda: predictor.observe(0, 1, predictor.time, {"f": ONES[0]})))
    assert "is an object, and the run's features have no names; send a list per event" in in_words_of("JSON", error)
    assert in_words_of("Arrow", error).endswith("features have no names; send one column of lists")
    assert in_words_of("line", error).endswith("features have no names; write a list")
