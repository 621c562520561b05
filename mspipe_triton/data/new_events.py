"""Tables of new events, which a run has not seen, read as the run's own events were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.choices import either
from mspipe_triton.config import DataConfig
from mspipe_triton.data.features import FeatureTransform
from mspipe_triton.data.frames import FrameSheet, in_words_of_python
from mspipe_triton.data.id_columns import as_ids, plain
from mspipe_triton.data.joins import joined_columns, joined_values, time_order
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.names import REQUIRED, Roles, default_columns, find_column, shown_names
from mspipe_triton.data.new_features import NewFeatures
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.roles import usual_columns
from mspipe_triton.data.run_times import run_times
from mspipe_triton.data.sheets import Sheet, open_sheets
from mspipe_triton.data.stream_features import row_column, row_numbers
from mspipe_triton.data.tables import convert
from mspipe_triton.errors import DataError


@dataclass(frozen=True, eq=False)
class Reading:
    """The way in which a run's own events were read, and new ones are.

    Args:
        data: the settings that read the run's events; the files that they name are not read.
        time: the meaning of the run's times, as in "Unix seconds, from dates".
        integers: the run's times are whole numbers.
        width: F, the width of the edge features.
        transform: the transformation of the edge features that the run fitted; None leaves them as they are.
        roles: the role of each column of the run's events, by name.
    """

    data: DataConfig
    time: str = ""
    integers: bool = True
    width: int = 0
    transform: FeatureTransform | None = None
    roles: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def from_record(record: Mapping[str, Any], data: DataConfig) -> Reading:
        """Return the reading of a run from its `data.json` (see `source.record`) and its data settings."""
        parts = record["features"]
        transform = None if parts is None else FeatureTransform.from_json(parts)
        integers = isinstance(record["time_scale"]["origin"], int)  # the first time, and so of their type
        return Reading(data, record["time"], integers, record["dim_edge"], transform, record["roles"])

    def columns(self) -> dict[str, str]:
        """Return the run's columns of src, dst and t by role; a role whose column is unknown is left out."""
        columns = {role: name for role, name in self.data.columns.items() if role in REQUIRED}
        return columns | {role: name for name, role in self.roles.items() if role in REQUIRED}


