"""Streams from tables in memory, and from and to PyG's `TemporalData`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from mspipe_triton.config import DataConfig
from mspipe_triton.data.assembly import assemble
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.origin import shown
from mspipe_triton.data.sheets import ArrowSheet
from mspipe_triton.data.split import pair_text, split_stream
from mspipe_triton.data.tables import convert, index_names
from mspipe_triton.errors import DataError, InputError

_SWITCHES = ("sort", "bipartite", "one_kind", "raw_features")
_OPTIONS = (*_SWITCHES, "time_format", "split_at", "edge_features", "node_features", "name")
# Words of messages about files and the command line, and those of Python.
_WORDS = (
    (r"--columns (?=\w+=)", ""), (r"with label=$", 'with label=""'),
    (r"--(sort|bipartite|one-kind|raw-features)", r"\1=True"), (r"--(edge|node)-features", r"\1_features"),
    (r"--time-format '([^']*)'", r'time_format="\1"'), (r"--time-format ([^ ;]+)", r'time_format="\1"'),
    (r"\b(one|raw|time)-(kind|features|format)\b", r"\1_\2"), ("the file has rows", "the array has rows"),
    ("the file has", "the frame has"), ("(missing from|twice in) the header", r"\1 the frame"),
    (" in the file(?= \\(rows)", ""),
)  # fmt: skip


@dataclass(frozen=True)
class FrameSheet(ArrowSheet):
    """A table from Python, in which the columns that cannot be converted are null.

    Args:
        faults: the error of each such column.
    """

    is_file: bool = False
    faults: Mapping[str, DataError] = field(default_factory=dict)

    def read(self, names: Sequence[str], text: Collection[str], time: str) -> pa.Table:
        """Select columns by name; the columns of a stream include that of its times, those for advice do not.

        Raises:
            DataError: a column of the stream cannot be converted.
        """
        for name in filter(self.faults.get, names if time else ()):
            raise self.faults[name]
        return super().read(names, text, time)


def stream_of(frame: Any, choice: Mapping[str, Any], options: Mapping[str, Any]) -> EventStream:
    """Make a stream of a table in memory, with a choice of columns by role; see `EventStream.of`."""
    if _is_temporal_data(frame):
        return from_temporal_data(
            frame, **{each: value for each, value in choice.items() if value is not None}, **options
        )
    name = _checked(options)
    columns = _chosen(choice, name)
    with in_words_of_python(frame, options.get("node_features")):
        sort, bipartite, one_kind, raw = (bool(options.get(each, False)) for each in _SWITCHES)
        form = options.get("time_format", "")
        split_at = pair_text(options.get("split_at"))
        data = DataConfig("", columns, sort, bipartite, one_kind, time_format=form, raw_features=raw, split_at=split_at)
        table, faults = convert(frame, name)
        sheet = FrameSheet(name, table, faults=faults)
        stream = assemble([sheet], data, name, options.get("edge_features"), options.get("node_features"))
    assert stream.source is not None
    notes = tuple(map(in_python, stream.source.notes))
    return stream if notes == stream.source.notes else replace(stream, source=replace(stream.source, notes=notes))


@contextmanager
def in_words_of_python(frame: Any, nodes: Any = None) -> Iterator[None]:
    """Report errors about a table from Python, and about one of nodes, with arguments in place of flags."""
    try:
        yield
    except InputError as error:
        message = in_python(str(error))
        message = _with_index(message, nodes if message.startswith("node_features: ") else frame)
        raise type(error)(message) from error


def in_python(message: str) -> str:
    """Return a message about a table with arguments of Python in place of flags, and a frame in place of a file."""
    for words, python in _WORDS:
        message = re.sub(words, python, message)
    return message


def from_temporal_data(data: Any, **options: Any) -> EventStream:
    """Make a stream of PyG's `TemporalData`: src, dst, t, with msg as edge features as they are, and y as labels.

    Its nodes are numbers already, so that they keep them, and rows of other tables still belong to them.

    Args:
        options: `name` and `split_at`.

    Raises:
        DataError: there is another option, or a part is missing or invalid.
        ConfigError: `split_at` cannot be read, or leaves a part of the split empty.
    """
    name = _checked({"name": options.get("name", "temporal data")})
    other = next((each for each in options if each not in ("name", "split_at")), None)
    if other is not None:
        fix = "sort the events before, as in data[data.t.argsort(stable=True)]" if other == "sort" else f"omit {other}"
        raise DataError(f"{name}: TemporalData takes no options but name and split_at; {fix}")
    missing = [part for part in ("src", "dst", "t") if getattr(data, part, None) is None]
    if missing:
        raise DataError(f"{name}: has no {', '.join(missing)}; TemporalData needs src, dst and t")
    message, labels = getattr(data, "msg", None), getattr(data, "y", None)
    if message is not None:
        message = message.reshape(message.shape[0], prod(message.shape[1:]))
        message = message if message.is_floating_point() else message.float()
        message = message if message.shape[1] else None
    t = data.t if data.t.is_floating_point() else data.t.long()
    try:
        stream = EventStream(data.src, data.dst, t, message, labels=labels, name=name)
    except DataError as error:
        fix = "sort the events, as in data[data.t.argsort(stable=True)]"
        raise DataError(str(error).replace("sort the events (--sort)", fix)) from error
    return split_stream(stream, pair_text(options.get("split_at")))


def to_temporal_data(stream: EventStream) -> Any:
    """Convert a stream to PyG's `TemporalData`, with node numbers as src and dst; edge features become msg, labels y.

    Raises:
        DataError: torch_geometric is not installed.
    """
    try:
        from torch_geometric.data import TemporalData
    except ImportError:
        raise DataError("torch_geometric is not installed; install it with pip install torch-geometric") from None
    parts = {"src": stream.src, "dst": stream.dst, "t": stream.t, "msg": stream.edge_rows(), "y": stream.labels}
    return TemporalData(**{part: values for part, values in parts.items() if values is not None})


def _is_temporal_data(frame: Any) -> bool:
    return any(kind.__name__ == "TemporalData" for kind in type(frame).__mro__)


def _checked(options: Mapping[str, Any]) -> str:
    """Check the options of a stream, and return its name.

    Raises:
        DataError: an option is unknown, or is of the wrong type.
    """
    name = options.get("name", "frame")
    if not isinstance(name, str):
        raise DataError(f"name is {shown(name)}, not text; use text, as in name='shop'")
    for option, value in options.items():
        if option not in _OPTIONS:
            raise DataError(f"{name}: there is no option {option!r}; the options are {', '.join(_OPTIONS)}")
        if option in _SWITCHES and not isinstance(value, bool | np.bool_):
            raise DataError(f"{name}: {option} is {shown(value)}; use {option}=True or {option}=False")
    return name


def _chosen(choice: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the columns that the user has chosen, by role, with the features' names in the form of CSV.

    Raises:
        DataError: a choice is no name.
    """
    features = choice["features"]
    roles = [role for role, column in choice.items() if column is not None and role != "features"]
    columns = {role: _name(choice[role], role, name) for role in roles}
    if isinstance(features, str):
        columns["features"] = features
    elif features is not None:
        names = list(features) if isinstance(features, Iterable) else [features]
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([_name(each, "features", name) for each in names])
        columns["features"] = line.getvalue()
    return columns


def _name(column: Any, role: str, name: str) -> str:
    """Return a column's name as text.

    Raises:
        DataError: it is neither text nor an integer, as names of columns are.
    """
    if isinstance(column, str) or (isinstance(column, int | np.integer) and not isinstance(column, bool)):
        return str(column)
    fix = "pass a matrix as edge_features" if role == "features" else "put the values into the table"
    kind = type(column).__name__
    raise DataError(f"{name}: {role} takes names of columns, not {kind}; name columns of the table, or {fix}")


def _with_index(message: str, frame: Any) -> str:
    """Return a message about a missing column with the advice to look for it in the index of a pandas frame."""
    names = index_names(frame)
    if not names or not re.search("no column (for|`node`)|is missing from the frame", message):
        return message
    fault, state = message.rpartition("; ")[0], "is" if len(names) == 1 else "are"
    return f"{fault}; {' and '.join(names)} {state} the index; use frame.reset_index()"
