"""The runner of the GPU scripts: every way in which a unit can end leaves a whole report, and the others go on."""

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
Ran = tuple[int, dict[str, Any]]


def ran(folder: Path, name: str) -> Ran:
    setup = Setup("cpu", quick=True)
    report = Report(folder / "out" / "report.json", header(setup, "python -m bench.gpu", "abc"))
    code = run(SCRIPT, [phase for phase in phases(setup) if phase.name == name], setup, report)
    return code, json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def checks(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(check["check"], check["case"], check["passed"]) for check in report["correctness"]]


def test_a_unit_that_raises_ends_its_process_or_hangs_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.ENDING", 0.2)
    code, report = ran(tmp_path, "mixed")
    assert code == 1
    before = ["it raises", "it raises", "it ends", "it hangs", "it lingers"]
    assert [row["before"] for row in report["measured"]["figures"]] == before  # rows that were there are kept
    assert checks(report) == [("check", "check", False), ("ends", "ends", False), *FINE]
    assert report["correctness"][1]["message"] == "exit code 3\nwhere it was"
    assert [row["case"] for row in report["failed"]] == ["figure", "hangs", "lingers"]
    assert report["failed"][0]["message"] == "RuntimeError: no such luck"
    assert report["failed"][1]["message"].startswith("cut off at its limit")
    assert report["failed"][2]["message"].startswith("hangs at its end")
    assert (report["phases"]["mixed"]["units"], report["phases"]["mixed"]["cut_off"]) == (5, 3)
    assert {"device", "commit", "command", "versions", "machine", "date"} <= report.keys()
    assert (report["device"], report["commit"]) == ("cpu", "abc")
    said = capsys.readouterr().out
    assert "not measured: figure: RuntimeError: no such luck" in said
    assert said.count("FAILED") == 2


def test_processes_that_end_as_they_start_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.sys.executable", "/bin/false")
    code, report = ran(tmp_path, "mixed")
    assert code == 1
    assert [(row["case"], row["message"]) for row in report["failed"]] == [("figure", "exit code 1")]
    assert [(check["case"], check["passed"]) for check in report["correctness"]] == [("check", False)]
    assert [row["why"] for row in report["skipped"]] == ["processes end as they start"] * 6


def test_several_processes_do_every_unit_once(tmp_path: Path) -> None:
    code, report = ran(tmp_path, "several")
    assert code == 0
    assert sorted(checks(report)) == FINE


def test_what_would_begin_late_is_listed_and_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.supervisor.Process", None)
    code, report = ran(tmp_path, "late")
    assert code == 0
    assert [(row["part"], row["why"]) for row in report["skipped"]] == [("fine", "no time was left")] * 3


def test_a_report_is_whole_while_it_grows(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", {"machine": {"cpu": "one"}})
    report.written = 0.0
    report.add("machine", {"gpu": "two"})
    report.written = 0.0
    report.add("figures", {"a": 1})
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["machine"] == {"cpu": "one", "gpu": "two"}
    assert found["measured"]["figures"] == [{"a": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("name", ["first", "second", "everything", "prewarm", "kept"])
def test_units_of_a_script_have_titles_of_their_own(name: str) -> None:
    script = importlib.import_module(f"bench.gpu.scripts.{name}")
    for target, quick in (("cuda", False), ("stub", False), ("cpu", True)):
        for phase in script.phases(Setup(target, quick)):
            titles = [(unit.part, unit.title) for unit in phase.units]
            assert titles
            assert len(set(titles)) == len(titles)
            assert phase.processes() <= len(titles)


def test_a_stub_s_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert header(Setup("stub"), "command", "abc")["device"] == "stub"
    assert Setup("stub").verdict(True) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert header(Setup("cuda"), "command", "abc")["device"] == "NVIDIA H200"
