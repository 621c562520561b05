"""Lanes: the thread that a resource's stages run on, and the order of their work on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Lane:
    """The place where a resource's stages run: here a plain thread; subclasses also order the thread's device work.

    The resource's thread calls `open` before all its stages and `close` after them.
    """

    def open(self) -> None:
        """Set the thread up."""

    def close(self) -> None:
        """Undo what `open` changed."""

    def limit(self, threads: int) -> None:
        """Compute with at most so many threads from the next stage on; a plain lane does not count its threads."""

    def before(self, marks: Sequence[Any]) -> None:
        """Prepare a stage, whose work must come after these marks of earlier stages."""

    def after(self) -> Any:
        """Return a mark that later stages wait for, after the stage's function; None if all work is done."""
        return None

    def interval(self, mark: Any, start: float, end: float) -> tuple[float, float]:
        """Return start and end of a stage's finished work, from the start and end of its function."""
        return start, end
