"""Tests of the GPU scripts' supervisor: however a unit ends, the report is complete and the other units still run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.report import Report, header
from bench.gpu.setup import Setup
from bench.gpu.supervisor import run
from tests.bench.gpu.failing_script import phases

SCRIPT = "tests.bench.gpu.failing_script"
FINE = [("fine", name, True) for name in "abc"]


def run_phase(folder: Path, name: str) -> tuple[int, dict[str, Any]]:
    """Run a phase of the script; return the exit code and the report."""
    setup = Setup("cpu", quick=True)
    report = Report(folder / "out" / "report.json", header(setup, "python -m bench.gpu", "abc"))
    code = run(SCRIPT, [phase for phase in phases(setup) if phase.name == name], setup, report)
    return code, json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def checks(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(check["check"], check["case"], check["passed"]) for check in report["correctness"]]


@pytest.mark.slow
def test_units_that_raise_exit_or_hang_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.EXIT_SECONDS", 0.2)
    code, report = run_phase(tmp_path, "mixed")
    assert code == 1
    before = ["it raises", "it raises", "it ends", "it hangs", "it lingers"]
    assert [row["before"] for row in report["measured"]["figures"]] == before  # earlier rows stay
    assert checks(report) == [("check", "check", False), ("ends", "ends", False), *FINE]
    assert report["correctness"][1]["message"] == "exit code 3\nwhere it was"
    assert [row["case"] for row in report["failed"]] == ["figure", "hangs", "lingers"]
    assert report["failed"][0]["message"] == "RuntimeError: no such luck"
    assert report["failed"][1]["message"].startswith("cut off at its limit")
    assert report["failed"][2]["message"].startswith("hangs at exit")
    assert (report["phases"]["mixed"]["units"], report["phases"]["mixed"]["cut_off"]) == (5, 3)
    assert {"device", "commit", "command", "versions", "machine", "date"} <= report.keys()
    assert (report["device"], report["commit"]) == ("cpu", "abc")
    output = capsys.readouterr().out
    assert "not measured: figure: RuntimeError: no such luck" in output
    assert output.count("FAILED") == 2


def test_no_more_units_start_after_two_processes_exit_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.sys.executable", "/bin/false")
    code, report = run_phase(tmp_path, "mixed")
    assert code == 1
    assert [(row["case"], row["message"]) for row in report["failed"]] == [("figure", "exit code 1")]
    assert [(check["case"], check["passed"]) for check in report["correctness"]] == [("check", False)]
    assert [row["why"] for row in report["skipped"]] == ["processes exit before they are ready"] * 6


def test_several_processes_run_every_unit_once(tmp_path: Path) -> None:
    code, report = run_phase(tmp_path, "several")
    assert code == 0
    assert sorted(checks(report)) == FINE


def test_late_units_are_listed_and_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.Process", None)
    code, report = run_phase(tmp_path, "late")
    assert code == 0
    assert [(row["part"], row["why"]) for row in report["skipped"]] == [("fine", "no time left")] * 3


def test_a_report_is_complete_while_it_grows(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", {"machine": {"cpu": "one"}})
    report.last_write = 0.0
    report.add("machine", {"gpu": "two"})
    report.last_write = 0.0
    report.add("figures", {"a": 1})
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["machine"] == {"cpu": "one", "gpu": "two"}
    assert data["measured"]["figures"] == [{"a": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("name", ["first", "second", "everything", "prewarm", "kept"])
def test_units_of_a_phase_have_different_titles(name: str) -> None:
    script = importlib.import_module(f"bench.gpu.scripts.{name}")
    for target, quick in (("cuda", False), ("stub", False), ("cpu", True)):
        for phase in script.phases(Setup(target, quick)):
            titles = [(unit.part, unit.title) for unit in phase.units]
            assert titles
            assert len(set(titles)) == len(titles)
            assert phase.processes() <= len(titles)


def test_a_report_names_its_device_and_a_stub_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    assert header(Setup("stub"), "command", "abc")["device"] == "stub"
    assert Setup("stub").verdict(True) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert header(Setup("cuda"), "command", "abc")["device"] == "NVIDIA H200"
