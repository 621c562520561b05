"""Files of tables, opened by their content: delimited text, JSON lines, Parquet and Arrow, plain or compressed."""

from __future__ import annotations

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
import pyarrow.parquet

from mspipe_triton.data.json_sheets import json_content, open_json
from mspipe_triton.data.origin import check_exists, shown_path
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


def open_sheets(path: Path, encoding: str = "", no_header: bool = False) -> list[Sheet]:
    """Open a file, or the files of a folder and its sub-folders by their paths, in which numbers count by value.

    Raises:
        DataError: a file is missing, empty, or of no known format, the folder has no tables, or one of them twice.
    """
    with _reporting(shown_path(path)):
        if not path.is_dir():
            return [_open(path, encoding, no_header)]
        files = [each for each in path.rglob("*") if _is_table(each.relative_to(path)) and not each.is_dir()]
        files = [each for each in files if each.is_file() and each.stat().st_size] or files  # Spark writes empty parts
    if not files:
        kinds = ", ".join(_SUFFIXES)
        raise DataError(f"{shown_path(path)}: the folder has no tables ({kinds}, perhaps compressed); name another")
    files.sort(key=lambda file: _by_number(file.relative_to(path)))
    _refuse_copies(files)
    return [_open(file, encoding, no_header) for file in files]


def _refuse_copies(files: Sequence[Path]) -> None:
    """Refuse two files that differ only in the suffixes of format and compression."""
    first = dict[Path, Path]()
    for file in files:
        table = _stem(file)
        table = table.with_suffix("") if table.suffix.lower() in _SUFFIXES else table
        other = first.setdefault(table, file)
        if other != file:
            raise DataError(f"{shown_path(other)} and {file.name}: both seem to hold one table; remove one")


def table_name(path: Path) -> str:
    """Return a path's name without the suffixes of format and compression."""
    return _stem(path).stem or path.name


def _open(path: Path, encoding: str, no_header: bool) -> Sheet:
    name = shown_path(path)
    with _reporting(name):
        check_exists(path)
        if not path.is_file():
            raise DataError(f"{name}: is no regular file; write one")
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
    records = json_content(content)
    if records is not None:
        return open_json(name, records)
    return open_text(name, content, encoding, no_header)


def _is_table(path: Path) -> bool:
    """Return True for a path in a folder that is a table by its name: by its suffix, or as Spark and Konect call it."""
    usual = _stem(path).suffix.lower() in _SUFFIXES or path.name.startswith(("part-", "out."))
    hidden = any(part[0] in "._" for part in path.parts)
    return usual and not hidden and not path.name.lower().startswith(("readme", "license"))


def _stem(path: Path) -> Path:
    """Return a path without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


def _by_number(path: Path) -> list[list[tuple[int, int | str]]]:
    """Return a key that sorts part-2 before part-10, and day=2/b before day=10/a."""
    parts = (re.split(r"(\d+)", part) for part in path.parts)
    return [[(0, int(each)) if each.isdigit() else (1, each) for each in part] for part in parts]
