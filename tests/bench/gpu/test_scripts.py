"""Tests of the GPU scripts' units on the CPU, on tiny streams: checks, measurements and reports of failures."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cases.registry import OPERATIONS
from bench.gpu.bundle import references
from bench.gpu.measures import kernel_checks, resident_checks, schedules, tuned
from bench.gpu.measures.kernel_checks import QUICK, Checker
from bench.gpu.report import Report, header
from bench.gpu.scripts import everything, first, kept, second
from bench.gpu.setup import ALL_MODELS, WAYS, Setup
from bench.gpu.units import Phase
from bench.gpu.wording import complete, show
from bench.report import checkout, versions
from bench.variants import variant
from mspipe_triton.errors import TrainingError
from mspipe_triton.tuning.profile.profile import Profile
from mspipe_triton.tuning.runs.gate import RunGate

ROOT = Path(__file__).resolve().parents[3]
SETUP = Setup("cpu", quick=True, seed=1)
NAMES = ["unique_nodes", "memory_gru", "aggregate_messages-mean"]


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    with variant("eager"):
        yield


@pytest.fixture
def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the shipped settings without fused loops: to compile them takes longer than all the rest."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def rows(phases: list[Phase], *parts: str, names: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    """Run the units of some parts in this process; return their rows by section."""
    sections: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit in (unit for phase in phases for unit in phase.units if unit.part in parts):
        if not names or unit.case[0] in names:
            for section, row in unit.function(SETUP, *unit.case):
                sections[section].append(row)
    return sections


def test_kernels_are_checked_in_the_interpreter() -> None:
    checks = rows(first.phases(SETUP), "values", "kernels", "deterministic", names=tuple(NAMES))["correctness"]
    titles = {(check["operation"], check["check"]) for check in checks}
    assert {(name, check) for name in NAMES for check in ("values", "refusals", "deterministic")} <= titles
    assert {("unique_nodes", "races"), ("memory_gru", "count")} <= titles
    assert all(check["passed"] for check in checks)
    gru = [check for check in checks if (check["operation"], check["check"]) == ("memory_gru", "values")]
    assert all({"error", "allowed"} <= entry.keys() for check in gru for entry in check["results"].values())
    assert {f"d_{name}" for name in OPERATIONS["memory_gru"].leaves} <= {
        name for check in gru for name in check["results"]
    }


def test_a_check_that_raises_is_reported_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(kernel_checks, "judge", fail)
    checker = Checker("unique_nodes", SETUP)
    checks = [*checker.values(QUICK.name), *checker.behaviour()]
    assert {check["check"] for check in checks if not check["passed"]} == {"values", "races"}
    assert all("no such luck" in check["message"] for check in checks if not check["passed"])
    assert checks[-1]["check"] == "refusals"
    assert checks[-1]["passed"]
    assert {check["shape"] for check in checks} == {str(QUICK)}


@pytest.mark.slow
def test_resident_training_is_checked_and_measured() -> None:
    sections = rows(first.phases(SETUP), "losses", "iteration", "roofline", "steps", "pyg")
    assert all(check["passed"] for check in sections["correctness"])
    titles = {(check["check"], check["model"], check.get("way")) for check in sections["correctness"]}
    ways = [way for way, settings in WAYS.items() if settings.captured]
    assert set(product(("losses", "scores and ranks"), resident_checks.VARIANTS, ways)) <= titles
    assert {("one iteration, float32", model, None) for model in ALL_MODELS} <= titles
    assert not any(check["reference_kept"] for check in sections["correctness"])
    report = complete({"measured": {"roofline": sections["roofline"][0], "steps": sections["steps"]}})
    steps = report["measured"]["steps"]
    assert [row["model"] for row in steps] == ["tgn"]
    assert all(row["events_per_s"] > 0 and row["share_of_floor"] > 0 and not row["overflowed"] for row in steps)
    assert sections["pyg"][0]["ratio"] > 0


def test_kernels_are_timed() -> None:
    timings = rows(first.phases(SETUP), "timings")["timings"]
    both = {"memory_gru", "attention_layer", "link_loss"}
    directions = {(row["operation"], row["direction"]) for row in timings if "seconds" in row}
    assert directions == {*((name, "forward") for name in first.MAIN), *((name, "both") for name in both)}


@pytest.mark.slow
def test_schedules_are_checked_and_measured() -> None:
    sections = rows(second.phases(SETUP), "schedules", "host", "steps")
    checks = sections["correctness"]
    assert all(check["passed"] for check in checks)
    names = {(check["model"], check["schedule"]) for check in checks if check["check"] == "losses"}
    assert names == set(product(ALL_MODELS, schedules.CHECKS))
    for name in schedules.SCHEDULES:
        row = sections["host"][0][name]
        assert row["share_of_allowed"] == pytest.approx(row["speed_ratio"] / row["allowed_ratio"])
        assert {"sample", "features", "memory", "train", "update"} <= row["stage_seconds"].keys()
    assert [row["model"] for row in sections["steps"]] == list(ALL_MODELS[1:])


@pytest.mark.slow
@pytest.mark.usefixtures("_unfused")
def test_tuning_is_measured() -> None:
    sections = rows(second.phases(SETUP), "tuning")
    assert Profile.from_json(sections["tuned"][0]["profile"]).search["trials"] >= 1


def test_all_settings_have_units() -> None:
    cases = [unit.case for phase in second.phases(SETUP) for unit in phase.units if unit.part == "settings"]
    ways = set(product(("tgn",), ("serial", "exact"), ("host", "device"), ("copy", "kernel")))
    assert (len(cases), set(cases)) == (len(ways), ways)


@pytest.mark.sample(3)
@pytest.mark.parametrize("gather", ["copy", "kernel"])
@pytest.mark.parametrize("features", ["host", "device"])
@pytest.mark.parametrize("schedule", ["serial", "exact"])
@pytest.mark.usefixtures("_unfused")
def test_settings_are_checked(schedule: str, features: str, gather: str) -> None:
    ((section, row),) = tuned.checks(SETUP, "tgn", schedule, features, gather)
    assert (section, row["check"], row["passed"]) == ("correctness", "settings", True), row
    assert (row["schedule"], row["features"], row["gather"]) == (schedule, features, gather)


@pytest.mark.parametrize(("target", "passed"), [("stub", None), ("cpu", False)])
def test_a_loss_that_is_not_finite_fails_no_check_on_a_stub(
    target: str, passed: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(*_: Any) -> None:
        raise TrainingError("the loss is nan in epoch 1, iteration 0")

    monkeypatch.setattr(RunGate, "refusal", refusal)
    ((section, row),) = tuned.checks(Setup(target, quick=True), "tgn", "serial", "host", "copy")
    assert (section, row["passed"], row["reason"][:15]) == ("correctness", passed, "the loss is nan")


@pytest.mark.slow
def test_precisions_are_compared() -> None:
    checks = rows(second.phases(SETUP), "precision")["correctness"]
    assert {check["precision"] for check in checks} == {"tf32", "bf16"}


def test_the_long_script_also_measures_stages_and_schedules() -> None:
    sections = rows(everything.phases(SETUP)[-2:], "stages", "schedules")
    assert [row["model"] for row in sections["stages"]] == ["tgn", "jodie", "apan"]
    assert {"serial", "exact", "resident"} <= sections["schedules"][0]["ms"].keys()


def test_the_long_script_measures_every_size_once() -> None:
    steps = [unit.case for phase in everything.phases(Setup()) for unit in phase.units if unit.part == "steps"]
    assert len(set(steps)) == len(steps)
    assert len(steps) == 3 * 4 * len(ALL_MODELS)


def test_the_first_script_measures_the_targets_first() -> None:
    correctness, headline, timings = first.phases(Setup())
    assert all(unit.checks for unit in correctness.units)
    assert [unit.case for unit in headline.units if unit.part == "steps"][:2] == [
        ("WIKI", 600, "tgn"),
        ("WIKI", 4000, "tgn"),
    ]
    assert {unit.case[0] for unit in timings.units} == set(first.MAIN)
    assert correctness.seconds <= 130
    assert headline.seconds <= 150
    assert timings.seconds <= 60


def test_references_are_stored_and_used_only_for_the_same_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup("cpu", quick=True, references=tmp_path)
    for unit in kept.phases(setup)[0].units:
        if unit.case[0] == "jodie":
            assert list(unit.function(setup, *unit.case))
    assert sorted(path.stem for path in tmp_path.iterdir()) == [
        "iteration jodie", "losses jodie", "schedule jodie fixed 2", "schedule jodie serial",
    ]  # fmt: skip
    units = [(resident_checks.losses, "captured, branch"), (resident_checks.iteration,), (schedules.losses, "fixed 2")]
    for function, *case in units:
        for _, check in function(setup, "jodie", *case):
            assert check["passed"]
            assert check["reference_kept"]
    monkeypatch.setattr(references, "fingerprint", lambda stream: "another")
    for _, check in schedules.losses(setup, "jodie", "serial"):
        assert check["passed"]
        assert not check["reference_kept"]


def test_wrong_losses_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = resident_checks.serial_run(SETUP, "jodie")
    wrong = {**right, "losses": right["losses"] * (1 + 1e-8)}
    monkeypatch.setattr(resident_checks, "serial_run", lambda *_: wrong)
    losses, scores = (check for _, check in resident_checks.losses(SETUP, "jodie", "captured, branch"))
    assert not losses["passed"]
    assert scores["passed"]


def test_failures_and_figures_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path / "report.json", header(SETUP, "command", "abc"))
    for number in range(20):
        report.add("correctness", {"check": "losses", "model": f"m{number}", "relative_error": 1.0, "passed": False})
    report.add("correctness", {"check": "losses", "model": "other", "passed": None})
    report.add("pyg", {"batch_size": 600, "ratio": 51.0, "events_per_s": {"pyg": 1.0}})
    show(report.data)
    output = capsys.readouterr().out
    assert output.count("FAILED") == 12
    assert "PyG's TGN, B 600: ours is 51.0 times as fast" in output
    assert "target: speedup over PyG's TGN, B 600, at least 50: met, 51" in output
    assert "0 passed, 20 failed, 1 launched but not judged" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["third", "out"],
        ["first", "a-file"],
        ["first", "out"],
        ["first", "out", "--target", "cpu", "--only", "x"],
        ["first", "out", "--target", "cpu", "--only", "timings", "--parts", "roofline"],
        ["first", "out", "--target", "cpu", "--kit", "."],
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setattr(sys, "argv", ["bench.gpu", arguments[0], str(tmp_path / arguments[1]), *arguments[2:]])
    with pytest.raises(SystemExit) as error:
        importlib.import_module("bench.gpu.__main__").main()
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_in_a_report_has_no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    main = importlib.import_module("bench.gpu.__main__")
    words = ["first", "/tmp/x/out", "--kit", "/tmp/x/kit", "--began", "1.5", "--prewarm", "--target", "stub"]
    monkeypatch.setattr(sys, "argv", ["bench.gpu", *words])
    assert main.command(True) == "bench/gpu/run.sh first OUT BUNDLE --target stub"
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "second", "out", "--only", "tuning"])
    assert main.command(False) == "python -m bench.gpu second OUT --only tuning"


def test_the_shell_script_prints_its_usage_and_what_is_missing(tmp_path: Path) -> None:
    script = ["bash", str(ROOT / "bench" / "gpu" / "run.sh")]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("usage:")
    options = ["first", str(tmp_path / "out"), str(tmp_path)]
    environment = {**os.environ, "PYTHON": "/bin/false"}
    run = subprocess.run([*script, *options], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 2
    assert "/bin/false lacks a package" in run.stderr


def test_versions_and_commit_of_a_report() -> None:
    assert versions()["torch"] == torch.__version__
    assert re.fullmatch(r"unknown|[0-9a-f]{40}\+?", checkout())
