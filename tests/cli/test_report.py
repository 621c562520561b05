"""The command `report`: pages of real runs, where they go, and wrong input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.using import Command, done, refusal


def test_a_trained_run_is_reported(run: Path, command: Command) -> None:
    assert done(command("report", "run")).stderr == "Wrote run/report.html\n"
    text = (run / "report.html").read_text(encoding="utf-8")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert f"{result['test']['ap']:.4f}" in text
    assert "Timeline of a steady period" in text
    assert "typical iterations of epoch 1" in text
    done(command("report", "run"))  # replaces it


def test_runs_are_compared_in_the_first_ones_folder(run: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    assert done(command("report", "run", "other")).stderr == "Wrote run/comparison.html\n"
    assert "2 runs compared" in (run / "comparison.html").read_text(encoding="utf-8")


def test_out_names_a_file_whose_folder_is_created(run: Path, command: Command, tmp_path: Path) -> None:
    done(command("report", "run", "--out", "new/folder/page.html"))
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["missing"], "missing: no run there (config.toml is missing); name a folder that `train` wrote"),
        (["run", "./run"], "./run is named twice; name runs that differ"),
        (["run", "--out", "run/result.json"], "--out run/result.json is no name of a page; let it end in .html"),
        (["run", "--out", "mine.html"], "--out mine.html is a file that `report` did not write; name another"),
        (["run", "--out", "folder.html"], "--out folder.html is a folder; name a file in it"),
        (
            ["run", "--out", "mine.html/page.html"],
            "mine.html/page.html: cannot be written: File exists; name a file elsewhere with --out",
        ),
    ],
    ids=["missing", "twice", "ending", "other file", "folder", "file as folder"],
)
def test_wrong_input_is_refused(arguments: list[str], fault: str, run: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("my own page", encoding="utf-8")
    (tmp_path / "folder.html").mkdir()
    before = (run / "result.json").read_bytes()
    assert refusal(command("report", *arguments)) == fault
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "my own page"
    assert (run / "result.json").read_bytes() == before


def test_a_folder_of_runs_names_one(run: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "first")
    line = "runs: no run there (config.toml is missing); name a folder that `train` wrote; did you mean runs/first?"
    assert refusal(command("report", "runs")) == line
    assert refusal(command("rank", "runs", "--src", "u1")) == line


def test_names_are_checked_before_pages_are_made(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mspipe_triton.report.page", None)
    assert "is no name of a page" in refusal(command("report", "run", "--out", "r.txt"))
    assert "named twice" in refusal(command("report", "run", "./run"))


def test_a_damaged_config_is_named(run: Path, command: Command) -> None:
    (run / "config.toml").write_text("[data\n", encoding="utf-8")
    assert refusal(command("report", "run")).startswith("run/config.toml: cannot be read as TOML: ")


def test_a_missing_package_is_named(run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mspipe_triton.cli.report.find_spec", lambda name: None if name == "matplotlib" else sys)
    line = refusal(command("report", "run"))
    assert line == (
        "report needs the extra report (matplotlib is not installed); use `pip install 'mspipe-triton[report]'`, or in "
        "a checkout `pip install '.[report]'`"
    )
