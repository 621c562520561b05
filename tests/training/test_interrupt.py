"""Ctrl-C: it ends the run between two iterations, and the command says how to continue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipe_triton.training.interrupt import Interrupts


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    """Install Python's handler, since workers of a parallel test run ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_next_check_but_a_second_one_does_not() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_without_a_check_is_raised_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mspipe_triton.training.interrupt.GRACE", 0.1)
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)


def test_an_interrupt_raised_by_a_check_is_not_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mspipe_triton.training.interrupt.GRACE", 0.1)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    time.sleep(0.3)


def test_another_handler_stays() -> None:
    def handler(*_: object) -> None:
        """Do nothing."""

    signal.signal(signal.SIGINT, handler)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("schedule", [pytest.param("serial", marks=pytest.mark.slow), "exact"])
def test_an_interrupted_command_reports_it_in_one_line(tmp_path: Path, schedule: str) -> None:
    arguments = ["train", "--no-autotune", "--schedule", schedule, "--dim", "8", "--fanout", "2", "--epochs", "50"]
    arguments += ["--out", "run"]
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "mspipe_triton", *arguments],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    assert stderr.splitlines()[-1].startswith("mspipe-triton: interrupted")
    assert "Traceback" not in stderr
