"""Words of messages about a predictor: the fields of requests in place of Python's arguments."""

from __future__ import annotations

import re

# Patterns, each with what replaces it for a body in JSON, and for one in Arrow, whose options are in the query.
_WORDS = (
    (r"^time(?= is )", "t", "t"),
    (r"\bload an earlier state with at=\.\.\., or leave", "leave", "leave"),
    (r"\blate='drop'", '"late": "drop"', "late=drop in the query"),
    (r"\bnew=True\b", '"new": true', "new=true in the query"),
    (r"\ba model that has seen it cannot go back; load\(run, .*", *2 * ("a service cannot go back; give a later time",)),
    (r"\bpass features=$", 'send "features" as an object of columns, or as a matrix', "send a column of each"),
    (r"\bpass a table with ", "send an object of columns: ", "send a column of each: "),
    (r"\bis a table, and\b", "is an object, and", "has columns, and"),
    (r"\bpass a matrix \(\.to_numpy\(\)\)", "send a list of numbers per event", "send a column of lists, features"),
)  # fmt: skip


def in_words_of_requests(message: str, arrow: bool) -> str:
    """Return a predictor's message with fields in place of arguments; `arrow` says that the body is no JSON."""
    for pattern, field, column in _WORDS:
        message = re.sub(pattern, column if arrow else field, message)
    return message
