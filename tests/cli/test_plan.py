"""The `plan` command as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

TIMES = "sample=2,features=3,memory=2,train=6,update=3"
Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def plan(command: Callable[..., subprocess.CompletedProcess[str]]) -> Run:
    """Run the command; returns its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[object, str, str]:
        done = command("plan", *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def plan_json(plan: Run, *arguments: str) -> dict:
    code, out, err = plan(*arguments, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


def test_json_is_one_object_of_numbers(plan: Run) -> None:
    assert plan_json(plan, "--times", TIMES) == {
        "schedule": "mspipe",
        "period": 6,
        "lower_bound": 6,
        "staleness": 1,
        "starts": {"sample": 0, "features": 2, "memory": 5, "train": 7, "update": 13},
        "utilisation": {"sampler": 2 / 6, "copy_in": 5 / 6, "compute": 1, "copy_out": 0.5},
        "slack": 1,
    }


def test_schedules_and_an_explicit_staleness(plan: Run) -> None:
    assert plan_json(plan, "--times", TIMES, "--schedule", "serial")["period"] == 16
    assert plan_json(plan, "--times", TIMES, "--staleness", "0")["period"] == 11
    three = plan_json(plan, "--times", TIMES, "--staleness", "3")
    assert (three["schedule"], three["period"], three["staleness"], three["slack"]) == ("mspipe", 6, 3, 13)
    fixed = plan_json(plan, "--times", TIMES, "--schedule", "fixed", "--staleness", "2")
    assert (fixed["schedule"], fixed["period"], fixed["staleness"]) == ("fixed", 6, 2)
    assert plan_json(plan, "--times", f"{TIMES},patch=1/2", "--schedule", "exact")["period"] == 6.5
    assert plan_json(plan, "--times", TIMES.replace("6", "0.1"))["starts"]["update"] == 7.1


def test_the_table_states_the_plan_in_words(plan: Run) -> None:
    code, out, err = plan("--times", TIMES)
    assert (code, out) == (0, "")
    for words in ("an iteration every 6, staleness 1", "copy_in", "83%", "may miss the last update", "starts 1 later"):
        assert words in " ".join(err.split())
    assert "may miss no update" in " ".join(plan("--times", TIMES, "--schedule", "serial")[2].split())
    assert "may miss the last 3 updates" in " ".join(plan("--times", TIMES, "--staleness", "3")[2].split())


SHARED = "sample=2,features=3,memory=2,forward=2,backward=4,exchange=9,update=3"


def test_ranks_have_an_exchange_on_the_network(plan: Run) -> None:
    periods = {
        schedule: plan_json(plan, "--times", f"{SHARED}{',patch=1' if schedule == 'exact' else ''}", "--schedule",
                            schedule, *(["--staleness", "1"] if schedule == "fixed" else []))["period"]
        for schedule in ("serial", "prefetch", "mspipe", "fixed", "exact")
    }  # fmt: skip
    assert periods == {"serial": 25, "prefetch": 16, "mspipe": 9, "fixed": 9, "exact": 12}
    assert plan_json(plan, "--times", f"{SHARED},patch=1")["period"] == 9  # only exact has the stage
    err = " ".join(plan("--times", SHARED)[2].split())
    assert "│ exchange │ network │ 9 │ 9 │ 100% │" in err
    assert "holds training up" not in err


def test_a_slow_link_is_said_in_a_line_and_in_json(plan: Run) -> None:
    err = " ".join(plan("--times", SHARED, "--schedule", "prefetch")[2].split())
    assert err.endswith(
        "The exchange holds training up: staleness 1 (--schedule mspipe) would take 9 instead of 16 per iteration; "
        "if the exchange were 2.3 times as fast, no staleness would be needed."
    )
    gain = plan_json(plan, "--times", f"{SHARED},patch=1", "--schedule", "exact")["staleness_gain"]
    assert gain == {"staleness": 1, "period": 9, "faster": 2.25}
    assert "staleness_gain" not in plan_json(plan, "--times", SHARED)


WRONG = {
    ("--times", "sample=x"): "--times: sample=x is not a time; give a number above 0",
    ("--times", "sample"): "--times: 'sample' is not name=time, as in sample=2",
    ("--times", "sample=2,features=3"): "schedule mspipe needs a time for memory, train, update, as in memory=2",
    ("--times", TIMES.replace("=6", "=0")): "--times: train=0 is not a time",
    ("--times", TIMES.replace("=6", "=-6")): "--times: train=-6 is not a time",
    ("--times", TIMES.replace("=6", "=nan")): "--times: train=nan is not a time",
    ("--times", TIMES.replace("=6", "=1e999999999")): "--times: train=1e999999999 is not a time",
    (
        "--times",
        TIMES.replace("train", "trian"),
    ): "schedule mspipe has no stage 'trian'; it has sample, features, memory, train, update; did you mean train?",
    ("--times", f"{TIMES},rest=1"): "schedule mspipe has no stage 'rest'; it has sample, features",
    ("--times", f"{TIMES},train=7"): "--times: train is given twice",
    ("--times", TIMES, "--schedule", "exact"): "schedule exact needs a time for patch",
    ("--times", SHARED, "--schedule", "exact"): "schedule exact needs a time for patch",
    ("--times", f"{TIMES},exchange=1"): "stages train and exchange exclude each other: several ranks have forward",
    ("--times", SHARED.replace("backward=4,", "")): "schedule mspipe needs a time for backward, as in backward=2",
    ("--times", TIMES, "--schedule", "fast"): "schedule 'fast' is not one of serial, prefetch, mspipe, fixed, exact",
    ("--times", TIMES, "--schedule", "fixed"): "schedule fixed needs a staleness, as in --staleness 1",
    ("--times", TIMES, "--schedule", "serial", "--staleness", "1"): "schedule serial misses no update",
    ("--times", TIMES, "--staleness", "-1"): "staleness must be at least 0, not -1",
    (
        "--times",
        TIMES,
        "--staleness",
        "few",
    ): "--staleness must be a whole number, not 'few'. See `mspipe-triton plan --help`.",
    (): "Missing option '--times'",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["", "json"])
def test_wrong_input_is_one_line_and_exit_2(arguments: tuple[str, ...], more: tuple[str, ...], plan: Run) -> None:
    code, out, err = plan(*arguments, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mspipe-triton: ")
    assert WRONG[arguments] in err
