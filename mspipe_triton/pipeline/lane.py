"""The lane of a resource: the thread that its stages run on, and the order of their work on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Lane:
    """Where a resource's stages run: this one is the thread itself, others order work on a device behind it.

    `open` and `close` are called in the resource's thread, around all its stages.
    """

    def open(self) -> None:
        """Set the thread up."""

    def close(self) -> None:
        """Put back what `open` changed."""

    def before(self, marks: Sequence[Any]) -> None:
        """A stage is about to start that has to come after these marks of earlier stages."""

    def after(self) -> Any:
        """The stage's function has returned: a mark for those that wait for it, or None if all its work is done."""
        return None

    def measured(self, mark: Any, start: float, end: float) -> tuple[float, float]:
        """Start and end of a stage whose work is done, given those of its function."""
        return start, end
