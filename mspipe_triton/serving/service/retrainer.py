"""Retraining of a service's predictor in the background; better parameters are swapped in between two requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mspipe_triton.errors import MspipeError, RunFolderError
from mspipe_triton.models.stored import SETTINGS
from mspipe_triton.serving.files import Saved, is_saved
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.engine import Service
from mspipe_triton.serving.service.retraining import PARAMETERS, VERDICT
from mspipe_triton.serving.service.settings import Every
from mspipe_triton.serving.service.work import BusyError

BASE, NOW, OUT = "base", "now", "out"
_PAUSE = 60.0  # seconds after a failure


class Retraining:
    """A task that retrains the predictor on the events since the last retraining, or since the service's first start.

    Args:
        folder: of its files. every: see `Every`. service: whose parameters it swaps. predictor: at the start.
        note: called with a line about each outcome.

    Raises:
        RunFolderError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, every: Every, service: Service, predictor: Predictor, note: Callable[[str], None]
    ) -> None:
        self._folder, self._every, self._service, self._note = folder, every, service, note
        if not is_saved(folder / BASE):
            predictor.image().write(folder / BASE)
        self._before = int(json.loads((folder / BASE / SETTINGS).read_text(encoding="utf-8"))["events"])
        self._since, self._pause = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def due(self, entries: int, events: int) -> bool:
        """Return True after enough events or seconds, while no retraining runs."""
        now = time.monotonic()
        if now < self._pause or events == self._before or (self._thread is not None and self._thread.is_alive()):
            return False
        if events - self._before < self._every.events and now - self._since < self._every.seconds:
            return False
        self._before, self._since = events, now
        return True

    def start(self, image: Saved, entries: int) -> None:
        """Train in a process of its own, which a thread waits for."""
        self._thread = threading.Thread(target=self._retrain, args=(image,), name="retrain", daemon=True)
        self._thread.start()

    def finish(self, predictor: Predictor, entries: int) -> None:
        """Stop the process; the next start trains on the same events again."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        if self._thread is not None:
            self._thread.join()

    def _retrain(self, image: Saved) -> None:
        base, now, out = (self._folder / name for name in (BASE, NOW, OUT))
        try:
            shutil.rmtree(now, ignore_errors=True)
            image.write(now)
            verdict = self._run(base, now, out)
            if verdict["better"]:
                self._swap((out / PARAMETERS).read_bytes(), json.dumps(verdict))
            if verdict["new"] is not None:  # otherwise there was nothing to train on, and these events are kept
                shutil.rmtree(base)
                now.rename(base)
            outcome = "new parameters are in use" if verdict["better"] else "the parameters stay"
            self._service.retrained = f"{outcome}: {verdict['reason']}"
        except (MspipeError, OSError, ValueError) as error:
            if self._stopping.is_set():
                return
            self._pause = time.monotonic() + _PAUSE
            self._service.retrained = f"failed: {' '.join(str(error).split())}"
        self._note(f"Retraining after {len(image.events):,} events: {self._service.retrained}.")

    def _run(self, base: Path, now: Path, out: Path) -> dict[str, Any]:
        """Run the process, and return its verdict; it ends with this one, whose end closes its standard input.

        Raises:
            RunFolderError: it gave no verdict.
        """
        module = "mspipe_triton.serving.service.retraining"
        command = [sys.executable, "-m", module, *map(str, (base, now, out)), "--attached"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if self._stopping.is_set():  # since before there was a process to stop
            self._process.terminate()
        assert self._process.stderr is not None
        errors = self._process.stderr.read().decode("utf-8", "replace").strip()
        if self._process.wait() or not (out / VERDICT).exists():
            raise RunFolderError(
                errors.splitlines()[-1] if errors else f"the process ended with {self._process.returncode}"
            )
        verdict: dict[str, Any] = json.loads((out / VERDICT).read_text(encoding="utf-8"))
        return verdict

    def _swap(self, parameters: bytes, verdict: str) -> None:
        """Use parameters, as soon as there is room in the queue.

        Raises:
            ServiceError: the service stops, or cannot log them.
        """
        while True:
            try:
                self._service.swap(parameters, verdict).result()
                return
            except BusyError:
                self._stopping.wait(1)
