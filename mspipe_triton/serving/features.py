"""Edge features of observed events, as users write them, and their conversion to the rows that the model reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.features import FeatureTransform, Part
from mspipe_triton.data.names import find_column
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.scaling import Scaling
from mspipe_triton.data.tables import is_series, table_of
from mspipe_triton.errors import DataError
from mspipe_triton.serving.inputs import column, numbers_of


def feature_rows(values: Any, events: int, width: int, transform: FeatureTransform | None) -> torch.Tensor:
    """Convert edge features of M events, as the run's table has them, to the final rows [M, E] float32.

    Args:
        values: a matrix [M, W] of numbers, or [W] for one event; or None. Or a table with the columns of the run by
            name, such as a list of dictionaries; for one event, a dictionary or a row of a frame.
        width: E. transform: the run's, or None if rows are final.

    Raises:
        DataError: features are missing, or there are none in the run; a column is missing; the width differs; or a
            value is no number, or beyond float32.
    """
    rows = _rows(values, events, width, transform)
    if not width:
        return rows
    wrong = ~torch.isfinite(rows).all(1)
    if bool(wrong.any()):
        raise DataError(f"features of event {int(wrong.nonzero()[0])} are not finite in float32; replace them")
    return rows


def _rows(values: Any, events: int, width: int, transform: FeatureTransform | None) -> torch.Tensor:
    if width == 0:
        if values is not None:
            raise DataError("features: the run's events have none; omit features")
        return torch.zeros((events, 0))
    names = [] if transform is None else [part.name for part in transform.parts]
    if values is None:
        raise DataError(f"features are missing: the run's events have {_described(names, width)}; pass features=")
    values = _with_names(column(values))
    if _is_table(values):
        return _from_table(values, events, names, transform)
    rows = _matrix(values, events, width)
    parts = () if transform is None else transform.parts
    if not parts:
        if rows.shape[1] != width:
            raise DataError(f"features have width {rows.shape[1]}; the run's have {width}")
        return torch.from_numpy(rows).float()
    text = [part.name for part in parts if not isinstance(part.rule, Scaling)]
    if text:
        raise DataError(
            f"features is a matrix, and column {text[0]} of the run's is text; pass a table with {_listed(names)}"
        )
    if rows.shape[1] != width:
        raise DataError(f"features have width {rows.shape[1]}; the run's have {_described(names, width)}")
    return _scaled(rows, parts)


def _scaled(rows: np.ndarray, parts: tuple[Part, ...]) -> torch.Tensor:
    """Scale the numbers [M, W] of columns that follow one another."""
    columns = torch.from_numpy(rows).split([part.width for part in parts], 1)
    scaled = [part.rule.apply(column) for part, column in zip(parts, columns, strict=True)]
    return torch.cat(scaled, 1)


def _from_table(values: Any, events: int, names: list[str], transform: FeatureTransform | None) -> torch.Tensor:
    if transform is None:
        raise DataError("features is a table, and the run's features have no names; pass a matrix (.to_numpy())")
    if isinstance(values, Mapping):
        values = {name: each if _is_column(each) else [each] for name, each in values.items()}
    table = table_of(values, "features")
    places = {name: find_column(table.column_names, name) for name in names}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise DataError(f"features have no column {missing[0]!r}; the run's are {_listed(names)}")
    if table.num_rows != events:
        raise DataError(f"features have {table.num_rows} rows for {events} events; give one per event")
    columns: dict[str, Any] = {name: pa.chunked_array(table[place]) for name, place in places.items()}
    return transform.apply(columns, Origin((("features", events),)))


def _with_names(values: Any) -> Any:
    """Return the values of one event that have names, a row of a frame or of a record array, as a dictionary."""
    if type(values).__name__ == "LazyFrame":  # polars
        return values.collect()
    if isinstance(values, np.void) and values.dtype.names:
        return {name: values[name] for name in values.dtype.names}
    index = values.index if is_series(values) and hasattr(values, "iloc") else ()  # pandas
    if len(index) and all(isinstance(each, str) for each in index):
        return values.to_dict()
    return values


def _is_table(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return bool(values) and all(isinstance(each, Mapping) for each in values)
    named = isinstance(values, np.ndarray) and values.dtype.names is not None
    return named or isinstance(values, Mapping) or hasattr(values, "columns") or hasattr(values, "column_names")


def _matrix(values: Any, events: int, width: int) -> np.ndarray:
    """Return numbers [M, W] float64, finite; no values of no events are [0, `width`].

    Raises:
        DataError: they are no numbers, or not in a matrix of M rows.
    """
    try:
        rows = numbers_of(values)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"features are no matrix of numbers ({str(error)[:80]}); give one row of numbers per event"
        ) from error
    if rows.ndim == 1 and events <= 1:
        rows = rows[None] if events else rows.reshape(0, width if rows.size == 0 else -1)
    if rows.ndim != 2 or rows.shape[0] != events:
        raise DataError(f"features have shape {list(rows.shape)}; give a matrix with a row for each of {events} events")
    if not np.isfinite(rows).all():
        raise DataError(
            f"features of event {int(np.flatnonzero(~np.isfinite(rows).all(1))[0])} are not finite; replace them"
        )
    return rows


def _is_column(value: Any) -> bool:
    if isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0:
        return False
    return hasattr(value, "__len__") or hasattr(value, "__array__")


def _described(names: list[str], width: int) -> str:
    """Say the width of features, with their columns if these have names."""
    return f"width {width}" + (f" ({_listed(names)})" if names else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
