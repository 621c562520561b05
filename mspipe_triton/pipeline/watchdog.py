"""The watchdog of a running pipeline: stops a run in which no stage ends any more, and reports what is stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from mspipe_triton.errors import StuckError


class Watchdog:
    """A thread that checks the time since the last `touch`; a context manager around the run that it watches.

    Args:
        patience: seconds without a `touch` after which `give_up` is called, once.
        explain: returns the error's message.
        give_up: called with the error, on the watchdog's thread; `verdict` holds the error from then on.
    """

    def __init__(self, patience: float, explain: Callable[[], str], give_up: Callable[[StuckError], None]) -> None:
        self.patience, self.explain, self.give_up = patience, explain, give_up
        self.verdict: StuckError | None = None
        self.watching = True
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mspipe-watchdog", daemon=True)
        self.touch()

    def touch(self) -> None:
        """Report progress."""
        self.last = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop watching while other code runs."""
        self.watching = False
        try:
            yield
        finally:
            self.touch()
            self.watching = True

    def __enter__(self) -> Watchdog:
        self.touch()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._finished.wait(min(1.0, self.patience / 10)):
            if self.watching and time.perf_counter() - self.last > self.patience:
                self.verdict = StuckError(self.explain())
                self.give_up(self.verdict)
                return
