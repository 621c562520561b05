"""The page that compares runs: results side by side, settings that differ, and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipe_triton.config import RunConfig
from mspipe_triton.report.page import page_text, write_report
from mspipe_triton.report.runs import Run
from tests.report.written import Page, metrics, result, write_run


def compare(*folders: Path) -> str:
    return Page(page_text([Run.read(folder) for folder in folders])).text


def test_results_are_side_by_side_and_the_best_is_marked(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", end=result(3))
    better = result(2, peak_rss_mb=900.0)
    better["test"] = better["test"] | {"ap": 0.9812}
    lines = [metrics(1, events_per_s=9000.0), metrics(2, events_per_s=8000.0, seconds=5.0)]
    second = write_run(tmp_path / "second", RunConfig().with_flags({"lr": 0.01}), lines, better)
    text = compare(first, second)
    assert "2 runs compared tgn on shop" in text
    assert "test AP 0.9712 ★ 0.9812" in text
    assert "test AUC 0.9634 0.9634" in text, "no star where all agree"
    assert "training events/s 5,000 ★ 9,000" in text
    assert "memory of the process, MiB ★ 812 900" in text
    assert "Training: lr 0.001 0.01" in text
    assert "Training: schedule mspipe auto" in text
    assert "Model: dim" not in text
    assert "do not compare" not in text


def test_runs_with_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "run", end=result(3)) for place in ("a", "b")]
    text = compare(*folders)
    assert "Results a/run b/run test AP" in text
    assert "All settings of the runs agree." in text


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    first, other = write_run(tmp_path / "a", end=result(3)), write_run(tmp_path / "b", name="bank")
    assert "different data, so their scores do not compare: a shop, b bank." in compare(first, other)
    assert "b: Training has not finished" in compare(first, other)
    ranked = result(3)
    ranked["test"] = ranked["test"] | {"candidates": 99}
    assert "their MRRs do not compare" in compare(first, write_run(tmp_path / "c", end=ranked))


def test_many_runs_get_lines_that_differ(tmp_path: Path) -> None:
    runs = [Run.read(write_run(tmp_path / f"run{number}", end=result(3))) for number in range(9)]
    text = page_text(runs)
    keys = {(number, f"#key-d{(number + number // 8) % 4}") for number in range(9)}
    assert all(dash in text for _, dash in keys)
    assert len({(number % 8, dash) for number, dash in keys}) == 9


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"batch_size": 200}, "batch-size differs"),
        ({"seed": 4}, "seed differs"),
        ({"protocol": "tgb", "batch_size": 200}, "batch-size and protocol differ"),
    ],
)
def test_scores_on_other_negatives_have_no_star(flags: dict[str, int | str], what: str, tmp_path: Path) -> None:
    better = result(3, peak_rss_mb=900.0)
    better["test"] = better["test"] | {"ap": 0.9812}
    first = write_run(tmp_path / "first", end=result(3))
    text = compare(first, write_run(tmp_path / "second", RunConfig().with_flags(flags), end=better))
    assert f"Scores are on different negatives ({what}); compare each with its own baselines." in text
    assert "test AP 0.9712 0.9812" in text
    assert "memory of the process, MiB ★ 812 900" in text


def test_only_an_mrr_among_other_candidates_has_no_star(tmp_path: Path) -> None:
    other = result(3)
    other["test"] = other["test"] | {"candidates": 99, "ap": 0.9812, "mrr": 0.9}
    text = compare(write_run(tmp_path / "a", end=result(3)), write_run(tmp_path / "b", end=other))
    assert "test AP 0.9712 ★ 0.9812" in text
    assert "test MRR 0.8751 0.9000" in text
    assert "different negatives" not in text


def test_a_run_without_a_value_differs_in_none(tmp_path: Path) -> None:
    text = compare(write_run(tmp_path / "a", end=result(3)), write_run(tmp_path / "b"))
    assert "All settings of the runs agree." in text


def test_the_runs_of_several_seeds_are_compared(tmp_path: Path) -> None:
    for seed in (10, 9):
        write_run(tmp_path / "s" / f"seed-{seed}", RunConfig().with_flags({"seed": seed}), end=result(3))
    target = write_report([str(tmp_path / "s")])
    assert target == tmp_path / "s" / "comparison.html"
    text = Page(target.read_text(encoding="utf-8")).text
    assert "Results seed-9 seed-10 test AP" in text
    assert "(seed differs)" in text
