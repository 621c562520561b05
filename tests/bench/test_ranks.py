"""Studies of runs on several ranks: plans, summaries and tables by hand, small runs, and the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.ranks_runs import deaths, equal, sleeping, speed
from bench.studies import ranks_deaths, ranks_equal, ranks_sleeping, ranks_speed
from bench.studies.groups import Groups, in_processes
from bench.studies.ranks_equal import HUB, Job, difference, gathered_bytes
from bench.studies.ranks_sleeping import Case, RankStages, planned
from mspipe_triton.distributed.ranks import ALONE, Ranks

ROOT = Path(__file__).resolve().parents[2]
COSTS = {"start": 1.0, "gather": 2.0, "reduce": 5.0}  # milliseconds
QUARTER = Ranks(0, 4)


def result(name: str) -> Any:
    return json.loads((ROOT / "bench" / "results" / f"ranks-{name}.json").read_text(encoding="utf-8"))


def row(schedule: str, ranks: int, planned: float, measured: float, slow: bool = False) -> dict[str, Any]:
    facts = {"schedule": schedule, "slow": slow, "ranks": ranks, "staleness": 0, "costs_ms": COSTS, "gain": 1.25}
    return {**facts, "planned_ms": planned, "measured_ms": measured}


ROWS = [
    row("serial", 1, 400, 404), row("serial", 1, 400, 400), row("serial", 1, 400, 480),
    row("serial", 4, 100, 101), row("serial", 4, 125, 125), row("serial", 4, 100, 150),
    *[row("exact", 4, 80, 84, slow=True)] * 3, *[row("mspipe", 4, 60, 63, slow=True)] * 3,
]  # fmt: skip


def test_a_share_sleeps_less_except_for_what_every_rank_writes() -> None:
    whole, part = (RankStages(ranks).sleeps(Case("exact")) for ranks in (ALONE, QUARTER))
    assert list(whole) == ["sample", "features", "memory", "patch", "train", "update"]
    assert list(part) == ["sample", "features", "memory", "patch", "forward", "backward", "exchange", "update"]
    assert part["sample"] == whole["sample"] / 4
    assert part["update"] == whole["update"] == ranks_sleeping.UPDATE
    assert part["exchange"] == ranks_sleeping.COMPOSE
    assert whole["train"] == 4 * (part["forward"] + part["backward"]) + ranks_sleeping.COMPOSE
    assert RankStages(QUARTER).sleeps(Case("exact", link=9))["exchange"] == ranks_sleeping.COMPOSE + 9


def test_a_plan_adds_the_exchanges_to_the_sleeps() -> None:
    sleeps = {"sample": 1, "features": 1, "memory": 1, "forward": 10, "backward": 20, "exchange": 3, "update": 1}
    serial = planned(sleeps, COSTS, Case("serial"))
    assert float(serial.period) == pytest.approx(0.037 + 0.008)
    assert float(planned(sleeps, COSTS, Case("fixed", 1)).period) == pytest.approx(0.030 + 0.006)
    slow = {"patch": 1, **sleeps, "exchange": 43}
    names = ("sample", "features", "memory", "patch", "forward", "backward", "exchange", "update")
    held_up = planned({name: slow[name] for name in names}, COSTS, Case("exact"))
    assert float(held_up.period) == pytest.approx(0.001 + 0.011 + 0.045), "the patch waits for the exchange"


def test_the_engine_runs_the_stages_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_sleeping, "SHARED", dict.fromkeys(ranks_sleeping.SHARED, 0.5))
    stages = RankStages(ALONE)
    assert stages.costs() == {"start": 0.0, "gather": 0.0, "reduce": 0.0}
    for case in ranks_sleeping.CASES:
        facts = ranks_sleeping.run(stages, case, stages.costs(), iterations=8)
        assert facts["planned_ms"] == pytest.approx(float(planned(stages.sleeps(case), COSTS, case).period) * 1e3)
        assert facts["measured_ms"] > 0
        assert facts["staleness"] <= 1
        assert facts["gain"] == 1, "nothing is exchanged"


def test_the_summary_and_the_table_of_ranks_that_sleep_by_hand() -> None:
    summary = ranks_sleeping.summary(ROWS)
    case = summary["cases"]["serial"]["4"]
    assert (case["planned_ms"], case["measured_ms"], case["measured_over_planned"]) == (100, 125, 1.25)
    assert (case["planned_speed"], case["speed"]) == (4, 3.2), "medians of the ratios of each turn"
    assert summary["least_speed"] == {"1": 1, "4": 3.2}
    assert summary["gain"] == {"planner": 1.25, "measured": pytest.approx(84 / 63)}
    assert (summary["least_ratio"], summary["largest_ratio"]) == (404 / 400, 1.25)
    lines = sleeping({"link_ms": 9, "slow_ranks": 4, **summary}).splitlines()
    assert "| serial | 4 | 0 | 100.0 | 125.0 | 1.25 | 4.00 | 3.20 |" in lines
    assert "| mspipe | 4 | 0 | 60.0 | 63.0 | 1.05 | 1.33 | 1.33 |" in lines
    assert "Of staleness, the planner promises 1.25 times the speed of `exact`, and it gained 1.33." in lines
    assert lines[-1] == "| 4 | 1.00 | 2.00 | 5.00 |"


def test_the_bytes_of_a_batch_by_hand() -> None:
    # Nodes 7, 8, 9 and 5, in order of first occurrence. Rank 0 has the first two events, rank 1 the third.
    # 7 is at places 0 and 1 (0 mod 2: place 0, rank 0), 8 at 2 (rank 1), 9 at 3 and 5 (2 mod 2: place 3, rank 0),
    # and 5 at 4 (rank 0): rank 0 sends 3 rows.
    src, dst = [7, 7, 8], [9, 5, 9]
    assert gathered_bytes(src, dst, size=4, ranks=2, dim=5) == 2 * (8 + 8 * 3 + 3 * 5 * 8)
    assert gathered_bytes(src, dst, size=4, ranks=2, dim=1, itemsize=4) == 2 * (8 + 8 * 3 + 16)


def test_a_difference_is_relative_to_the_largest_entry() -> None:
    one, other = {"a": torch.tensor([1.0, -4.0]), "b": torch.zeros(0)}, {"a": torch.tensor([1.5, -4.0])}
    assert difference(other, one) == 0.125
    assert difference(one, one) == 0


def outcome(replica: str, ranks: int, losses: float, gathered: float) -> dict[str, Any]:
    key = {"stream": "uci", "model": "tgn", "schedule": "serial", "ranks": ranks, "iterations": 9, "events": 90}
    facts = {"losses": losses, "weights": 2 * losses, "state": 0.0, "gathered": gathered, "reduced": 16.0}
    return {**key, **facts, "formula": 1000.0 if ranks > 1 else 0.0, "digest": replica}


def test_the_summary_and_the_tables_of_equality_by_hand() -> None:
    first = [outcome("a", 1, 0.0, 0.0), outcome("b", 2, 1e-12, 1000.0), outcome("c", 4, 2e-12, 1008.0)]
    others = [outcome("b", 2, 0.0, 1000.0), outcome("d", 4, 0.0, 1008.0)]
    summary = ranks_equal.summary([first, others])
    assert summary["largest"] == {"losses": 2e-12, "weights": 4e-12, "state": 0}
    assert (summary["other_bytes"], summary["other_replicas"]) == (1, 1)
    assert len(summary["runs"]) == 3
    lines = equal(summary).splitlines()
    assert "| uci | tgn | serial | 2 | 9 | 1.0e-12 | 2.0e-12 | 0 |" in lines
    assert "| largest |  |  |  |  | 2.0e-12 | 4.0e-12 | 0 |" in lines
    assert lines[-1] == "| uci | tgn | 4 | 1,008 | 1,000 | 16 |"


def epoch(ranks: int, rate: float, stages: dict[str, float]) -> dict[str, Any]:
    key = {"batch_size": 600, "schedule": "serial", "ranks": ranks, "threads": 1}
    return {**key, "events_per_s": rate, "seconds": 0.1, "reduce_seconds": 0.01, "stage_seconds": stages}


def test_the_summary_and_the_table_of_speed_by_hand() -> None:
    alone, shared = {"train": 0.08}, {"forward": 0.02, "backward": 0.04, "exchange": 0.005}
    rows = [*(epoch(1, rate, alone) for rate in (100, 200)), *(epoch(2, rate, shared) for rate in (150, 200))]
    first, second = ranks_speed.summary(rows)
    assert (first["ratio"], second["ratio"], second["events_per_s"]) == (1, 1.25, 175)
    assert second["exchange_share"] == pytest.approx(0.15)
    lines = speed({"runs": [first, second]}).splitlines()
    assert lines[-2].startswith("| 600 | serial | 1 × 1 | 150 | 1.00 | 100.0 |  | 80.0 |")
    assert lines[-1] == "| 600 | serial | 2 × 1 | 175 | 1.25 | 100.0 |  |  | 20.0 | 40.0 | 5.0 |  | 10.0 | 15% |"


def test_the_difference_of_two_runs_by_hand(tmp_path: Path) -> None:
    for name, losses, scores in (
        ("a", [1.0, 2.0], {"mrr": 0.5, "ap": 0.8}),
        ("b", [1.0, 2.5], {"ap": 0.8, "mrr": 0.4}),
    ):
        (tmp_path / name).mkdir()
        text = json.dumps({"losses": losses, "val": {}, "test": {"inductive": scores}, "seconds": len(name)})
        (tmp_path / name / "result.json").write_text(text, encoding="utf-8")
    assert ranks_deaths.difference(tmp_path / "a", tmp_path / "b") == pytest.approx(0.25)
    assert ranks_deaths.difference(tmp_path / "a", tmp_path / "a") == 0


def test_complete_epochs_are_whole_lines_without_events(tmp_path: Path) -> None:
    assert ranks_deaths.epochs_of(tmp_path) == []
    text = '{"event": "plan"}\n{"epoch": 1}\n{"epoch": 2}'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert ranks_deaths.epochs_of(tmp_path) == [{"epoch": 1}]


def test_the_table_of_deaths_by_hand() -> None:
    row = {"way": "launcher", "rank": 1, "seconds": 0.62, "named": True, "difference": 0.0, "seconds_lost": None}
    other = {**row, "way": "torchrun, restarts", "named": False, "difference": 2e-15, "seconds_lost": 7.25}
    assert deaths({"runs": [row, other]}).splitlines()[2:] == [
        "| `--nproc` | 1 | 0.6 | yes | `--resume` | 0 |  |",
        "| torchrun `--max-restarts 1` | 1 | 0.6 | no | itself | 2.0e-15 | 7.2 |",
    ]


@pytest.mark.parametrize("name", ["sleeping", "equal", "speed"])
def test_the_page_has_the_commands_of_the_committed_runs(name: str) -> None:
    page = ROOT / "docs" / "measured" / "ranks.md"
    assert result(name)["command"] in page.read_text(encoding="utf-8").splitlines()


def test_the_committed_runs_are_equal_to_one_rank() -> None:
    report = result("equal")
    assert {(each["model"], each["schedule"], each["ranks"]) for each in report["runs"]} == {
        (model, schedule, ranks)
        for model in ranks_equal.MODELS
        for schedule in ranks_equal.SCHEDULES
        for ranks in ranks_equal.RANKS
    }
    assert {each["stream"] for each in report["runs"]} == {"uci", HUB}
    assert max(report["largest"].values()) <= report["tolerance"] == ranks_equal.TOLERANCE
    assert (report["other_bytes"], report["other_replicas"]) == (0, 0)


def meet(groups: Groups) -> list[list[float]]:
    """Gather the ranks' numbers in groups of 1, 2 and 2 processes."""
    gathered = []
    for count in (1, 2, 2):
        with groups.of(count) as ranks:
            if ranks is not None:
                (numbers,) = ranks.gather([torch.tensor([ranks.rank + 1.0])]).wait()
                gathered.append(numbers.flatten().tolist())
    return gathered


