"""Runs of ring.py in processes of their own, which tests kill: their output, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
RING = Path(__file__).with_name("ring.py")
PROCESSES = 3
LAUNCH = (sys.executable, str(RING))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), str(RING))
_PATIENCE = 60.0  # seconds: the most that a run may take to end


class Ring:
    """A run of ring.py that has been started."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, marker: str) -> None:
        self.process, self.folder, self.marker = process, folder, marker

    def pids(self) -> list[int]:
        """Wait until the tensor goes round, and return the numbers of the processes by rank."""
        files = [self.folder / str(rank) for rank in range(PROCESSES)]
        wait_until(lambda: all(each.exists() for each in files) or self.process.poll() is not None)
        return [int(each.read_text(encoding="utf-8")) for each in files]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process of the run."""
        assert self.marker in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace")
        os.kill(pid, number)

    def end(self) -> tuple[int, str, list[str]]:
        """Wait for the end, and return the exit status, stdout, and the run's own lines of stderr.

        The other lines there are torchrun's.
        """
        output, errors = self.process.communicate(timeout=_PATIENCE)
        lines = [line.removeprefix("ring: ") for line in errors.splitlines() if line.startswith("ring: ")]
        return self.process.returncode, output, lines

    def left_over(self) -> list[int]:
        """Return the processes of the run that exist."""
        result = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue  # another user's, or ended since
                if self.marker in environment:
                    result.append(int(entry.name))
        return result


@contextmanager
def started(way: tuple[str, ...], case: str, folder: Path) -> Iterator[Ring]:
    """Start a run, and end what a failing test leaves of it."""
    marker = f"ring-{uuid.uuid4().hex}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RING_MARKER": marker}
    process = subprocess.Popen(
        [*way, case, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ring = Ring(process, folder, marker)
    try:
        yield ring
        wait_until(lambda: not ring.left_over())
    finally:
        for pid in ring.left_over():
            ring.kill(pid)
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a minute at most."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
