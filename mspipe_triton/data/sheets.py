"""Files of tables, opened by their content: delimited text, JSON lines, Parquet and Arrow, plain or compressed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet

from mspipe_triton.data.origin import shown_path
from mspipe_triton.data.text import open_text
from mspipe_triton.errors import DataError

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_SUFFIXES = (
    ".csv", ".tsv", ".txt", ".dat", ".data", ".edges", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".jsonl",
    ".ndjson", ".json",
)  # fmt: skip
_OTHERS = {
    b"PK": "a zip archive or a spreadsheet; unpack it, or save it as CSV or Parquet",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet; save it as CSV",
    b"\x93NUMPY": "a numpy array; events need named columns: use CSV, Parquet, or EventStream.of",
    b"%PDF": "a PDF document; save the table as CSV",
    **dict.fromkeys((b"<!", b"<?", b"<html", b"<HTML"), "a web page or XML; fetch the table itself"),
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with git lfs pull",
}
_COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".lz4")


class Sheet(Protocol):
    """A table whose columns are known and can be read by name."""

    @property
    def name(self) -> str:
        """The file's name in messages."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def form(self) -> str:
        """The format, as in "commas, header"."""

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Read columns by name; a file without types reads those in `text` as text."""


@dataclass(frozen=True)
class ArrowSheet:
    """A table in memory, of a file or a Python object."""

    name: str
    table: pa.Table
    is_file: bool = True

    @property
    def form(self) -> str:
        """The format."""
        return "Arrow" if self.is_file else "memory"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.table.column_names)

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Select columns by name."""
        return self.table.select(list(names))


@dataclass(frozen=True)
class ParquetSheet:
    """A Parquet file, of which only the columns wanted are read."""

    name: str
    path: Path
    form = "Parquet"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        with _reporting(self.name):
            return tuple(pyarrow.parquet.read_schema(self.path).names)

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Read columns by name.

        Raises:
            DataError: the file is damaged.
        """
        with _reporting(self.name), pyarrow.parquet.ParquetFile(self.path) as file:
            return file.read(columns=list(names)).select(list(names))


@dataclass(frozen=True)
class JsonSheet:
    """Records as JSON, one per line or in one array."""

    name: str
    content: bytes
    table: pa.Table
    form = "JSON"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.table.column_names)

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Read columns by name; those in `text` that Arrow has made floats or dates are read again, exactly."""
        table = self.table.select(list(names))
        for name in (each for each in names if each in text):
            kind = table[name].type
            if pa.types.is_floating(kind) or (name != time and pa.types.is_timestamp(kind)):
                values = pa.array([_text(each.get(name)) for each in _records(self.name, self.content)], pa.string())
                table = table.set_column(table.column_names.index(name), name, values)
        return table


def open_sheets(path: Path, encoding: str = "", no_header: bool = False) -> list[Sheet]:
    """Open a file, or the files of a folder in the order of their names, in which numbers count by value.

    Raises:
        DataError: a file is missing, empty, or of no known format, or the folder has no tables.
    """
    with _reporting(shown_path(path)):
        if not path.is_dir():
            return [_open(path, encoding, no_header)]
        files = [each for each in path.iterdir() if _is_table(each)]
        files = [each for each in files if each.stat().st_size] or files  # Spark writes empty parts
    if not files:
        kinds = ", ".join(_SUFFIXES)
        raise DataError(f"{shown_path(path)}: the folder has no tables ({kinds}, perhaps compressed); name another")
    return [_open(file, encoding, no_header) for file in sorted(files, key=_by_number)]


def table_name(path: Path) -> str:
    """Return a path's name without the suffixes of format and compression."""
    return _stem(path).stem or path.name


