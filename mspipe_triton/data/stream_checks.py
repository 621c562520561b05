"""Checks of a stream's columns: their kind and shape, and values that no event may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.errors import DataError

if TYPE_CHECKING:
    from mspipe_triton.data.events import EventStream  # it imports this module

_CHUNK_VALUES = 2**22


def check_kinds(stream: EventStream) -> None:
    """Refuse columns that are no tensors, or whose shape is not that of a column.

    Raises:
        DataError: with the name of the column.
    """
    for column in ("src", "dst", "t", "labels", "edge_features", "node_features"):
        values = getattr(stream, column)
        if values is None and column not in ("src", "dst", "t"):
            continue
        if not isinstance(values, torch.Tensor):
            kind = type(values).__name__
            raise DataError(f"{stream.name}: {column} must be a tensor, not {kind}; EventStream.of takes other kinds")
        if not column.endswith("features") and values.dim() != 1:
            raise DataError(f"{stream.name}: {column} has shape {list(values.shape)}; give one number per event")
    if type(stream.num_nodes) is not int or stream.num_nodes < 0:
        raise DataError(f"{stream.name}: num_nodes must be a whole number, not {stream.num_nodes!r}")


def refuse(stream: EventStream, wrong: torch.Tensor, fault: str, values: torch.Tensor) -> None:
    """Refuse the first event for which `wrong` [E] holds, if there is one.

    Raises:
        DataError: with the place of the event, the fault and the event's value.
    """
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise DataError(f"{stream.place(first)}: {fault} ({values[first].item()})")


def check_finite(stream: EventStream, name: str, table: torch.Tensor) -> None:
    """Refuse the first value of a feature table that is not finite.

    Raises:
        DataError: with row, column and value.
    """
    rows = max(1, _CHUNK_VALUES // max(1, table.shape[1]))
    for start in range(0, table.shape[0], rows):  # in chunks, since the table may be in a memory-mapped file
        wrong = ~torch.isfinite(table[start : start + rows])
        if bool(wrong.any()):
            row, column = (int(number) for number in wrong.nonzero()[0])
            row += start
            place = stream.place(row) if name == "edge_features" else f"{stream.name}: node {row}"
            value = table[row, column].item()
            raise DataError(f"{place}, column {column}: {name} is {value}, not finite; replace it")
