"""Ctrl-C during training: it ends the run between two iterations, so that no iteration is interrupted."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

GRACE = 10.0


class Interrupts:
    """Delay an interrupt until the next `check`; a context manager for the main thread.

    An interrupt during an import or a compilation would leave torch unable to exit. A second interrupt is raised at
    once, and so is the first if nothing calls `check` for `GRACE` seconds.
    """

    def __init__(self) -> None:
        self.seen = False
        self.installed = False

    def __enter__(self) -> Interrupts:
        main = threading.main_thread()
        if threading.current_thread() is main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.timer = threading.Timer(GRACE, signal.pthread_kill, (main.ident, signal.SIGINT))
            self.timer.daemon = True
            signal.signal(signal.SIGINT, self._handle)
            self.installed = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.installed:
            self.timer.cancel()
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if an interrupt has arrived."""
        if self.seen:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        self.timer.start()
