"""The start of a run: the age of the process, torch's import, and the first iteration."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mspipe_triton.training import start
from mspipe_triton.training.start import Start, process_age

CODE = """
import json, sys, time
begin = time.perf_counter()
from mspipe_triton.training.start import Start, load_torch, process_age
assert "torch" not in sys.modules
run, age = Start(lambda *_: None), process_age()
load_torch()
assert "torch" in sys.modules
first = run.to_json()
load_torch()
print(json.dumps([first, run.to_json(), age, time.perf_counter() - begin]))
"""


def test_torch_is_timed_once_and_the_process_is_older_than_its_code() -> None:
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    outside = time.perf_counter() - before
    first, again, age, inside = json.loads(done.stdout)
    assert first == again
    assert first["first_iteration_seconds"] is None
    assert 0 < first["import_seconds"] < inside
    assert 0 < age < outside + 0.02  # the system counts the start in hundredths of a second


def test_the_first_iteration_is_noted_and_all_are_passed_on() -> None:
    calls: list[tuple[int, int, float]] = []
    run = Start(lambda *call: calls.append(call))
    earliest = process_age()
    run(1, 600, 0.5)
    seconds = run.to_json()["first_iteration_seconds"]
    run(1, 400, 0.25)
    assert earliest <= seconds <= process_age()
    assert run.to_json()["first_iteration_seconds"] == seconds
    assert calls == [(1, 600, 0.5), (1, 400, 0.25)]


@pytest.mark.parametrize("content", [None, "", "1 (a b) R 1 2", "1 (x) " + " ".join(["word"] * 30)])
def test_where_the_system_tells_no_start_the_package_counts(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    monkeypatch.setattr(start, "Path", lambda _: stat)
    for _ in range(2):
        earliest, age = time.perf_counter() - start.IMPORTED, process_age()
        assert earliest <= age <= time.perf_counter() - start.IMPORTED
        monkeypatch.setattr(start.sys, "platform", "darwin")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's start")
def test_a_name_with_blanks_and_brackets_does_not_hide_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ticks = time.clock_gettime(time.CLOCK_BOOTTIME), start.os.sysconf("SC_CLK_TCK")
    fields = ["R", *["0"] * 18, str(int((now - 1000) * ticks)), *["0"] * 10]
    stat = tmp_path / "stat"
    stat.write_text(f"7 (a) b (c) {' '.join(fields)}")
    monkeypatch.setattr(start, "Path", lambda _: stat)
    monkeypatch.setattr(start, "IMPORTED", time.perf_counter())
    assert 999 < process_age() < 1100
