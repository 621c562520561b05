"""Quotes in delimited text: those that enclose values, and those that belong to them, as in "Weird Al" Yankovic."""

from __future__ import annotations

from mmap import mmap

import numpy as np

_QUOTE, _NEWLINE, _RETURN = (ord(mark) for mark in '"\n\r')


def inspect_quotes(content: bytes | mmap, start: int, delimiter: str) -> tuple[bool, int | None]:
    """Inspect the quotes of a text, of which there is at least one, as if all of them enclosed values.

    Args:
        content: the text, with the rows from byte `start` on. delimiter: one character.

    Returns:
        True if a line ends inside of quotes; and the line, from 0, of the first quote that is neither at the beginning
        nor at the end of a value nor doubled, or None.
    """
    text = np.frombuffer(content, np.uint8, offset=start)
    quotes, lines = np.flatnonzero(text == _QUOTE), np.flatnonzero(text == _NEWLINE)
    before, behind = np.full(quotes.size, _NEWLINE, np.uint8), np.full(quotes.size, _NEWLINE, np.uint8)
    later, earlier = quotes > 0, quotes < text.size - 1
    before[later], behind[earlier] = text[quotes[later] - 1], text[quotes[earlier] + 1]
    wrong = np.empty(quotes.size, dtype=bool)
    wrong[::2] = ~_one_of((ord(delimiter), _NEWLINE, _QUOTE))[before[::2]]
    wrong[1::2] = ~_one_of((ord(delimiter), _NEWLINE, _RETURN, _QUOTE))[behind[1::2]]
    if quotes.size % 2:
        wrong[-1] = True
    stray = int(np.searchsorted(lines, quotes[wrong][0])) if wrong.any() else None
    return bool((np.searchsorted(quotes, lines) % 2).any()), stray


def _one_of(marks: tuple[int, ...]) -> np.ndarray:
    """Return a mask [256] of the bytes that are one of `marks`."""
    mask = np.zeros(256, dtype=bool)
    mask[list(marks)] = True
    return mask
