"""The command `serve` as a process to measure: its start and end, processor time, memory, and what its log holds."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.report import ROOT
from mspipe_triton.serving.service.state import LOG

_PATIENCE = 120.0  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")
EVENTS = "SELECT key, src, dst, t FROM events JOIN entries ON entries.id = entry"


class Server:
    """A server on a run, which answers once `with` is entered and is dead after it.

    Args:
        run: the run folder. state: of the service. flags: of the command.
    """

    def __init__(self, run: Path, state: Path, *flags: str) -> None:
        self._command = [
            sys.executable, "-m", "mspipe_triton", "serve", str(run), "--port", "0", "--state", str(state), *flags,
        ]  # fmt: skip
        self.seconds = 0.0  # from the start to the first answer

    def __enter__(self) -> Self:
        start = time.perf_counter()
        self.process = subprocess.Popen(self._command, env=environment(), stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        watchdog = threading.Timer(_PATIENCE, self.process.kill)
        watchdog.start()
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if (match := re.search(r"Serving at http://127\.0\.0\.1:(\d+)", line)) is not None:
                self.port = int(match[1])
                break
        else:
            raise RuntimeError("".join(lines))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # so that it can go on to write
        while not self.status()["ready"]:
            time.sleep(0.005)
        watchdog.cancel()
        self.seconds = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any]:
        """Return the status of the service."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=_PATIENCE) as answer:
            status: dict[str, Any] = json.loads(answer.read())
        return status

    def stop(self) -> float:
        """Stop the service, which writes its last snapshot, and return the seconds that it took."""
        start = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(_PATIENCE):
            raise RuntimeError(f"the service ended with {self.process.returncode}")
        return time.perf_counter() - start

    def cpu_seconds(self) -> float:
        """Return the processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self, name: str = "VmRSS") -> int:
        """Return the resident memory in bytes, or at its peak as "VmHWM"."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        match = re.search(rf"{name}:\s+(\d+) kB", text)
        assert match is not None
        return int(match[1]) * 1024


def environment() -> dict[str, str]:
    """Return the environment of a process that uses one thread, and imports what this one does from any folder."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def logged(state: Path) -> list[tuple[Any, ...]]:
    """Return key, src, dst and t of each event in a log that no service uses."""
    with closing(sqlite3.connect(state / LOG)) as database:
        return database.execute(EVENTS).fetchall()
