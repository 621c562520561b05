"""A line on a terminal that says what takes time before the first screen, and is erased then."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def transient(text: str) -> Iterator[None]:
    """Show a line on stderr while the block runs; nothing if stderr is no terminal, or in ranks after the first."""
    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    if shown:
        print(text, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:  # with blanks, which all terminals understand
            print(" " * len(text), end="\r", file=sys.stderr, flush=True)


@contextmanager
def loading() -> Iterator[None]:
    """Say that torch is loading while the block imports modules that need it, unless it is loaded."""
    if "torch" in sys.modules:
        yield
    else:
        with transient("Loading torch ..."):
            yield


class Preparing:
    """A line on the preparation of a model, until a screen has something else to show."""

    def __init__(self) -> None:
        self._line: AbstractContextManager[None] | None = None

    def begin(self) -> None:
        """Show the line."""
        self._line = transient("Preparing the model ...")
        self._line.__enter__()

    def end(self) -> bool:
        """Erase the line; returns False if it was not there."""
        if self._line is None:
            return False
        line, self._line = self._line, None
        line.__exit__(None, None, None)
        return True
