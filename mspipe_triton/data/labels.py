"""Labels of events: read from columns, and checked by what learns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.id_columns import ABSENT, plain
from mspipe_triton.data.origin import Origin, shown
from mspipe_triton.errors import DataError

_WORDS = {"true": "1", "false": "0"}


def label_column(parts: Sequence[pa.ChunkedArray], name: str, origin: Origin) -> tuple[np.ndarray | None, str | None]:
    """Convert labels to int64, or to float64 with NaN for events without one; a fault is returned, not raised."""
    try:
        floats = np.concatenate([_numbers(part) for part in parts])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = [value for part in parts for value in part.to_pylist()]
        row = next((row for row, value in enumerate(values) if not _is_label(value)), 0)
        return None, f"{origin.place(row)}: {name} is {shown(values[row])}, not a label; use 0 and 1, or nothing"
    whole = bool(((floats == np.floor(floats)) & (np.abs(floats) < 2**53)).all())
    return (floats.astype(np.int64) if whole else floats), None


def check_labels(stream: EventStream) -> None:
    """Refuse a stream whose labels cannot be learned; events without a label do not count.

    Raises:
        DataError: there are no labels, they cannot be read, a label is neither 0 nor 1, or all labelled training events
            have the same label.
    """
    labels, source = stream.labels, stream.source
    if source is not None and source.label_fault is not None:
        raise DataError(source.label_fault)
    if labels is None:
        raise DataError(f"{stream.name}: no label column for --task node; name it with --columns label=NAME")
    labelled = stream.labelled
    others = (labelled & (labels != 0) & (labels != 1)).nonzero()
    if others.numel():
        first = int(others[0])
        columns = [] if source is None else [name for name, role in source.roles.items() if role == "label"]
        value = labels[first].item()
        value = int(value) if float(value).is_integer() else value
        fix = "use these, and leave an event without a label empty (NaN)"
        raise DataError(f"{stream.place(first)}: {(columns or ['label'])[0]} is {value}, neither 0 nor 1; {fix}")
    stop = stream.split().train_end
    positives, events = int((labels[:stop] == 1).sum()), int(labelled[:stop].sum())
    if positives in (0, events):
        raise DataError(
            f"{stream.name}: {positives} of {events} labelled training events have label 1; a decoder needs both, so "
            f"label more of the first {stop:,} events, or omit --task node"
        )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Convert the labels of one table to float64, NaN where there is none."""
    values = plain(column)
    if pa.types.is_string(values.type):
        values = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        values = pc.if_else(pc.is_in(values, value_set=ABSENT), pa.scalar(None, pa.string()), values)
        for word, number in _WORDS.items():
            values = pc.if_else(pc.equal(values, word), number, values)
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    numbers = pc.cast(values, pa.float64())
    return np.array(pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False))


def _is_label(value: Any) -> bool:
    try:
        _numbers(pa.chunked_array([[value]]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
