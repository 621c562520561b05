"""Servers in processes of their own for tests, which a watchdog ends, and what their state folders hold afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from mspipe_triton import load
from mspipe_triton.serving.service.state import LOG, SNAPSHOTS, StateFolder
from tests.serving.service.services import PATIENCE, bits

ROOT = Path(__file__).resolve().parents[3]
_URL = re.compile(r"Serving at (\S+)")


class ServerProcess:
    """The command `serve` in a process of its own; a context manager at whose end it is dead.

    Args:
        run: the run folder. state: the state folder. flags: of the command.
        watchdog: seconds after which it is killed. stdin: the process has a pipe as standard input.
    """

    def __init__(
        self, run: Path, state: Path, *flags: str, watchdog: float = 60.0, stdin: bool = False, port: int = 0
    ) -> None:
        command = [sys.executable, "-m", "mspipe_triton", "serve", str(run), "--port", str(port), "--state", str(state)]
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "500"},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.url = ""
        self._announced = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._timer = threading.Timer(watchdog, self.process.kill)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._timer.cancel()

    def wait(self) -> Self:
        """Wait until it has said its URL, or has ended."""
        assert self._announced.wait(PATIENCE), "too slow"
        assert self.url, self.lines
        return self

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def end(self, number: int = signal.SIGTERM, patience: float = 8.0) -> int:
        """Send a signal, and return the exit code; it must end within some seconds."""
        self.process.send_signal(number)
        code = self.process.wait(patience)
        self._reader.join()
        return code

    def limit_files(self, size: int | None) -> None:
        """Limit the size of files that it may write; None takes the limit away."""
        soft = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if (match := _URL.search(line)) is not None:
                self.url = match[1]
                self._announced.set()
        self._announced.set()


def rows(state: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query of the log."""
    with closing(sqlite3.connect(state / LOG)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return database.execute(query).fetchall()


def digests(run: Path, state: Path, snapshot: bool) -> dict[str, str]:
    """Return hashes of everything that answers depend on, in the last snapshot or after a serial replay of the log."""
    torch.set_num_threads(1)
    if snapshot:
        predictor = load(max((state / SNAPSHOTS).iterdir()))
    else:
        predictor = load(run)
        with closing(StateFolder(state, run)) as folder, closing(folder.log(predictor)) as log:
            for entry in log.read():
                assert entry.events is not None
                assert len(predictor) == entry.total - entry.count
                predictor.take(entry.events)
    parts = {name: each if isinstance(each, bytes) else repr(each).encode() for name, each in bits(predictor).items()}
    return {name: hashlib.sha256(each).hexdigest() for name, each in parts.items()}


def replayed(run: Path, state: Path) -> dict[str, str]:
    """Return the hashes after a serial replay, in a fresh process."""
    command = [sys.executable, "-m", "tests.serving.service.process", str(run), str(state)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    hashes: dict[str, str] = json.loads(done.stdout)
    return hashes


def check_last_snapshot(run: Path, state: Path, replay: dict[str, str]) -> None:
    """Check that the last snapshot has all entries of the log, and the state after a serial replay, to the bit."""
    (entries,) = rows(state, "SELECT max(id) FROM entries")
    assert [each.name for each in sorted((state / SNAPSHOTS).iterdir())][-1] == f"{entries[0]:012}"
    ours = digests(run, state, snapshot=True)
    assert [name for name in replay if replay[name] != ours.get(name)] == []


def sleep_until(moment: float) -> None:
    """Sleep until a moment of the monotonic clock, if it is to come."""
    time.sleep(max(0.0, moment - time.monotonic()))


def main(words: Sequence[str]) -> None:
    """Print the hashes after a serial replay of the log of a run's service."""
    print(json.dumps(digests(Path(words[0]), Path(words[1]), snapshot=False)))


if __name__ == "__main__":
    main(sys.argv[1:])
