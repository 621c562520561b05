"""Records as JSON: one per line, or in one array, in UTF-8 or UTF-16; integers and words stay exact."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.json

from mspipe_triton.errors import DataError

_BEGINNING = re.compile(rb"\{|\[\s*([\[{\]\d\"]|$)")  # not that of a header such as [id]
_UTF16 = {
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"{\0": "utf-16-le", b"[\0": "utf-16-le", b"\0{": "utf-16-be",
    b"\0[": "utf-16-be",
}  # fmt: skip


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


def json_content(content: Any) -> bytes | None:
    """Return the content of a JSON file, UTF-16 converted to UTF-8; None if it does not start as JSON does."""
    encoding = _UTF16.get(content[:2])
    start = content[:4096]
    if encoding is not None:
        start = start.decode(encoding, "replace").lstrip("\ufeff").encode()
    if not _BEGINNING.match(start.lstrip(b"\xef\xbb\xbf \t\r\n")):
        return None
    whole = bytes(content[:])
    return whole if encoding is None else whole.decode(encoding, "replace").encode()


def open_json(name: str, content: bytes) -> JsonSheet:
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
    _refuse_columns(name, table)
    return JsonSheet(name, content, table)


def _refuse_columns(name: str, table: pa.Table) -> None:
    """Refuse a single object that holds all events: in columns, as pandas writes by default, or in a list."""
    nested = [pa.types.is_nested(kind) for kind in table.schema.types]
    lists = [pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) for kind in table.schema.types]
    if table.num_rows == 1 and any(nested) and (all(nested) or any(lists)):
        raise DataError(
            f"{name}: is one object that holds {'a list of events' if any(lists) else 'columns'}; write records, one "
            'object per event, as in df.to_json(orient="records", lines=True)'
        )


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
    except ValueError as error:
        raise DataError(f"{name}: has an integer of too many digits; write fewer") from error
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
