"""Words of messages about a predictor: those of requests and of followed sources in place of Python's arguments."""

from __future__ import annotations

import re
from typing import Literal

# Patterns, and what replaces each in messages about a body in JSON, about one in Arrow, whose options are in the query,
# and about a line of a source that is followed.
_WORDS = (
    (r"^time(?= is )", "t", "t", "time"),
    (r"\bload an earlier state with at=\.\.\., or leave", "leave", "leave", "leave"),
    (r"\blate='drop'", '"late": "drop"', "late=drop in the query", "--late drop"),
    (r"\bnew=True\b", '"new": true', "new=true in the query", '"new": true'),
    (
        r"\ba model that has seen it cannot go back; load\(run, at=\.\.\.\) has the state of an earlier time",
        *3 * ("a service cannot go back, so give a later time",),
    ),
    (r"\bpass features=$", 'send an object of them, "features"', "send a column of each", "add them"),
    (r"\bpass a table with\b", "send an object with", "send columns", "write an object with"),
    (r"\bis a table, and\b", "is an object, and", "are columns by name, and", "is an object, and"),
    (r"\bpass a matrix \(\.to_numpy\(\)\)", "send a list per event", "send one column of lists", "write a list"),
)  # fmt: skip
_FORMS = {"JSON": 1, "Arrow": 2, "line": 3}


def in_words_of(form: Literal["JSON", "Arrow", "line"], message: str) -> str:
    """Return a predictor's message about input in a form, with the words of that form in place of arguments."""
    for words in _WORDS:
        message = re.sub(words[0], words[_FORMS[form]], message)
    return message
