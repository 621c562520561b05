"""The committed measurements of tuning: complete, within their limits, and the shares that the picture shows."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from bench.pictures.tuning import importances
from bench.studies.tuning import RESULT
from mspipe_triton.execution import RunSettings

REPORT = json.loads(RESULT.read_text(encoding="utf-8"))
FROM_BAD = json.loads(RESULT.with_name("tuning-from-bad.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("report", [REPORT, FROM_BAD])
def test_ratios_are_medians_of_epochs_in_turn(report: dict[str, Any]) -> None:
    for model in report["models"].values():
        rates = model["rates"]
        assert {name: len(values) for name, values in rates.items()} == dict.fromkeys(("shipped", "tuned", "bad"), 5)
        for other, ratio in (("shipped", model["to_shipped"]), ("bad", model["to_bad"])):
            assert ratio == statistics.median(a / b for a, b in zip(rates["tuned"], rates[other], strict=True))
        bad = RunSettings(**model["settings"]["bad"])
        assert (bad.schedule, bad.threads, bad.host_threads) == ("serial", 1, 1)


def test_tuned_is_not_slower_than_shipped_and_beats_bad_settings() -> None:
    model = REPORT["models"]["tgn"]
    assert model["to_shipped"] >= 1.0
    assert model["to_bad"] >= 1.1
    for other in REPORT["models"].values():
        assert other["to_shipped"] >= 1.0 or other["settings"]["tuned"] == other["settings"]["shipped"]


def test_tuning_leaves_bad_settings() -> None:
    model = FROM_BAD["models"]["tgn"]
    assert model["settings"]["tuned"] != model["settings"]["bad"]
    assert model["search"]["gain"] > model["search"]["noise"]
    assert model["to_bad"] >= 1.1


@pytest.mark.parametrize(("report", "start"), [(REPORT, "shipped"), (FROM_BAD, "bad")])
def test_first_trial_is_the_start_and_the_choice_is_confirmed(report: dict[str, Any], start: str) -> None:
    for model in report["models"].values():
        first, facts = model["trials"][0], model["search"]
        assert first["point"].items() <= model["settings"][start].items()
        assert first["score"] == 1.0
        assert facts["shipped_kept"] == (model["settings"]["tuned"] == model["settings"][start])
        assert facts["shipped_kept"] or facts["gain"] > facts["noise"]


def test_stage_times_of_the_profile_hold_in_the_next_run() -> None:
    for run in REPORT["models"]["tgn"]["stage_times"]:
        assert run["largest_off"] == max(map(abs, run["off"].values())) <= 0.15


def test_commands_end_in_time() -> None:
    for run in (*REPORT["commands"], *FROM_BAD["commands"]):
        assert run["limit_seconds"] == pytest.approx(1.1 * run["budget"] + 15)
        assert run["wall_seconds"] <= run["limit_seconds"]


def test_importances_are_shares_of_the_searched_settings() -> None:
    model = REPORT["models"]["tgn"]
    shares = importances(model["trials"])
    assert shares.keys() <= model["settings"]["shipped"].keys()
    assert sum(shares.values()) == pytest.approx(1.0)
    trials = [
        {"state": "measured", "score": 1.0 + (threads == 2), "point": {"threads": threads, "prefetch": prefetch}}
        for threads in (1, 2, 4, 8)
        for prefetch in (1, 2, 3, 4)
    ]
    assert importances(trials)["threads"] > 0.9
