"""A line on a terminal that says what takes time before the first screen, and is erased then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transient(text: str) -> Iterator[None]:
    """Show a line on stderr while the block runs; nothing if stderr is no terminal."""
    shown = sys.stderr.isatty()
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
