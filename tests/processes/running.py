"""Runs in processes of their own, such as those of ring.py, which tests kill: their output, and what is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RING = Path(__file__).with_name("ring.py")
PROCESSES = 3
LAUNCH = (sys.executable, str(RING))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), str(RING))
FOLDER = "RUN_FOLDER"  # names a run's folder in the environment of its processes
PATIENCE = 60.0  # seconds: the most that a run may take to end


class Run:
    """A run that has been started.

    Args:
        process: of the command.
        folder: where each process of the run writes its number to a file, whose name is its rank.
        size: the number of processes.
        speaker: begins the run's own lines of stderr, before ": ".
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path, size: int, speaker: str) -> None:
        self.process, self.folder, self.size, self.speaker = process, folder, size, speaker

    def pids(self) -> list[int]:
        """Wait until all processes have written their numbers, and return these by rank."""
        files = [self.folder / str(rank) for rank in range(self.size)]
        wait_until(lambda: all(each.exists() for each in files) or self.process.poll() is not None)
        return [int(each.read_text(encoding="utf-8")) for each in files]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process of the run."""
        assert self._owns(Path(f"/proc/{pid}"))
        os.kill(pid, number)

    def end(self) -> tuple[int, str, list[str]]:
        """Wait for the end, and return the exit status, stdout, and the run's own lines of stderr.

        The other lines there are torchrun's.
        """
        output, errors = self.process.communicate(timeout=PATIENCE)
        begin = f"{self.speaker}: "
        lines = [line.removeprefix(begin) for line in errors.splitlines() if line.startswith(begin)]
        return self.process.returncode, output, lines

    def left_over(self) -> list[int]:
        """Return the processes of the run that exist."""
        return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and self._owns(each)]

    def kill_all(self) -> None:
        """Kill the processes of the run that exist."""
        for pid in self.left_over():
            with suppress(OSError):  # it has ended since
                self.kill(pid)

    def _owns(self, entry: Path) -> bool:
        """Return True for the entry in /proc of a process of the run."""
        try:
            variables = (entry / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:  # another user's, or ended since
            return False
        return f"{FOLDER}={self.folder}" in variables


def started(way: tuple[str, ...], case: str, folder: Path) -> AbstractContextManager[Run]:
    """Start a run of ring.py, and end what a failing test leaves of it."""
    return running([*way, case, str(folder)], folder, PROCESSES, "ring")


@contextmanager
def running(command: Sequence[str], folder: Path, size: int, speaker: str) -> Iterator[Run]:
    """Start a run, whose processes get the folder in `FOLDER`, and end what a failing test leaves of it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", FOLDER: str(folder)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = Run(process, folder, size, speaker)
    try:
        yield run
        wait_until(lambda: not run.left_over())
    finally:
        run.kill_all()
        process.wait()


def wait_until(condition: Callable[[], bool], limit: float = PATIENCE) -> None:
    """Wait for a condition, for a minute at most or another number of seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
