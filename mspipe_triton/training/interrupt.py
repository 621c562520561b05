"""Ctrl-C while training: it ends the run between two iterations, where nothing is left half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

GRACE = 10.0


class Interrupts:
    """Keeps an interrupt until `check`; a context manager for the main thread.

    Raised in the midst of an import or a compilation, it would leave torch in a state that it cannot end from. A second
    interrupt is raised at once, and so is the first where nothing has checked for it for `GRACE` seconds.
    """

    def __init__(self) -> None:
        self.seen = False
        self.installed = False

    def __enter__(self) -> Interrupts:
        main = threading.main_thread()
        if threading.current_thread() is main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.again = threading.Timer(GRACE, signal.pthread_kill, (main.ident, signal.SIGINT))
            self.again.daemon = True
            signal.signal(signal.SIGINT, self._handle)
            self.installed = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.installed:
            self.again.cancel()
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there has been one."""
        if self.seen:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        self.again.start()
