"""Readers of event streams from CSV and Parquet files, or a folder of them, through pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import NodeIds, compact_ids
from mspipe_triton.errors import DataError

SYNONYMS = {
    "src": ("src", "source", "user", "user_id", "u"),
    "dst": ("dst", "destination", "target", "item", "item_id", "i", "v"),
    "t": ("t", "time", "timestamp", "ts"),
    "label": ("label", "state_label"),
}
_JODIE_HEADER = "comma_separated_list_of_features"


def read_stream(
    path: str | Path, columns: Mapping[str, str] | None = None, sort: bool = False, node_features: str | None = None
) -> EventStream:
    """Read a stream from a CSV or Parquet file, or from all such files of a folder in the order of their names.

    Args:
        path: the file or folder.
        columns: the column of each role, e.g. {"src": "user_id", "dst": "item_id", "t": "timestamp"}. Roles are src,
            dst, t, label and features; for an omitted role, the first usual name in the header is used (`SYNONYMS`).
            "features" names one list column, or a pattern such as "f*"; if omitted, a list column `features` or columns
            f0, f1, … are used if they exist. JODIE's own files are recognised by their header, and their items are
            numbered after their users.
        sort: sort by time (stably) instead of refusing unsorted times.
        node_features: a .npy file with one row per node id of the file.

    Returns:
        The stream with ids compacted to 0 … N − 1 (`node_ids` has the file's), named after the file.

    Raises:
        DataError: the file is missing or empty, or its content is invalid.
    """
    path = Path(path)
    table, jodie = _read_table(path)
    roles = _roles(path, table.column_names, dict(columns or {}), jodie)
    if table.num_rows == 0:
        raise DataError(f"{path}: no events below the header; add a row per event")
    src, dst = (_integers(path, table, roles[role]) for role in ("src", "dst"))
    if jodie:
        dst = dst + src.max() + 1
    t = _times(path, table, roles["t"])
    label = torch.from_numpy(_numbers(path, table, roles["label"])) if "label" in roles else None
    features = _features(path, table, roles.get("features"))
    src, dst, ids = compact_ids(src, dst)
    if sort:
        order = np.argsort(t, kind="stable")
        src, dst, t = src[order], dst[order], t[order]
        label = None if label is None else label[order]
        features = None if features is None else features[order]
    late = np.diff(t, prepend=t[:1]) < 0
    _refuse(path, late, f"{roles['t']} is earlier than in the row before; sort the events with --sort", t)
    return EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(t), features,
        _node_features(node_features, ids), label, ids.size, path.stem, NodeIds((pa.array(ids),)),
    )  # fmt: skip


def parse_columns(text: str) -> dict[str, str]:
    """Parse `src=user_id,dst=item_id,t=timestamp` into a mapping from role to column.

    Raises:
        DataError: a pair has no "=", or its role does not exist.
    """
    columns = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        role, _, name = pair.partition("=")
        if role not in (*SYNONYMS, "features") or not name:
            raise DataError(f"--columns: {pair!r} is not role=name; the roles are {', '.join(SYNONYMS)}, features")
        columns[role] = name
    return columns


def _read_table(path: Path) -> tuple[pa.Table, bool]:
    """Read the table of a file, and True if it is one of JODIE's own CSV files."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".csv", ".parquet"))
        if not files:
            raise DataError(f"{path}: the folder has no .csv or .parquet files; name another")
        parts = [_read_table(file) for file in files]
        try:
            return pa.concat_tables([table for table, _ in parts], promote_options="permissive"), parts[0][1]
        except pa.ArrowException as error:
            raise DataError(f"{path}: the files cannot be combined: {_line(error)}") from error
    if not path.exists():
        raise DataError(f"{path}: no such file; use a CSV or Parquet file, a folder of them, or `synthetic`")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs a header and a row per event")
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path), False
        with open(path, encoding="utf-8", errors="replace") as file:
            jodie = _JODIE_HEADER in file.readline()
            width = len(file.readline().split(","))
        names = ["user_id", "item_id", "timestamp", "state_label", *(f"f{k}" for k in range(width - 4))]
        options = pyarrow.csv.ReadOptions(skip_rows=1, column_names=names) if jodie else None
        convert = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
        return pyarrow.csv.read_csv(path, read_options=options, convert_options=convert), jodie
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {_line(error)}") from error


