"""The committed measurements of tuning: complete, what they promise, and drawn as they are."""

from __future__ import annotations

import json
import statistics

import pytest

from bench.draw_tuning import importances
from bench.tuning import RESULT
from mspipe_triton.config import RunSettings

REPORT = json.loads(RESULT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", REPORT["models"])
def test_tuned_is_never_slower_and_beats_bad_settings(model: str) -> None:
    found = REPORT["models"][model]
    rates = found["rates"]
    assert {name: len(taken) for name, taken in rates.items()} == dict.fromkeys(("shipped", "tuned", "bad"), 5)
    for other, ratio in (("shipped", found["to_shipped"]), ("bad", found["to_bad"])):
        assert ratio == statistics.median(a / b for a, b in zip(rates["tuned"], rates[other], strict=True))
    assert RunSettings(**found["settings"]["bad"]).schedule == "serial"
    assert RunSettings(**found["settings"]["bad"]).threads == 1
    assert found["to_shipped"] >= 1.0 or found["settings"]["tuned"] == found["settings"]["shipped"]
    assert found["to_bad"] >= 1.1


@pytest.mark.parametrize("model", REPORT["models"])
def test_the_shipped_settings_are_the_first_trial_and_the_choice_was_confirmed(model: str) -> None:
    found = REPORT["models"][model]
    first, facts = found["trials"][0], found["search"]
    assert first["point"].items() <= found["settings"]["shipped"].items()
    assert first["score"] == 1.0
    assert facts["shipped_kept"] == (found["settings"]["tuned"] == found["settings"]["shipped"])
    assert facts["shipped_kept"] or facts["gain"] > facts["noise"]


def test_commands_end_in_time() -> None:
    for run in REPORT["commands"]:
        assert run["limit_seconds"] == pytest.approx(1.1 * run["budget"] + 15)
        assert run["wall_seconds"] <= run["limit_seconds"]


def test_importances_are_shares_of_the_settings_that_were_searched() -> None:
    found = REPORT["models"]["tgn"]
    shares = importances(found["trials"])
    assert shares.keys() <= found["settings"]["shipped"].keys()
    assert sum(shares.values()) == pytest.approx(1.0)
    made = [
        {"state": "measured", "score": 1.0 + (threads == 2), "point": {"threads": threads, "other": other}}
        for threads in (1, 2)
        for other in (1, 2, 3, 4)
    ]
    assert importances(made)["threads"] > 0.9
