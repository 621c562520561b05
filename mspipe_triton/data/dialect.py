"""Dialect of delimited text, recognised from its first lines: delimiter, comments and header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mspipe_triton.data.names import plain_name
from mspipe_triton.data.times import is_time

_DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", "::": "::", " ": "blanks"}
_JODIE = "commaseparatedlistoffeatures"
_KONECT = re.compile(r"%\s*(sym|asym|bip)\b")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_COMMA_DECIMAL, _POINT_DECIMAL = re.compile(r"[+-]?\d+,\d+"), re.compile(r"[+-]?\d+\.\d+")


@dataclass(frozen=True)
class Dialect:
    """Form of a delimited text.

    Args:
        delimiter: one character, "::", or " " for any run of blanks.
        width: values per row.
        header: fields of the header, or () if the text has none.
        rows: the first rows, for examples.
        konect: "bip", "asym" or "sym" if the first line is that of a Konect file, else "".
    """

    delimiter: str
    width: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    konect: str = ""

    @staticmethod
    def of(lines: Sequence[str], no_header: bool) -> Dialect:
        """Recognise the dialect of a text by its first lines, none of them blank."""
        rows = [line for line in lines if not line.startswith(("#", "%"))] or list(lines)
        delimiter = _delimiter(rows)
        counts = Counter(len(fields(line, delimiter)) for line in (rows if no_header else rows[1:] or rows))
        dialect = Dialect(delimiter, max(counts, key=lambda width: counts[width]), (), ())
        konect = _KONECT.match(lines[0])
        rest = [tuple(fields(line, delimiter)) for line in lines if not dialect.is_comment(line)]
        headed = not no_header and konect is None and bool(rest)
        header = tuple(name.strip().lstrip("#%").strip() for name in rest[0]) if headed else ()
        kind = konect[1] if konect else ""
        return Dialect(delimiter, dialect.width, header, tuple(rest[1 if headed else 0 :]), kind)

    def is_comment(self, line: str) -> bool:
        """Return True for a line that starts with # or %, unless it may be a row or header, as "#python,3,5" may."""
        if not line.startswith(("#", "%")):
            return False
        marked = len(line) == 1 or line[1].isspace() or line[1] in "#%"
        return marked or len(fields(line, self.delimiter)) != self.width

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: those of the header, or 1, 2, 3, … without one; JODIE's features are f0, f1, …"""
        if not self.header:
            return tuple(str(number + 1) for number in range(self.width))
        if plain_name(self.header[-1]) == _JODIE:
            named = self.header[:-1]
            return (*named, *(f"f{number}" for number in range(self.width - len(named))))
        return self.header

    @property
    def defaults(self) -> dict[str, str]:
        """Columns by role that follow from the form: the first three without a header; Konect's third is a weight."""
        if self.header:
            return {}
        places = ("1", "2", "4" if self.konect else "3")
        return {
            role: place for role, place in zip(("src", "dst", "t"), places, strict=True) if int(place) <= self.width
        }

    @property
    def decimal_comma(self) -> bool:
        """True if numbers are written as 3,5."""
        values = [value for row in self.rows for value in row]
        comma, point = (any(map(form.fullmatch, values)) for form in (_COMMA_DECIMAL, _POINT_DECIMAL))
        return self.delimiter != "," and comma and not point

    def describe(self) -> str:
        """Describe the dialect, as in "commas, header"."""
        form = "Konect" if self.konect else "header" if self.header else "no header"
        return f"{_DELIMITERS[self.delimiter]}, {form}"


def fields(line: str, delimiter: str) -> list[str]:
    """Split a line into its values."""
    if delimiter == "::":
        return line.split("::")
    if delimiter == " ":
        line = re.sub(r"[ \t]+", " ", line.strip())
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]


def looks_like_data(header: Sequence[str]) -> bool:
    """Return True if all fields of a header are numbers, dates or empty, so that it is a row of the table."""
    return all(is_value(name) or not name for name in header) and any(header)


def is_value(text: str) -> bool:
    """Return True for a number or a date, which no column is called."""
    text = text.strip()
    return bool(_NUMBER.fullmatch(text)) or (text[:1].isdigit() and is_time(text))


def _delimiter(lines: Sequence[str]) -> str:
    """Choose the delimiter by which most lines have as many values as the first one, at least three if possible."""

    def candidates(least: int, share: float) -> Iterator[str]:
        for delimiter in _DELIMITERS:
            first, *others = (fields(line, delimiter) for line in lines)
            agreeing = sum(len(other) == len(first) for other in others)
            jodie = plain_name(first[-1]) == _JODIE
            if len(first) >= least and (jodie or agreeing >= share * len(others)):
                yield delimiter

    for least, share in ((3, 1.0), (3, 0.5), (2, 0.5), (2, 0.0)):
        for delimiter in candidates(least, share):
            return delimiter
    return ","
