"""Delimited text, plain or in another encoding: opened by its dialect, and read by column."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from mmap import mmap
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mspipe_triton.data.dialect import Dialect, fields
from mspipe_triton.data.quotes import inspect_quotes
from mspipe_triton.errors import ConfigError, DataError

_HEAD = 1 << 18  # bytes by which the dialect is recognised
_LINES = 100
_SEPARATOR = "\x1f"  # stands for "::", since a delimiter has one character
_MARKED = re.compile(rb"(?m)^[#%][^\n]*\n?")
_COMMA_NUMBER = r"^\s*[+-]?(?:\d+,?\d*|,\d+)\s*$"
_CONVERSION = re.compile(r"In CSV column #(\d+): CSV conversion error")
# In a column of numbers these are gaps; in a column of text they are words.
_NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "none", "<NA>", "#N/A", "\\N"]


@dataclass(frozen=True)
class TextFile:
    """A delimited text.

    Args:
        name: the file's name in messages.
        content: the text in UTF-8, with the rows from byte `start` on.
        quoted: quotes enclose values. multiline: a row may have several lines.
    """

    name: str
    dialect: Dialect
    content: bytes | mmap
    start: int
    quoted: bool = True
    multiline: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.dialect.columns

    @property
    def form(self) -> str:
        """The format, as in "commas, header"."""
        return self.dialect.describe()

    @property
    def parsed_delimiter(self) -> str:
        """The delimiter in `content`, one character."""
        return _SEPARATOR if self.dialect.delimiter == "::" else self.dialect.delimiter

    def fits(self) -> bool:
        """Return True if each row has a value per column."""
        try:
            self._parse(pyarrow.csv.ConvertOptions(include_columns=["0"], column_types={"0": pa.string()}), None)
        except pa.ArrowInvalid:
            return False
        return True

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Read columns by name, those in `text` as text, others as the type that fits all their values.

        Args:
            time: the column of times, in which a decimal comma becomes a point. In other columns read as text it does
                so if all values are numbers.

        Raises:
            DataError: a row has more or fewer values than there are columns, or the text is not UTF-8.
        """
        numbers = {name: str(place) for place, name in reversed(list(enumerate(self.columns)))}
        places = {numbers[name]: name for name in names}
        convert = pyarrow.csv.ConvertOptions(
            include_columns=list(places),
            column_types={place: pa.string() for place, name in places.items() if name in text},
            null_values=_NULLS,
            strings_can_be_null=False,
            decimal_point="," if self.dialect.decimal_comma else ".",
        )
        table = self._converted(convert).rename_columns(list(places.values()))
        for place, name in enumerate(table.column_names if self.dialect.decimal_comma else ()):
            column = table[name]
            if name == time or (name in text and pc.all(pc.match_substring_regex(column, _COMMA_NUMBER)).as_py()):
                points = pc.replace_substring_regex(column, r"^(\s*[+-]?\d*),(\d*\s*)$", r"\1.\2")
                table = table.set_column(place, name, points)
        return table

    def _converted(self, convert: pyarrow.csv.ConvertOptions) -> pa.Table:
        """Parse the rows; a column whose later values do not fit the type of its first ones is read as text."""
        while True:
            try:
                return self._parse(convert, None)
            except pa.ArrowInvalid as error:
                column = _CONVERSION.match(str(error))
                place = "" if column is None else convert.include_columns[int(column[1])]
                if not place or convert.column_types.get(place) == pa.string():
                    self._explain(error, convert)
                convert.column_types = {**convert.column_types, place: pa.string()}

    def _parse(self, convert: pyarrow.csv.ConvertOptions, faults: list[pyarrow.csv.InvalidRow] | None) -> pa.Table:
        """Parse the rows; with `faults`, on one thread, which appends the first row that cannot be parsed."""

        def report(row: pyarrow.csv.InvalidRow) -> str:
            if faults is not None:
                faults.append(row)
            return "error"

        body = pa.py_buffer(self.content).slice(self.start)
        if not body.size:
            return pa.table({place: pa.array([], pa.string()) for place in convert.include_columns})
        places = [str(place) for place in range(len(self.columns))]
        return pyarrow.csv.read_csv(
            pa.BufferReader(body),
            pyarrow.csv.ReadOptions(use_threads=faults is None, column_names=places),
            pyarrow.csv.ParseOptions(
                delimiter=self.parsed_delimiter,
                quote_char='"' if self.quoted else False,
                newlines_in_values=self.multiline,
                invalid_row_handler=report,
            ),
            convert,
        )

    def _explain(self, error: pa.ArrowInvalid, convert: pyarrow.csv.ConvertOptions) -> NoReturn:
        """Raise the error of the first row that cannot be read, found by a second look."""
        faults: list[pyarrow.csv.InvalidRow] = []
        body = self.content[self.start :]
        try:
            body.decode()
        except UnicodeDecodeError as fault:
            raise _not_decodable(self.name, body, fault, self.dialect) from error
        try:
            self._parse(convert, faults)
        except pa.ArrowInvalid:
            if faults:
                row, expected = faults[0], len(self.columns)
                text = row.text.replace(_SEPARATOR, "::")[:60]
                raise DataError(
                    f"{self.name}: row {row.number}: has {row.actual_columns} values ({text!r}), and there are "
                    f"{expected} columns; correct it, or remove the row"
                ) from error
        raise DataError(f"{self.name}: cannot be read as a table: {str(error).splitlines()[0][:200]}") from error


