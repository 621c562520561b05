"""Writer of event streams to CSV and Parquet files that `read_stream` can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mspipe_triton.errors import DataError
from mspipe_triton.files import atomic_file

if TYPE_CHECKING:
    from mspipe_triton.data.events import EventStream


def check_target(path: Path, force: bool = False) -> None:
    """Refuse a path that `write_stream` would not write.

    Raises:
        DataError: the suffix is neither .csv nor .parquet, or the path exists and `force` is False.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise DataError(f"{path}: use a name that ends in .csv or .parquet")
    if path.exists() and not force:
        raise DataError(f"{path}: exists already; use --force to replace it, or another name")


def write_stream(stream: EventStream, path: Path, force: bool = False) -> None:
    """Write src, dst, time, labels if there are any, and feature columns f0, f1, …; the suffix chooses the format.

    The file is written as a whole or not at all. An event without a label gets an empty value.

    Args:
        force: replace an existing file.

    Raises:
        DataError: the path is refused (`check_target`), or the file cannot be written.
    """
    labels, features = stream.labels, stream.edge_rows()
    write_events(
        stream.src.numpy(),
        stream.dst.numpy(),
        stream.t.numpy(),
        None if labels is None else labels.numpy(),
        None if features is None else features.numpy(),
        path,
        force,
    )


def write_events(
    src: np.ndarray, dst: np.ndarray, t: np.ndarray, labels: np.ndarray | None, features: np.ndarray | None,
    path: Path, force: bool = False,
) -> None:  # fmt: skip
    """Write events [E] with features [E, F] as `write_stream` does; this needs no torch."""
    columns: dict[str, Any] = {"src": src, "dst": dst, "time": t}
    if labels is not None:
        columns["label"] = pa.array(labels, from_pandas=True)  # NaN becomes empty
    if features is not None:
        columns.update({f"f{k}": features[:, k] for k in range(features.shape[1])})
    write_table(pa.table(columns), path, force)


def write_table(table: pa.Table, path: Path, force: bool = False) -> None:
    """Write a table to a .csv or .parquet file, as a whole or not at all; see `write_stream`."""
    check_target(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            if path.suffix == ".csv":
                pyarrow.csv.write_csv(table, temporary)
            else:
                pyarrow.parquet.write_table(table, temporary)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
