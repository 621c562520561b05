"""Arrow IPC streams from clients, which are not to be trusted, and the columns of ids, times and features in them."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_columns import plain
from mspipe_triton.data.origin import shown
from mspipe_triton.serving.service.web.refusals import Refusal

_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError, struct.error)
_COMPRESSION = 3  # number of the field of a record batch
_COLUMNS = 4096
_TYPES = "columns are numbers, text, dates or lists of numbers"


def read_table(data: bytes, limit: int) -> pa.Table:
    """Read an Arrow IPC stream whose columns have at most `limit` bytes together, with repeated values written out.

    Raises:
        Refusal: the bytes are no valid stream, buffers are compressed, or the table is too large.
    """
    try:
        if any(_is_compressed(message) for message in pa.ipc.MessageReader.open_stream(data)):
            raise Refusal(400, "the Arrow stream has compressed buffers; write it without compression")
        with pa.ipc.open_stream(data) as reader:
            names = reader.schema.names
            if len(names) > _COLUMNS:
                raise Refusal(413, f"the Arrow stream has {len(names)} columns; the limit is {_COLUMNS}")
            for field in reader.schema:
                if not _fits(field.type):
                    kind = str(field.type)[:60]
                    raise Refusal(422, f"column {shown(field.name)} is of type {kind}; {_TYPES}")
            table = reader.read_all()
        table.validate(full=True)
        size = max(table.nbytes, sum(_decoded(column) for column in table.columns))
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise Refusal(400, f"the body is no valid Arrow IPC stream: {reason}") from error
    if size > limit:
        raise Refusal(413, f"the Arrow table takes {size} bytes; the limit is {limit}, so send it in parts")
    if len(set(names)) < len(names):
        raise Refusal(422, f"column {shown(Counter(names).most_common(1)[0][0])} appears twice; rename one of them")
    return table


def check_columns(table: pa.Table, required: Collection[str], optional: Collection[str] = ()) -> None:
    """Refuse a table that lacks a column or has another.

    Raises:
        Refusal: with the name.
    """
    names = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise Refusal(422, f"column {missing[0]} is missing; the columns are {names}")
    others = set(table.column_names) - {*required, *optional}
    if others:
        raise Refusal(422, f"column {shown(min(others))} is unknown; the columns are {names}")


def ids_of(table: pa.Table, name: str) -> pa.Array:
    """Return a column of ids [M] as integers or text.

    Raises:
        Refusal: it has another type, or a gap.
    """
    column = plain(table[name])
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind)):
        raise Refusal(422, f"column {name} is of type {str(kind)[:60]}; ids are integers or text")
    return _full(column, name)


def times_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of times [M] as numbers, dates or text.

    Raises:
        Refusal: it has another type, or a gap.
    """
    column = plain(table[name])
    kind = column.type
    if not (_is_number(kind) or pa.types.is_string(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise Refusal(422, f"column {name} is of type {str(kind)[:60]}; times are numbers, dates or text")
    return _full(column, name)


def features_of(table: pa.Table, others: Collection[str]) -> pa.Table | np.ndarray | None:
    """Return the features of events: a table of all columns but `others`, or a matrix [M, W] from a column of lists.

    Raises:
        Refusal: a column is of a type that features do not have, or lists differ in length or have gaps.
    """
    names = [name for name in table.column_names if name not in others]
    if names == ["features"] and _is_list(table["features"].type):
        return _matrix(table["features"])
    columns = {name: plain(table[name]) for name in names}
    for name, column in columns.items():
        kind = column.type
        if not (_is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)):
            raise Refusal(422, f"column {shown(name)} is of type {str(kind)[:60]}; features are numbers or text")
    return pa.table(columns) if columns else None


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    values = lists.flatten()
    lengths = pc.unique(pc.list_value_length(lists))
    if not _is_number(values.type):
        raise Refusal(422, f"features are lists of type {str(values.type)[:60]}; give lists of numbers")
    if lists.null_count or values.null_count or len(lengths) > 1:
        raise Refusal(422, "features have gaps or differ in length; give a list of as many numbers for each event")
    numbers: np.ndarray = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers.reshape(len(lists), lengths[0].as_py() if len(lengths) else 0)


def _full(column: pa.Array, name: str) -> pa.Array:
    if column.null_count:
        raise Refusal(422, f"column {name} has no value in row {pc.index(column.is_null(), True).as_py()}; fill it in")
    return column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _fits(kind: pa.DataType) -> bool:
    """Return True for a type that ids, times or features have, whose rows take some bytes each."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_number(kind.value_type) or _is_text(kind.value_type)
    if _is_list(kind):
        return _is_number(kind.value_type) and not (types.is_fixed_size_list(kind) and kind.list_size == 0)
    dated = types.is_timestamp(kind) or types.is_date(kind)
    return bool(_is_number(kind) or _is_text(kind) or types.is_boolean(kind) or dated)


def _decoded(column: pa.ChunkedArray) -> int:
    """Return the number of bytes that a column takes without its dictionary or its views, 0 if it has none."""
    kind = column.type
    if pa.types.is_string_view(kind):
        return sum(int(_lengths(chunk).sum()) for chunk in column.chunks)
    if not pa.types.is_dictionary(kind):
        return 0
    if _is_number(kind.value_type):
        return len(column) * 8
    sizes = [pc.take(pa.array(_lengths(chunk.dictionary)), chunk.indices) for chunk in column.chunks]
    return sum(pc.sum(each).as_py() or 0 for each in sizes)


def _lengths(texts: pa.Array) -> np.ndarray:
    """Return the numbers of bytes [M] int64 of texts."""
    if not len(texts) or not pa.types.is_string_view(texts.type):
        return np.asarray(pc.fill_null(pc.binary_length(texts), 0).cast(pa.int64()))
    views = np.frombuffer(texts.buffers()[1], np.int32)[::4]  # each begins with the length of its text
    return views[texts.offset : texts.offset + len(texts)].astype(np.int64)


def _is_compressed(message: pa.Message) -> bool:
    """Return True for a record batch, or a dictionary's, whose buffers are compressed.

    A few bytes could grow without bound, and pyarrow has no limit for that. The metadata, which pyarrow has checked, is
    a flatbuffer: a table starts with the distance back to its list of fields, which has a distance for each, or 0.
    """
    if message.type not in ("record batch", "dictionary"):
        return False
    data = message.metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        """Return the place of a field, 0 if the table does not have it."""
        start = table - int(struct.unpack_from("<i", data, table)[0])
        size = struct.unpack_from("<H", data, start)[0]
        entry = 4 + 2 * number
        distance = struct.unpack_from("<H", data, start + entry)[0] if entry < size else 0
        return table + int(distance) if distance else 0

    def follow(place: int) -> int:
        """Return the place that an offset names."""
        return place + int(struct.unpack_from("<I", data, place)[0])

    batch = follow(field(follow(0), 2))
    if message.type == "dictionary":
        batch = follow(field(batch, 1))
    return field(batch, _COMPRESSION) != 0