def _open(path: Path, encoding: str, no_header: bool) -> Sheet:
    name = shown_path(path)
    with _reporting(name):
        if not path.exists():
            raise DataError(f"{name}: no such file; name a table of events, a folder of them, or `synthetic`")
        if not path.is_file():
            kind = "a folder inside a folder; move its files up" if path.is_dir() else "no regular file; write one"
            raise DataError(f"{name}: is {kind}")
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty; it needs a header and a row per event")
        with open(path, "rb") as file:
            start = file.read(8)
            content: Any = mmap(file.fileno(), 0, access=ACCESS_READ)
        compression = next((kind for mark, kind in _COMPRESSIONS.items() if start.startswith(mark)), None)
        if compression is not None:
            content = pa.CompressedInputStream(pa.py_buffer(content), compression).read()
            start = content[:8]
        return _opened(name, path, content, start, encoding, no_header)


@contextmanager
def _reporting(name: str) -> Iterator[None]:
    """Report a file that cannot be read, or is damaged, as DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read: {error.strerror}; check its permissions") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise DataError(f"{name}: cannot be read, as if damaged or cut short: {reason}; fetch it again") from error


def _opened(name: str, path: Path, content: Any, start: bytes, encoding: str, no_header: bool) -> Sheet:
    """Open the decompressed content of a file by its first bytes."""
    if start.startswith(b"PAR1"):
        if isinstance(content, mmap):
            sheet = ParquetSheet(name, path)
            return sheet if sheet.columns else ArrowSheet(name, pa.table({}))
        return ArrowSheet(name, pyarrow.parquet.read_table(pa.BufferReader(content)))
    if start.startswith((b"ARROW1", b"FEA1")):
        return ArrowSheet(name, pyarrow.feather.read_table(pa.BufferReader(pa.py_buffer(content)), memory_map=False))
    if start.startswith(b"\xff\xff\xff\xff"):
        return ArrowSheet(name, pa.ipc.open_stream(pa.py_buffer(content)).read_all())
    other = next((fault for mark, fault in _OTHERS.items() if content[:32].startswith(mark)), None)
    if other is not None:
        raise DataError(f"{name}: is {other}")
    if content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _open_json(name, content[:])
    return open_text(name, content, encoding, no_header)


def _open_json(name: str, content: bytes) -> JsonSheet:
    """Open JSON lines, or one array of records, with the types that Arrow infers."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}: line {line}: is not UTF-8; save the JSON as UTF-8") from error
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return JsonSheet(name, content, _inferred(_records(name, content)))
    try:
        table = pyarrow.json.read_json(pa.BufferReader(content))
    except pa.ArrowInvalid:
        table = _inferred(_records(name, content))
    return JsonSheet(name, content, table)


def _records(name: str, content: bytes) -> list[dict[str, Any]]:
    """Parse JSON with Python, exactly; a fault is reported with its row."""
    text, values = content.decode("utf-8-sig"), list[Any]()
    try:
        if text.lstrip().startswith("["):
            values = json.loads(text)
        else:
            for line in (each for each in text.split("\n") if each.strip()):
                values.append(json.loads(line))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}" if text.lstrip().startswith("[") else f"row {len(values) + 1}"
        raise DataError(f"{name}: {place}: is not JSON: {error.msg}; write one object per line") from error
    except RecursionError as error:
        raise DataError(f"{name}: is JSON nested too deeply; write one object per line") from error
    wrong = next((row for row, value in enumerate(values, 1) if not isinstance(value, dict)), None)
    if wrong is not None:
        raise DataError(f'{name}: row {wrong}: is no JSON object; write objects such as {{"src": 1, "dst": 2, "t": 3}}')
    return values


def _inferred(records: list[dict[str, Any]]) -> pa.Table:
    """Make a table of records; a column of mixed types becomes text."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array([_text(value) for value in values], pa.string())
    return pa.table(columns)


def _text(value: Any) -> str | None:
    """Return a JSON value as text, None for null."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair
    return None if value is None else json.dumps(value)


def _is_table(path: Path) -> bool:
    """Return True for a file in a folder that is a table by its name: by its suffix, or as Spark and Konect call it."""
    usual = _stem(path).suffix.lower() in _SUFFIXES or path.name.startswith(("part-", "out."))
    return usual and path.name[0] not in "._" and not path.name.lower().startswith(("readme", "license"))


def _stem(path: Path) -> Path:
    """Return a path without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


def _by_number(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts part-2 before part-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
