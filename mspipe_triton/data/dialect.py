"""Dialect of delimited text, recognised from its first lines: delimiter, comments and header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mspipe_triton.data.names import REQUIRED, default_columns, plain_name
from mspipe_triton.data.times import is_time

_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", "::": "::", " ": "blanks"}
_JODIE = "commaseparatedlistoffeatures"
_KONECT = re.compile(r"%\s*(sym|asym|bip)\b")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_COMMA_DECIMAL, _POINT_DECIMAL = re.compile(r"[+-]?\d+,\d+"), re.compile(r"[+-]?\d+\.\d+")
_EXCEL = re.compile(r'"?sep=.{1,2}')  # a first line that tells Excel the delimiter


@dataclass(frozen=True)
class Dialect:
    """Form of a delimited text.

    Args:
        delimiter: one character, "::", or " " for any run of blanks.
        width: values per row.
        header: fields of the header, or () if the text has none.
        rows: the first rows, for examples.
        konect: "bip", "asym" or "sym" if the first line is that of a Konect file, else "".
        comment_header: the header is a comment, as numpy.savetxt writes it.
    """

    delimiter: str
    width: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    konect: str = ""
    comment_header: bool = False

    @staticmethod
    def of(lines: Sequence[str], no_header: bool) -> Dialect:
        """Recognise the dialect of a text by its first lines, none of them blank."""
        konect = _KONECT.match(lines[0])
        rows = [line for line in lines if not line.startswith(("#", "%")) and not _EXCEL.fullmatch(line)] or list(lines)
        delimiter = " " if konect is not None else _delimiter(rows)
        counts = Counter(len(fields(line, delimiter)) for line in (rows if no_header else rows[1:] or rows))
        dialect = Dialect(delimiter, max(counts, key=lambda width: counts[width]), (), ())
        first = next((place for place, line in enumerate(lines) if not dialect.is_comment(line)), len(lines))
        rest = [tuple(fields(line, delimiter)) for line in lines[first:] if not dialect.is_comment(line)]
        if konect is not None or no_header:
            return Dialect(delimiter, dialect.width, (), tuple(rest), konect[1] if konect is not None else "")
        headless = first > 0 and any(map(is_value, rest[0] if rest else ()))
        header = _names(fields(lines[first - 1], delimiter)) if headless else ()
        if len(set(REQUIRED) & set(default_columns(header))) == len(REQUIRED) and len(header) == dialect.width:
            return Dialect(delimiter, dialect.width, header, tuple(rest), comment_header=True)
        header, rest = _names(rest[0]) if rest else (), rest[1:]
        return Dialect(delimiter, dialect.width, _widened(header, rest), tuple(rest))

    def is_comment(self, line: str) -> bool:
        """Return True for a line that starts with # or %, unless it may be a row or header, as "#python,3,5" may."""
        if _EXCEL.fullmatch(line):
            return True
        if not line.startswith(("#", "%")):
            return False
        marked = len(line) == 1 or line[1].isspace() or line[1] in "#%"
        return marked or len(fields(line, self.delimiter)) != self.width

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: those of the header, or 1, 2, 3, … without one; JODIE's features are f0, f1, …"""
        if not self.header:
            return tuple(str(number + 1) for number in range(self.width))
        if plain_name(self.header[-1]) == _JODIE:
            named = self.header[:-1]
            return (*named, *(f"f{number}" for number in range(self.width - len(named))))
        before = Counter[str]()
        names = []
        for name in self.header:  # a name that occurs again gets a number, as pandas does it
            names.append(f"{name}.{before[name]}" if name and before[name] else name)
            before[name] += 1
        return tuple(names)

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

    def narrow_header(self) -> tuple[int, int] | None:
        """Return the number of values in the first line and in the rows, if these have more, at least three.

        The first line is then a title, and may have hidden the delimiter, by which most rows have another width.
        """
        if 2 * sum(len(row) == len(self.header) for row in self.rows) > len(self.rows):
            return None
        first, rows = self.delimiter.join(self.header), [self.delimiter.join(row) for row in self.rows]
        for delimiter in _DELIMITERS if len(rows) > 1 else ():
            count, widths = len(fields(first, delimiter)), Counter(len(fields(row, delimiter)) for row in rows)
            width, agreeing = widths.most_common(1)[0]
            if width > max(count, 2) and agreeing > len(rows) / 2:
                return count, width
        return None

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


def _names(values: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a header, without the mark of a comment."""
    names = [name.strip() for name in values]
    first = names[0].lstrip("#%").strip()
    return tuple([first, *names[1:]] if first or not names[0] else names[1:])  # a mark alone is no name


def _widened(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Add a column without a name if each row has one value more than the header: an empty last one, or a row number.

    R writes row numbers so; other programs end rows, but not the header, with a delimiter.
    """
    if not rows or any(len(row) != len(header) + 1 for row in rows) or plain_name(header[-1]) == _JODIE:
        return header
    if not any(row[-1] for row in rows):
        return (*header, "")
    numbers = [row[0] for row in rows]
    counted = any(numbers == [str(start + place) for place in range(len(rows))] for start in (0, 1))
    return ("", *header) if counted else header


def _delimiter(lines: Sequence[str]) -> str:
    """Choose the delimiter by which most lines have as many values as the first one, at least three if possible.

    A delimiter inside the first value, as a comma in "1,2,3,a" of "1,2,3,a;b;c", speaks against one.
    """

    def candidates(least: int, share: float) -> Iterator[str]:
        for delimiter in _DELIMITERS:
            first, *others = (fields(line, delimiter) for line in lines)
            agreeing = sum(len(other) == len(first) for other in others)
            jodie = plain_name(first[-1]) == _JODIE
            if len(first) >= least and (jodie or agreeing >= share * len(others)):
                yield delimiter

    def split(delimiter: str) -> bool:
        value = fields(lines[-1], delimiter)[0]
        return _COMMA_DECIMAL.fullmatch(value) is not None or not any(other in value for other in ",;|\t")

    for least, share in ((3, 1.0), (3, 0.5), (2, 0.5), (2, 0.0)):
        choices = list(candidates(least, share))
        if choices:
            return next(filter(split, choices), choices[0])
    return ","
