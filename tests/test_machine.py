"""Cores that a process may use, by affinity, control groups and ranks; CPU time read from files of /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mspipe_triton import machine
from mspipe_triton.machine import available_cores, cores, thread_variable, usage


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of a machine: 8 CPUs, of which this process may use 4, and no control groups."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3, 5}, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "proc").mkdir()
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def member(files: Path, *lines: str) -> None:
    write(files / "proc" / "self" / "cgroup", "".join(f"{line}\n" for line in lines))


def test_without_a_quota_the_affinity_decides(files: Path) -> None:
    assert (cores(), available_cores()) == (4, 4)
    member(files, "0::/")
    assert cores() == 4


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_quota_of_version_2_counts_whole_cores(files: Path, quota: str, expected: int) -> None:
    member(files, "0::/job/step")
    write(files / "cgroup" / "job" / "step" / "cpu.max", quota)
    assert cores() == expected


def test_the_smallest_quota_of_the_groups_above_counts(files: Path) -> None:
    member(files, "0::/user/job")
    write(files / "cgroup" / "user" / "cpu.max", "200000 100000")
    write(files / "cgroup" / "user" / "job" / "cpu.max", "300000 100000")
    write(files / "cgroup" / "other" / "cpu.max", "100000 100000")
    assert cores() == 2
    write(files / "cgroup" / "cpu.max", "100000 100000")  # of a container, which sees its own group as the root
    assert cores() == 1


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("150000", 1), ("300000", 3)])
def test_a_quota_of_version_1(files: Path, folder: str, quota: str, expected: int) -> None:
    member(files, "9:memory:/docker/a", "2:cpu,cpuacct:/docker/a", "0::/")
    write(files / "cgroup" / folder / "cpu.cfs_quota_us", quota)  # a container sees its own group as the root
    write(files / "cgroup" / folder / "cpu.cfs_period_us", "100000")
    assert cores() == expected


def test_ranks_share_the_cores(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ranks, expected in (("2", 2), ("3", 1), ("9", 1), ("0", 4), ("", 4), ("some", 4)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert (cores(), available_cores()) == (expected, 4)


@pytest.mark.parametrize("count", ["", "0", "-2", "abc", "3.5", "\N{SUPERSCRIPT TWO}"])
def test_a_number_of_ranks_that_is_none_counts_as_one(files: Path, monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", count)
    assert cores() == 4


@pytest.mark.parametrize("quota", ["", "max", "0 0", "nan nan", "inf 1000", "-1 100000"])
def test_files_of_groups_in_another_form_set_no_quota(files: Path, quota: str) -> None:
    member(files, "no group", "0::/a")
    write(files / "cgroup" / "a" / "cpu.max", quota)
    assert cores() == 4


def test_the_variable_that_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", machine.SHARED_THREADS):
        monkeypatch.delenv(name, raising=False)
    assert thread_variable() is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_variable() == "OMP_NUM_THREADS=3"
    monkeypatch.setenv(machine.SHARED_THREADS, "1")  # the launcher of ranks has set it
    assert thread_variable() is None
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    assert thread_variable() == "MKL_NUM_THREADS=2"


def test_busy_seconds_are_those_of_the_cpus_that_the_process_may_use(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"cpu{number} {10**number} 20 300 4000 50000 600000 7000000 80000000 9 9" for number in range(8)]
    write(files / "proc" / "stat", "\n".join(["cpu  1 1 1 1 1 1 1 1 1 1", *rows, "intr 5 5", ""]))
    monkeypatch.setattr("os.getpriority", lambda *_: 0)
    ticks = os.sysconf("SC_CLK_TCK")
    now = usage()
    assert now.busy == pytest.approx((10 + 100 + 1000 + 100_000 + 4 * 87_600_320) / ticks)
    assert now.yielding == pytest.approx(4 * 20 / ticks)
    monkeypatch.setattr("os.getpriority", lambda *_: 5)  # this process's own time is in the same column
    assert usage().yielding == 0


@pytest.mark.parametrize(
    "text", [None, "intr 5 5\n", "cpu1 0 0 0 0 0 0 0 0 0 0\n", "cpu1 5 5 5 5\n", "cpu1 a b c d e f g h\n"]
)
def test_a_system_that_does_not_tell(files: Path, text: str | None) -> None:
    if text is not None:
        write(files / "proc" / "stat", text)
    now = usage()
    assert now.busy is None
    assert now.process > 0
    assert now.relatives == now.ended


def stat(files: Path, number: int, parent: int, *seconds: float) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    times = " ".join(str(round(each * ticks)) for each in seconds)
    write(files / "proc" / str(number) / "stat", f"{number} (a ) name) S {parent} 1 1 0 -1 0 0 0 0 0 {times} 20 0 1")


def test_relatives_are_descendants_and_of_ranks_all_processes_of_the_launcher(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, launcher = os.getpid(), os.getppid()
    write(files / "proc" / "self" / "stat", "")
    stat(files, launcher, 1, 1, 0, 0, 0)
    stat(files, this, launcher, 20, 0, 0, 0)
    stat(files, launcher + 100_000, launcher, 300, 0, 0, 0)
    stat(files, this + 200_000, this, 1000, 2000, 3000, 4000)
    stat(files, this + 300_000, this + 200_000, 50_000, 0, 0, 0)
    now = usage()
    assert now.relatives - now.ended == pytest.approx(60_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    now = usage()
    assert now.relatives - now.ended == pytest.approx(60_301)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_child_counts_while_it_lives_and_after_its_end() -> None:
    before = usage()
    program = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        alive = usage()
        child.stdin.close()
    after = usage()
    assert alive.relatives - before.relatives >= 0.2
    assert alive.ended == before.ended
    assert after.ended - before.ended >= 0.2
    assert after.relatives - before.relatives >= alive.relatives - before.relatives - 0.1
    assert before.time < alive.time < after.time <= time.perf_counter()
