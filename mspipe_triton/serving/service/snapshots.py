"""Snapshots of a service's predictor, written in the background after so many events or seconds."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mspipe_triton.errors import RunFolderError
from mspipe_triton.serving.files import Saved
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.state import StateFolder

_PAUSE = 30.0  # seconds after a failure


class Snapshots:
    """A task that writes a snapshot when one is due, and one when the service stops.

    Args:
        state: the folder. entries: log entries that the last snapshot contains.
        events, seconds: a snapshot is due after so many events, or after so many seconds if there was an event.
        note: called with a line about a snapshot that could not be written.
    """

    def __init__(
        self, state: StateFolder, entries: int, events: int, seconds: float, note: Callable[[str], None]
    ) -> None:
        self.entries, self._state, self._events, self._seconds, self._note = entries, state, events, seconds, note
        self._before: int | None = None  # events at the last one
        self._since, self._pause = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None

    def due(self, entries: int, events: int) -> bool:
        """Return True if there are entries since the last snapshot, and enough events or seconds."""
        now = time.monotonic()
        self._before = events if self._before is None else self._before
        if entries == self.entries or now < self._pause or (self._thread is not None and self._thread.is_alive()):
            return False
        if events - self._before < self._events and now - self._since < self._seconds:
            return False
        self._before, self._since = events, now
        return True

    def start(self, image: Saved, entries: int) -> None:
        """Write a snapshot in a thread of its own."""
        self._thread = threading.Thread(target=self._write, args=(image, entries), name="snapshot")
        self._thread.start()

    def finish(self, predictor: Predictor, entries: int) -> None:
        """Write the last snapshot."""
        if self._thread is not None:
            self._thread.join()
        if entries != self.entries:
            self._write(predictor.image(), entries)

    def _write(self, image: Saved, entries: int) -> None:
        try:
            self._state.write_snapshot(image, entries)
            self.entries = entries
            _trim()
        except RunFolderError as error:
            self._pause = time.monotonic() + _PAUSE
            self._note(f"No snapshot: {error}.")


def _trim() -> None:
    """Give free memory back to the system, where the C library can: tables that grew leave pieces behind."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