@dataclass(frozen=True, eq=False)
class NewEvents:
    """New events in time order; those of equal time keep their order in the table.

    Args:
        src, dst: [M] ids as the table has them, of any type; `numbers` reads them beside the run's ids.
        t: [M] int64 or float64, in the unit and type of the run's times.
        features: [M, F] float32, transformed as the run's; None if the run has no edge features.
        order: [M] the table's row of each event, or None if events are in the order of the rows.
        origin: the files of the rows. names: the columns of src and dst.
    """

    src: pa.Array
    dst: pa.Array
    t: torch.Tensor
    features: torch.Tensor | None
    order: np.ndarray | None
    origin: Origin
    names: tuple[str, str]

    def __len__(self) -> int:
        """Number of events, M."""
        return self.t.numel()

    def place(self, event: int) -> str:
        """Name the file and row of an event."""
        return self.origin.place(event if self.order is None else int(self.order[event]))

    def numbers(self, ids: LiveIds, add: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers [M] of sources and destinations; see `LiveIds.ends`.

        Raises:
            DataError: as there, with file, row and column.
        """
        return ids.ends(self.src, self.dst, add, self.place, self.names)


def read_new_events(
    path: str | Path, reading: Reading, sort: bool = False, edge_features: str | Path = ""
) -> NewEvents:
    """Read new events from a table, or from all tables of a folder in the order of their paths.

    Columns have the names that they have in the run's events, in any order; src, dst and t may have other usual names.
    Labels and other columns are not read.

    Args:
        path: a file or folder as `read_stream` takes.
        reading: the way in which the run's events were read.
        sort: sort by time (stably) instead of refusing unsorted times.
        edge_features: a .npy file with one row per event, if the run had one.

    Raises:
        DataError: a file is missing or empty, a column is missing, or a value cannot be read or does not fit the run's.
        ConfigError: the encoding or the form of dates is unknown.
    """
    encoding, path = reading.data.encoding, Path(path)
    sheets = open_sheets(path, encoding)
    if reading.data.no_header and not set(REQUIRED) <= default_columns(sheets[0].columns).keys():
        sheets = open_sheets(path, encoding, no_header=True)
    return _read(sheets, reading, sort, str(edge_features), None)


def new_events_of(
    frame: Any, reading: Reading, sort: bool = False, edge_features: Any = None, name: str = "events"
) -> NewEvents:
    """Read new events from a table in memory: a data frame, an Arrow table, or a dictionary of arrays or lists.

    Args:
        frame: the table. reading, sort: as for `read_new_events`.
        edge_features: a matrix [M, F] with a row per row of the table, if the run had one.
        name: its name in messages.

    Raises:
        DataError, ConfigError: as `read_new_events`.
    """
    with in_words_of_python(frame):
        table, faults = convert(frame, name)
        return _read([FrameSheet(name, table, faults=faults)], reading, sort, "", edge_features)


def _read(sheets: Sequence[Sheet], reading: Reading, sort: bool, file: str, matrix: Any) -> NewEvents:
    """Read tables that follow each other, with a file or a matrix of features."""
    first, data = sheets[0], reading.data
    ends = _columns(first, reading)
    src, dst, time = (ends[role] for role in REQUIRED)
    features = NewFeatures.find(
        first, ends, reading.transform, reading.width, reading.roles, data.columns.get("features")
    )
    rows = row_column(first.columns, Roles(src, dst, time, None, features.names), replace(data, edge_features=file))
    text = {src, dst, time, *features.texts, *filter(None, [rows])}
    columns, origin = joined_columns(sheets, tuple(dict.fromkeys((*text, *features.names))), text, time)
    t = run_times(columns[time], time, origin, reading.time, reading.integers, data.time_format)
    order = time_order(columns[time], t, time, origin, sort)
    places = None if rows is None else row_numbers(joined_values(columns[rows]), rows, origin)
    values = features.values(columns, origin, order, file, places, matrix)
    sources, destinations = (_ids(columns[end], end, origin) for end in (src, dst))
    if order is not None:
        t, sources, destinations = t[order], sources.take(pa.array(order)), destinations.take(pa.array(order))
    return NewEvents(sources, destinations, torch.from_numpy(t), values, order, origin, (src, dst))


def _columns(sheet: Sheet, reading: Reading) -> dict[str, str]:
    """Find the columns of src, dst and t: those of the run's names, otherwise those of usual names.

    Raises:
        DataError: one is missing, occurs twice, has two roles, or its name is data.
    """
    names = reading.columns()
    present = {role: name for role, name in names.items() if find_column(sheet.columns, name) is not None}
    columns = usual_columns(sheet, replace(reading.data, columns={**present, "label": ""}))
    missing = [repr(names.get(role, role)) for role in REQUIRED if role not in columns]
    if missing:
        plural = "" if len(missing) == 1 else "s"
        fault = f"no column{plural} {either(missing, 'and')}, as the run's events have"
        raise DataError(f"{sheet.name}: {fault}; the file has {shown_names(sheet.columns)}; rename its columns")
    return columns


def _ids(parts: Sequence[pa.ChunkedArray], name: str, origin: Origin) -> pa.Array:
    """Join the parts of a column of ids as they are, or as text if types differ.

    They are read beside the run's ids, since alone they may be numbers where those are text.

    Raises:
        DataError: one is empty.
    """
    columns = [plain(part) for part in parts]
    if len({column.type for column in columns}) > 1:
        columns = [pc.cast(as_ids(column, pa.array([""])), pa.string()) for column in columns]
    ids = pa.concat_arrays(columns)
    empty = ids.is_null()
    if pa.types.is_string(ids.type):
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)
    origin.refuse(empty.to_numpy(zero_copy_only=False), name, [None] * len(ids), "", "fill it in, or remove the row")
    return ids