def wait_for_nobody(groups: Groups) -> None:
    """Form a group in process 0 alone, which never gets its second rank."""
    if groups.rank == 0:
        with groups.of(2):
            pass


@pytest.mark.slow
def test_processes_form_one_group_after_the_other() -> None:
    assert in_processes(meet, 2) == [[[1.0], [1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]]


@pytest.mark.slow
def test_processes_that_do_not_end_are_killed() -> None:
    with pytest.raises(TimeoutError, match="1 processes have not ended within 8 s"):
        in_processes(wait_for_nobody, 1, limit=8)


@pytest.mark.slow
def test_small_runs_of_the_studies() -> None:
    rows = in_processes(ranks_sleeping.work, 2, (1, 2), ranks_sleeping.CASES[:1], 6, 1)[0]
    assert [(each["schedule"], each["ranks"]) for each in rows] == [("serial", 1), ("serial", 2)]
    assert ranks_sleeping.summary(rows)["cases"]["serial"]["2"]["planned_speed"] > 1.5
    job, models = Job(HUB, 700, 150, 8), {name: ranks_equal.MODELS[name] for name in ("tgn", "apan")}
    summary = ranks_equal.summary(in_processes(ranks_equal.work, 2, (1, 2), [job], models))
    assert 0 < max(summary["largest"].values()) < 1e-9
    assert (summary["other_bytes"], summary["other_replicas"], len(summary["runs"])) == (0, 0, 8)
