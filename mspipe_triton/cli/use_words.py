"""Words of messages about a predictor: flags in place of Python's arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mspipe_triton.errors import InputError

_WORDS = (
    (r"^at(: time)?(?= is )", "{at}"), (r"^(t|time)(?= is )", "--time"), (r"^src(?=:? )", "--src"),
    (r"\bnew=True\b", "--new"), (r"\bas data=FILE\b", "with --data FILE"), (r"\bdata=(?=$|;)", "--data"),
    (r"\bat=\.\.\.(?=,)", "{at}"), (r"\bload\(run, at=\.\.\.\)", "the run folder"), (r"\blate='drop'", "--late drop"),
    (r"\bomit at, data and stream, or name the run\b", "omit {at} and --data, or name the run folder"),
)  # fmt: skip


@contextmanager
def in_words_of_flags(at: str = "--at") -> Iterator[None]:
    """Report errors of a predictor with flags in place of arguments; `at` is that of the state to load."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for words, flag in _WORDS:
            message = re.sub(words, flag.format(at=at), message)
        if at != "--at":
            message = message.removesuffix(", or 'training'")
        raise type(error)(message) from error
