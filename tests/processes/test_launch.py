"""Runs that the launcher starts: how they end, whichever process is killed, raises, hangs or is interrupted."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from mspipe_triton.errors import PipelineError
from mspipe_triton.processes.launch import launch
from tests.processes.running import LAUNCH, started


def test_a_process_that_is_killed_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with started(LAUNCH, "turns", tmp_path) as ring:
        pid = ring.pids()[1]
        ring.kill(pid)
        assert ring.end() == (
            1,
            "",
            [f"process 1 (stage 1, pid {pid}) was killed by SIGKILL, as the system does if memory runs out"],
        )
        assert ring.left_over() == []


def test_a_process_that_ends_before_it_joins_is_named(tmp_path: Path) -> None:
    program = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(5); time.sleep(60)"
    with pytest.raises(PipelineError, match=r"^process 1 \(tail, pid \d+\) ended with exit status 5$"):
        launch([sys.executable, "-c", program], 2, {1: "tail"})


def test_signals_are_the_callers_again_after_a_run() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert launch([sys.executable, "-c", "import os; assert os.environ['LOCAL_WORLD_SIZE'] == '2'"], 2) == 0
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_processes_share_the_cores_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import os; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    launch([sys.executable, "-c", program], 2)
    assert [(tmp_path / rank).read_text(encoding="utf-8") for rank in "01"] == ["2", "2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launch([sys.executable, "-c", program], 2)
    assert [(tmp_path / rank).read_text(encoding="utf-8") for rank in "01"] == ["7", "7"]


@pytest.mark.slow
def test_a_complete_run_prints_the_result_of_process_0_alone(tmp_path: Path) -> None:
    with started(LAUNCH, "ends", tmp_path) as ring:
        assert ring.end() == (0, "result\n", [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "code", "line"),
    [
        ("raises", 1, r"stage 1 \(process 1\) raised ValueError: bad \(ring.py:\d+\)"),
        ("late", 1, r"stage 2 \(process 2\) raised ValueError: no checkpoint \(ring.py:\d+\)"),
        ("exits", 1, r"process 1 \(stage 1, pid \d+\) ended with exit status 7"),
        ("refuses", 2, "the plan is of another model"),
    ],
)
def test_a_run_that_fails_says_so_in_one_line(case: str, code: int, line: str, tmp_path: Path) -> None:
    with started(LAUNCH, case, tmp_path) as ring:
        status, output, lines = ring.end()
        assert (status, output, len(lines)) == (code, "", 1)
        assert re.fullmatch(line, lines[0])
        assert ring.left_over() == []


@pytest.mark.slow
def test_a_process_that_hangs_is_found_by_its_beat(tmp_path: Path) -> None:
    with started(LAUNCH, "turns", tmp_path) as ring:
        pid = ring.pids()[2]
        ring.kill(pid, signal.SIGSTOP)
        code, _, lines = ring.end()
        assert code == 1
        assert len(lines) == 1
        assert re.fullmatch(rf"process 2 \(stage 2, pid {pid}\) has not answered for \d+ seconds", lines[0])
        assert ring.left_over() == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "line"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")])
def test_a_signal_to_the_launcher_ends_all(number: signal.Signals, line: str, tmp_path: Path) -> None:
    with started(LAUNCH, "turns", tmp_path) as ring:
        ring.pids()
        os.kill(ring.process.pid, number)
        assert ring.end() == (1, "", [line])
        assert ring.left_over() == []


@pytest.mark.slow
def test_the_processes_of_a_launcher_that_is_killed_end(tmp_path: Path) -> None:
    with started(LAUNCH, "turns", tmp_path) as ring:
        ring.pids()
        ring.process.kill()
        assert ring.end()[0] == -signal.SIGKILL  # `started` waits for the others
