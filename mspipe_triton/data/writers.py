"""Writer of event streams to CSV and Parquet files that `read_stream` can read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import DataError


def write_stream(stream: EventStream, path: Path) -> None:
    """Write src, dst, time, labels if there are any, and feature columns f0, f1, …; the suffix chooses the format.

    Raises:
        DataError: the suffix is neither .csv nor .parquet, or the file cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise DataError(f"{path}: use a name that ends in .csv or .parquet")
    columns = {"src": stream.src.numpy(), "dst": stream.dst.numpy(), "time": stream.t.numpy()}
    if stream.labels is not None:
        columns["label"] = stream.labels.numpy()
    features = stream.edge_rows()
    if features is not None:
        columns.update({f"f{k}": features[:, k].numpy() for k in range(stream.dim_edge)})
    table = pa.table(columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pyarrow.parquet.write_table(table, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
