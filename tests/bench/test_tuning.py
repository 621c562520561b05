"""The committed measurements of tuning: complete, what they promise, and drawn as they are."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from bench.pictures.tuning import importances
from bench.studies.tuning import RESULT
from mspipe_triton.config import RunSettings

REPORT = json.loads(RESULT.read_text(encoding="utf-8"))
FROM_BAD = json.loads(RESULT.with_name("tuning-from-bad.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("report", [REPORT, FROM_BAD])
def test_medians_are_those_of_epochs_in_turn(report: dict[str, Any]) -> None:
    for found in report["models"].values():
        rates = found["rates"]
        assert {name: len(taken) for name, taken in rates.items()} == dict.fromkeys(("shipped", "tuned", "bad"), 5)
        for other, ratio in (("shipped", found["to_shipped"]), ("bad", found["to_bad"])):
            assert ratio == statistics.median(a / b for a, b in zip(rates["tuned"], rates[other], strict=True))
        bad = RunSettings(**found["settings"]["bad"])
        assert (bad.schedule, bad.threads, bad.host_threads) == ("serial", 1, 1)


def test_tuned_is_not_slower_than_shipped_and_beats_bad_settings() -> None:
    found = REPORT["models"]["tgn"]
    assert found["to_shipped"] >= 1.0
    assert found["to_bad"] >= 1.1
    for other in REPORT["models"].values():
        assert other["to_shipped"] >= 1.0 or other["settings"]["tuned"] == other["settings"]["shipped"]


def test_bad_settings_are_left() -> None:
    found = FROM_BAD["models"]["tgn"]
    assert found["settings"]["tuned"] != found["settings"]["bad"]
    assert found["search"]["gain"] > found["search"]["noise"]
    assert found["to_bad"] >= 1.1


@pytest.mark.parametrize(("report", "start"), [(REPORT, "shipped"), (FROM_BAD, "bad")])
def test_what_is_to_be_beaten_is_the_first_trial_and_the_choice_was_confirmed(
    report: dict[str, Any], start: str
) -> None:
    for found in report["models"].values():
        first, facts = found["trials"][0], found["search"]
        assert first["point"].items() <= found["settings"][start].items()
        assert first["score"] == 1.0
        assert facts["shipped_kept"] == (found["settings"]["tuned"] == found["settings"][start])
        assert facts["shipped_kept"] or facts["gain"] > facts["noise"]


def test_stage_times_of_the_profile_hold_in_the_run_that_follows() -> None:
    for run in REPORT["models"]["tgn"]["stage_times"]:
        assert run["largest_off"] == max(map(abs, run["off"].values())) <= 0.15


def test_commands_end_in_time() -> None:
    for run in (*REPORT["commands"], *FROM_BAD["commands"]):
        assert run["limit_seconds"] == pytest.approx(1.1 * run["budget"] + 15)
        assert run["wall_seconds"] <= run["limit_seconds"]


def test_importances_are_shares_of_the_settings_that_were_searched() -> None:
    found = REPORT["models"]["tgn"]
    shares = importances(found["trials"])
    assert shares.keys() <= found["settings"]["shipped"].keys()
    assert sum(shares.values()) == pytest.approx(1.0)
    made = [
        {"state": "measured", "score": 1.0 + (threads == 2), "point": {"threads": threads, "prefetch": prefetch}}
        for threads in (1, 2, 4, 8)
        for prefetch in (1, 2, 3, 4)
    ]
    assert importances(made)["threads"] > 0.9