def open_text(name: str, content: bytes | mmap, encoding: str = "", no_header: bool = False) -> TextFile:
    """Recognise the dialect of a text and prepare its rows for reading.

    Args:
        name: the file's name in messages. content: the file, decompressed.
        encoding: of the text; "" for UTF-8, or UTF-16 if it starts with its mark.
        no_header: the first line is a row.

    Raises:
        DataError: the content is no text, has another encoding, holds no rows, or has a quote that is not closed.
        ConfigError: the encoding is unknown.
    """
    content = _utf8(name, content, encoding)
    if b"\0" in content[:_HEAD]:
        raise DataError(
            f"{name}: is not a text, Parquet, Arrow or JSON file; convert it to one of these, or name the text's "
            "--encoding, such as utf-16"
        )
    if b"\n" not in content[:_HEAD] and b"\r" in content[:_HEAD]:
        content = content[:].replace(b"\r", b"\n")
    places = list(_lines(content))
    if not places:
        raise DataError(f"{name}: the file is empty; it needs a header and a row per event")
    texts = [content[start:stop].decode("utf-8", "replace").rstrip("\r") for start, stop in places]
    dialect = Dialect.of(texts, no_header)
    first = next((place for place, text in zip(places, texts, strict=True) if not dialect.is_comment(text)), None)
    if first is None:
        raise DataError(f"{name}: the file holds only comments; it needs a row per event")
    start = first[1] + 1 if dialect.header and not dialect.comment_header else first[0]
    if any("\ufffd" in column for column in dialect.header) and "\ufffd".encode() not in content[: first[1]]:
        raise DataError(f"{name}: the header is not UTF-8; use --encoding latin-1 or cp1252")
    content, start = _rows(content, min(start, len(content)), dialect)
    return _with_quotes(TextFile(name, dialect, content, start))


def _with_quotes(file: TextFile) -> TextFile:
    """Decide how to read the quotes of a text.

    They belong to the values if they do not enclose them everywhere, and each line has a value per column without them.

    Raises:
        DataError: quotes enclose values with line ends, and one of them is not closed.
    """
    delimiter, literal = file.parsed_delimiter, replace(file, quoted=False)
    if file.content.find(b'"', file.start) < 0:
        return literal
    inside, stray = inspect_quotes(file.content, file.start, delimiter)
    blank = f'{delimiter} "'.encode()
    if stray is not None and delimiter != " " and file.content.find(blank, file.start) >= 0:  # as in `1, "b"`
        close = replace(file, content=file.content[file.start :].replace(blank, f'{delimiter}"'.encode()), start=0)
        if inspect_quotes(close.content, 0, delimiter)[1] is None:
            return _with_quotes(close)
    if (inside or stray is not None) and literal.fits():
        return literal
    if inside and stray is not None:
        value = file.content[file.start :].split(b"\n")[stray].decode("utf-8", "replace").strip()
        raise DataError(
            f"{file.name}: line {stray + 1} of the rows: a quote does not enclose a value: {value[:60]!r}; double it, "
            "or remove it"
        )
    return replace(file, multiline=inside)


