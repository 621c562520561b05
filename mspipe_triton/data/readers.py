"""Reader of event streams from files: text, JSON lines, Parquet and Arrow, or a folder of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mspipe_triton.config import DataConfig
from mspipe_triton.data.assembly import assemble
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.sheets import open_sheets, table_name
from mspipe_triton.data.split import pair_text
from mspipe_triton.data.text import TextFile
from mspipe_triton.errors import DataError


def read_stream(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    sort: bool = False,
    node_features: str | Path | None = None,
    *,
    edge_features: str | Path | None = None,
    bipartite: bool = False,
    one_kind: bool = False,
    no_header: bool = False,
    encoding: str = "",
    time_format: str = "",
    raw_features: bool = False,
    split_at: Any = None,
) -> EventStream:
    """Read a stream from a table of events, or from all tables of a folder in the order of their paths.

    Args:
        path: delimited text, JSON lines, Parquet or Arrow, perhaps compressed, or a folder; recognised by the content.
        columns: the column of each role, e.g. {"src": "user_id", "dst": "item_id", "t": "timestamp"}. Roles are src,
            dst, t, label and features; a role that is left out has the column of a usual name. "features" holds names
            or patterns, separated by commas; without it, a column `features` or columns f0, f1, … are used. An empty
            label switches the role off.
        sort: sort by time (stably) instead of refusing unsorted times.
        node_features: a table with a column `node`, or a .npy file with one row per id, see `node_features`.
        edge_features: a .npy file with one row per event.
        bipartite: number sources and destinations apart, as two kinds. one_kind: number them together, as one. By
            default the names of the columns decide: user and item are two kinds.
        no_header: the file has no header; its columns are 1, 2, 3, … with src, dst and t first.
        encoding: of a text file; UTF-8 by default.
        time_format: the form of the dates, as in "%d.%m.%Y"; needed if day and month could be confused.
        raw_features: leave numbers as they are, instead of standardising them by the training part.
        split_at: the starts of validation and test: a pair of fractions of the events, as in (0.7, 0.85), of times or
            of dates, or the text of `--split-at`, as in "2023-10-01,2023-11-01".

    Returns:
        The stream, named after the file. Nodes are numbered in ascending order of their ids, which `ids` has.

    Raises:
        DataError: the file is missing or empty, or its content is invalid; with file, row, column, value and fix.
        ConfigError: the encoding or the form of dates is unknown, or `split_at` leaves a part of the split empty.
    """
    events, edges, nodes = (str(Path(file).absolute()) if file else "" for file in (path, edge_features, node_features))
    choice = dict(columns or {})
    return read(
        DataConfig(
            events,
            choice,
            sort,
            bipartite,
            one_kind,
            no_header,
            encoding,
            time_format,
            raw_features,
            edges,
            nodes,
            pair_text(split_at),
        )
    )


def read(data: DataConfig) -> EventStream:
    """Read the stream that data settings name; see `read_stream`."""
    path = Path(data.path)
    sheets = open_sheets(path, data.encoding, data.no_header)
    if not any(isinstance(sheet, TextFile) for sheet in sheets):
        for flag in (flag for flag in ("encoding", "no_header") if getattr(data, flag)):
            option, thing = f"--{flag.replace('_', '-')}", "encoding to name" if flag == "encoding" else "header line"
            raise DataError(f"{sheets[0].name}: is {sheets[0].form}, which has no {thing}; omit {option}")
    return assemble(sheets, data, table_name(path))
