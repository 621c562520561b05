"""Studies that prove pipelined runs: summaries and tables by hand, small runs, and what the committed results show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.graphpipe_runs import deaths, equal
from bench.studies import graphpipe_deaths, graphpipe_equal
from bench.studies.graphpipe_deaths import PROCESSES, SIGNALS, WAYS
from bench.studies.graphpipe_equal import DTYPES, OPTIMIZERS
from tests.pipeline.graphpipe.run.harness import TOLERANCE
from tests.pipeline.graphpipe.run.layouts import NAMED
from tests.processes.pool import pool

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def result(name: str) -> Any:
    return json.loads((RESULTS / f"graphpipe-{name}.json").read_text(encoding="utf-8"))


def case(error: float, in_flight: int, activations: float) -> dict[str, Any]:
    """A model's facts: two stages, the first as planned, and errors ten times as small in float64."""
    facts = {
        dtype: {
            "errors": {"gradients": error * scale, "losses": error * scale / 2, "state": error * scale / 4},
            "in_flight": {"planned": [2, 1], "measured": [2, in_flight]},
            "activations": {"planned": [4096, 1000], "measured": [4096, activations]},
        }
        for dtype, scale in (("float32", 1), ("float64", 0.1))
    }
    stages = [{"devices": 1, "micro_batch": 4}, {"devices": 2, "micro_batch": 3}]
    return {"depth": 2, "chain": False, "stages": stages, **facts}


CASES = {"small": {"3": case(4e-7, 1, 900)}, "large": {"3": case(8e-7, 2, 1008)}}
ROWS = [
    {"way": way, "sign": sign, "rank": rank, "seconds": seconds, "named": named, "left_over": 0}
    for way, sign, rank, seconds, named in (
        ("launcher", "killed", 0, 0.5, True),
        ("torchrun", "killed", 0, 5, True),
        ("launcher", "killed", 1, 1, False),
        ("launcher", "killed", 2, 0.25, True),
        ("launcher", "stopped", 1, 31, True),
    )
]


def test_the_summary_of_errors_by_hand() -> None:
    summary = graphpipe_equal.summary([facts for rows in CASES.values() for facts in rows.values()])
    assert summary["largest_error"]["float32"] == {"gradients": 8e-7, "losses": 4e-7, "state": 2e-7}
    assert summary["largest_error"]["float64"]["gradients"] == pytest.approx(8e-8)
    assert summary["activations"] == {"least_ratio": 0.9, "largest_ratio": 1.008}
    assert (summary["stages"], summary["other_in_flight"]) == (4, 2), "one stage of the second, in both types"


def test_the_tables_of_errors_and_memory_by_hand() -> None:
    facts = [each for rows in CASES.values() for each in rows.values()]
    tolerance = {"float32": 1e-5, "float64": 1e-12}
    lines = equal({"models": CASES, "tolerance": tolerance, **graphpipe_equal.summary(facts)}).splitlines()
    largest = "8.0e-07 | 4.0e-07 | 2.0e-07 | 8.0e-08 | 4.0e-08 | 2.0e-08 |"
    assert "| small | 3 | 1 × 4, 2 × 3 | 2 | 4.0e-07 | 2.0e-07 | 1.0e-07 | 4.0e-08 | 2.0e-08 | 1.0e-08 |" in lines
    assert f"| largest |  |  |  | {largest}" in lines
    assert f"| limit of the tests |  |  |  |{' 1.0e-05 |' * 3}{' 1.0e-12 |' * 3}" in lines
    assert lines[-1] == "| large | 3 | 1 × 4, 2 × 3 | 2 · 1 | 2 · 2 | 4,096 · 1,000 | 4,096 · 1,008 |"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 2, "two tables"


def test_the_summary_and_the_table_of_deaths_by_hand() -> None:
    summary = graphpipe_deaths.summary(ROWS)
    assert summary["killed"]["launcher"] == {
        "runs": 3, "median": 0.5, "least": 0.25, "largest": 1, "named": 2, "left_over": 0,
    }  # fmt: skip
    assert deaths({"summary": summary}).splitlines()[2:] == [
        "| is killed | the command | 3 | 0.5 | 0.2 | 1.0 | 2 | 0 |",
        "| is killed | torchrun | 1 | 5.0 | 5.0 | 5.0 | 1 | 0 |",
        "| stops answering | the command | 1 | 31.0 | 31.0 | 31.0 | 1 | 0 |",
    ]


def test_the_committed_runs_are_equal_to_the_module() -> None:
    report = result("equal")
    cases = [facts for rows in report["models"].values() for facts in rows.values()]
    assert {name: set(rows) for name, rows in report["models"].items()} == {name: {"2", "3", "4"} for name in NAMED}
    summary = graphpipe_equal.summary(cases)
    assert {name: report[name] for name in summary} == summary
    assert report["tolerance"] == {name: TOLERANCE[dtype] for name, dtype in DTYPES.items()}
    assert report["optimizers"] == OPTIMIZERS
    for dtype, errors in report["largest_error"].items():
        assert max(errors.values()) <= report["tolerance"][dtype]
    assert report["other_in_flight"] == 0


@pytest.mark.parametrize("name", ["equal", "deaths"])
def test_the_page_has_the_commands_of_the_committed_runs(name: str) -> None:
    page = RESULTS.parents[1] / "docs" / "measured" / "graphpipe-run.md"
    assert result(name)["command"] in page.read_text(encoding="utf-8").splitlines()


def test_the_committed_deaths_name_the_process_and_leave_none() -> None:
    report = result("deaths")
    assert report["summary"] == graphpipe_deaths.summary(report["runs"])
    for sign in SIGNALS:
        for way in WAYS:
            runs = [run for run in report["runs"] if (run["sign"], run["way"]) == (sign, way)]
            assert {run["rank"] for run in runs} == (set(range(PROCESSES)) if sign == "killed" else {1})
            facts = report["summary"][sign][way]
            assert (facts["named"], facts["left_over"]) == (len(runs), 0)
    assert max(run["seconds"] for run in report["runs"] if run["sign"] == "killed") < 10


@pytest.mark.slow
def test_a_small_run_of_the_study_of_errors() -> None:
    with pool(2) as processes:
        report = graphpipe_equal.measure(processes, {"two-branch": {2: NAMED["two-branch"][2]}})
    facts = report["models"]["two-branch"]["2"]
    assert facts["stages"] == [{"devices": 1, "micro_batch": 4}] * 2
    assert facts["float64"]["in_flight"] == {"planned": [2, 1], "measured": [2, 1]}
    assert 0 < report["largest_error"]["float64"]["state"] < 1e-12 < report["largest_error"]["float32"]["state"] < 1e-5


@pytest.mark.slow
def test_a_small_run_of_the_study_of_deaths() -> None:
    report = graphpipe_deaths.measure(repeats=1, stops=0)
    assert [(run["way"], run["rank"], run["named"], run["left_over"]) for run in report["runs"]] == [
        (way, 0, True, 0) for way in WAYS
    ]