def _roles(path: Path, names: list[str], columns: dict[str, str], jodie: bool) -> dict[str, str]:
    """Map each role to the name of its column, which occurs once in the header; for features to a pattern."""
    roles = dict(columns)
    for role, synonyms in SYNONYMS.items():
        if role not in roles:
            matches = [name for name in synonyms if name in names]
            if matches:
                roles[role] = matches[0]
    missing = [role for role in ("src", "dst", "t") if role not in roles]
    if missing:
        flag = ",".join(f"{role}=NAME" for role in missing)
        header = ", ".join(names[:8])
        raise DataError(f"{path}: no column for {', '.join(missing)}; the file has {header}; use --columns {flag}")
    for role, name in roles.items():
        if role != "features" and names.count(name) != 1:
            state = "appears twice in" if name in names else "is missing from"
            header = ", ".join(names[:8])
            raise DataError(f"{path}: column {name!r} ({role}) {state} the header: {header}; use --columns {role}=NAME")
    if "features" not in roles:
        if "features" in names:
            roles["features"] = "features"
        elif "f0" in names or jodie:
            roles["features"] = "f[0-9]*"
    return roles


def _column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    """Column without nulls; an empty or non-numeric value is reported with its row."""
    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{path}: row {row + 1}: {name} is empty; fill it in, or remove the row")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        for row, value in enumerate(column):
            try:
                float(value.as_py())
            except ValueError:
                fault = f"{name} is {value.as_py()!r}, not a number; correct it, or remove the row"
                raise DataError(f"{path}: row {row + 1}: {fault}") from None
        return pc.cast(column, pa.float64())
    return column


def _numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """Numeric column as int64 or float64, in memory that torch can own; timestamps as Unix seconds."""
    column = _column(path, table, name)
    kind = column.type
    try:
        if pa.types.is_timestamp(kind):
            micros: np.ndarray = pc.cast(column, pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy()
            return micros / 1e6 if (micros % 10**6).any() else micros // 10**6
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
            return np.array(pc.cast(column, pa.int64()).to_numpy())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return np.array(pc.cast(column, pa.float64()).to_numpy())
    except pa.ArrowException as error:
        raise DataError(f"{path}: {name}: {_line(error)}") from error
    raise DataError(f"{path}: {name} has type {kind}; numbers or timestamps are needed")


def _integers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    values = _numbers(path, table, name)
    if values.dtype == np.float64:
        wrong = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**53)
        _refuse(path, wrong, f"{name} is not an integer", values)
        values = values.astype(np.int64)
    _refuse(path, values < 0, f"{name} is negative; node ids start at 0", values)
    return values


def _times(path: Path, table: pa.Table, name: str) -> np.ndarray:
    values = _numbers(path, table, name)
    if values.dtype == np.float64:
        _refuse(path, ~np.isfinite(values), f"{name} is not finite", values)
    return values


def _features(path: Path, table: pa.Table, pattern: str | None) -> torch.Tensor | None:
    """Edge features [E, F] float32 from one list column or from the columns that match a pattern."""
    if pattern is None:
        return None
    names = [name for name in table.column_names if fnmatchcase(name, pattern)]
    if not names:
        header = ", ".join(table.column_names[:8])
        raise DataError(f"{path}: no column matches features={pattern}; the file has {header}; change the pattern")
    first = table.column(names[0]).type
    if pa.types.is_list(first) or pa.types.is_fixed_size_list(first) or pa.types.is_large_list(first):
        column = table.column(names[0]).combine_chunks()
        widths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        wrong = widths != widths[0]
        _refuse(path, wrong, f"{names[0]} differs in length from row 1, which has {widths[0]} values", widths)
        flat = pc.cast(pc.list_flatten(column), pa.float32()).to_numpy(zero_copy_only=False)
        features = np.array(flat).reshape(len(widths), widths[0])
    else:
        features = np.stack([_numbers(path, table, name).astype(np.float32) for name in names], 1)
    _refuse(path, ~np.isfinite(features).all(1), f"features ({names[0]}, …) have a value that is not finite", None)
    return torch.from_numpy(features)


def _node_features(file: str | None, ids: np.ndarray) -> torch.Tensor | None:
    if file is None:
        return None
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as .npy: {_line(error)}") from error
    if values.ndim != 2 or values.shape[0] <= ids.max():
        shape = tuple(values.shape)
        raise DataError(f"{file}: node features must be a matrix with a row for each id up to {ids.max()}, not {shape}")
    return torch.from_numpy(values[ids].astype(np.float32))


def _refuse(path: Path, wrong: np.ndarray, why: str, values: np.ndarray | None) -> None:
    """Raise DataError naming the first data row (from 1) for which `wrong` holds."""
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = "" if values is None else f" ({values[row]})"
        raise DataError(f"{path}: row {row + 1}: {why}{value}")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
