"""The committed table of models: complete, equal in JSON and page, and within its limits."""

from __future__ import annotations

import json

import pytest

from bench.report import RESULTS
from bench.studies.models import MODELS, SCHEDULES, TABLE, table

REPORT = json.loads(TABLE.result_path.read_text(encoding="utf-8"))


def test_page_shows_the_committed_runs() -> None:
    assert TABLE.path.read_text(encoding="utf-8") == TABLE.page_with(table(REPORT))


def test_every_model_ran_under_every_schedule_on_both_streams() -> None:
    assert list(REPORT["streams"]) == ["wiki", "uci"]
    for models in REPORT["streams"].values():
        assert list(models) == list(MODELS)
        assert all(list(schedules) == list(SCHEDULES) for schedules in models.values())


@pytest.mark.parametrize("stream", ["wiki", "uci"])
@pytest.mark.parametrize("model", MODELS)
def test_schedules_without_staleness_equal_serial(stream: str, model: str) -> None:
    runs = REPORT["streams"][stream][model]
    for schedule in ("prefetch", "exact"):
        assert runs[schedule]["mean_staleness"] == 0
        assert runs[schedule]["losses"] == runs["serial"]["losses"]


@pytest.mark.parametrize(("model", "least"), [("jodie", 0.88), ("apan", 0.90)])
def test_three_epochs_on_wiki_reach_the_promised_ap(model: str, least: float) -> None:
    runs = REPORT["streams"]["wiki"][model]
    assert runs["serial"]["epochs"] == 3
    assert runs["serial"]["ap"] >= least
    assert runs["exact"]["ap"] == runs["serial"]["ap"]


def test_jodie_is_as_fast_as_promised() -> None:
    report = json.loads((RESULTS / "ranking-cost.json").read_text(encoding="utf-8"))
    assert report["settings"]["jodie"]["events_per_s"] >= 60_000