def _utf8(name: str, content: bytes | mmap, encoding: str) -> bytes | mmap:
    """Convert a text to UTF-8 without a byte order mark."""
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = encoding or next((each for mark, each in marks.items() if content[:3].startswith(mark)), "utf-8")
    try:
        if codecs.lookup(encoding).name == "utf-8" and not content[:3].startswith(codecs.BOM_UTF8):
            return content
        encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        return content[:].decode(encoding).encode()
    except LookupError:
        raise ConfigError(f"--encoding {encoding!r} is unknown; use one such as utf-8, latin-1 or cp1252") from None
    except UnicodeDecodeError as error:
        raise _not_decodable(name, content[:], error, None) from error


def _not_decodable(name: str, content: bytes, error: UnicodeDecodeError, dialect: Dialect | None) -> DataError:
    """Return the error about the first bytes that are no text in the encoding; without a dialect, by line."""
    row, begin = content.count(b"\n", 0, error.start) + 1, content.rfind(b"\n", 0, error.start) + 1
    end = content.find(b"\n", error.start)
    line, column = content[begin : len(content) if end < 0 else end], ""
    value = line.decode("latin-1").strip()
    if dialect is not None:
        number = len(fields(content[begin : error.start].decode("latin-1") + ".", dialect.delimiter)) - 1
        values = fields(value, dialect.delimiter)
        column, value = (
            f"{(*dialect.columns, '')[min(number, dialect.width)]} ",
            (*values, "")[min(number, len(values))],
        )
    place, fix = "row" if dialect is not None else "line", "use --encoding with the file's own, such as latin-1"
    return DataError(f"{name}: {place} {row}: {column}holds {value[:60]!r}, which is not {error.encoding}; {fix}")


def _lines(content: bytes | mmap) -> list[tuple[int, int]]:
    """Return start and end of the first lines that are not blank."""
    lines, start, size = list[tuple[int, int]](), 0, len(content)
    while start < size and len(lines) < _LINES and start < _HEAD:
        stop = content.find(b"\n", start)
        stop = size if stop < 0 else stop
        if content[start:stop].strip():
            lines.append((start, stop))
        start = stop + 1
    return lines


def _rows(content: bytes | mmap, start: int, dialect: Dialect) -> tuple[bytes | mmap, int]:
    """Remove comments from the rows, and give them one delimiter of one character; returns text and start."""
    if any(content.find(b"\n" + mark, start) >= 0 or content[start : start + 1] == mark for mark in (b"#", b"%")):
        body, parts, place, quotes, counted = content[start:], list[bytes](), 0, 0, 0
        for match in _MARKED.finditer(body):
            quotes, counted = quotes + body.count(b'"', counted, match.start()), match.start()
            if quotes % 2 == 0 and dialect.is_comment(match[0].decode("utf-8", "replace").rstrip("\r\n")):
                parts.append(body[place : match.start()])
                place = counted = match.end()
        if place:
            content, start = b"".join([*parts, body[place:]]), 0
    if dialect.delimiter == "::":
        return content[start:].replace(b"::", _SEPARATOR.encode()), 0
    if dialect.delimiter == " ":
        return _single_blanks(content, start)
    return content, start


def _single_blanks(content: bytes | mmap, start: int) -> tuple[bytes | mmap, int]:
    """Replace runs of blanks by one, and remove those at the ends of lines."""
    marks = (b"\t", b"  ", b" \n", b"\n ", b" \r")
    starts_blank = content[start : start + 1] == b" "
    if not starts_blank and all(content.find(mark, start) < 0 for mark in marks) and content[-1:] != b" ":
        return content, start
    body = content[start:].replace(b"\t", b" ")
    while b"  " in body:
        body = body.replace(b"  ", b" ")
    for old, new in ((b" \r\n", b"\n"), (b" \n", b"\n"), (b"\n ", b"\n")):
        body = body.replace(old, new)
    return body.strip(b" "), 0
