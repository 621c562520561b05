"""Features of new events: columns and a matrix, found as the run had them and transformed as the run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.categories import Categories
from mspipe_triton.data.feature_files import RowNumbers, event_rows
from mspipe_triton.data.features import FeatureTransform, Part
from mspipe_triton.data.joins import joined_values
from mspipe_triton.data.names import feature_columns, find_column, shown_names
from mspipe_triton.data.number_columns import numbers
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.scaling import Scaling, scaled_in_chunks
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.stream_features import edge_matrix
from mspipe_triton.errors import DataError


@dataclass(frozen=True)
class NewFeatures:
    """The features of a run, and where those of new events are.

    Args:
        width: F, the width of the run's features.
        parts: the transformation of each column, with the column's name in the new table.
        matrix: the transformation of a matrix of features, None if the run had none.
        plain: the run has no transformation: features are numbers, which it took as they were.
    """

    width: int
    parts: tuple[tuple[Part, str], ...]
    matrix: Part | None
    plain: bool

    @staticmethod
    def find(
        sheet: Sheet,
        columns: Mapping[str, str],
        transform: FeatureTransform | None,
        width: int,
        roles: Mapping[str, str],
        choice: str | None,
    ) -> NewFeatures:
        """Find the run's features in a new table.

        Args:
            columns: the table's columns of src, dst and t, by role.
            transform, width, roles: those of the run; columns with the role "feature" are features, other parts of the
                transformation belong to a matrix.
            choice: the names of the features' columns that the user chose for a run without transformation.

        Raises:
            DataError: a column is missing.
        """
        if transform is None:
            names = feature_columns(sheet.columns, choice, columns) if width else ()
            parts = [(Part(name, Scaling.identity(1)), name) for name in names]
            return NewFeatures(width, tuple(parts), None, True)
        parts, matrix = [], None
        for part in transform.parts:
            name = find_column(sheet.columns, part.name)
            if roles.get(part.name) != "feature":
                matrix = part
            elif name is None:
                fault = f"no column {part.name!r}, which is a feature of the run's events"
                raise DataError(f"{sheet.name}: {fault}; the file has {shown_names(sheet.columns)}; add the column")
            else:
                parts.append((part, name))
        return NewFeatures(width, tuple(parts), matrix, False)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(name for _, name in self.parts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of categories, whose text must not be read as numbers."""
        return tuple(name for part, name in self.parts if isinstance(part.rule, Categories))

    def values(
        self,
        columns: Mapping[str, Sequence[pa.ChunkedArray]],
        origin: Origin,
        order: np.ndarray | None,
        file: str,
        rows: RowNumbers | None,
        matrix: Any,
    ) -> torch.Tensor | None:
        """Return the features [M, F] float32 of the events in time order, None if the run has none.

        Args:
            columns: the parts of each column, by name. origin: the origin of their rows.
            order: [M] the row of each event, or None.
            file: a .npy file of features, or "". rows: the row of each event in it, None for the order of the rows.
            matrix: a matrix [M, F] from Python, a row per row of the table, or None.

        Raises:
            DataError: a value cannot be read, the width is another than the run's, or there is a matrix only here or
                only in the run.
        """
        place, events = origin.parts[0][0], sum(count for _, count in origin.parts)
        tables = [self._column(part, joined_values(columns[name]), origin) for part, name in self.parts]
        tables = tables if order is None else [table[torch.from_numpy(order)] for table in tables]
        if file or matrix is not None:
            if self.matrix is None and not (self.plain and self.width):
                raise DataError(f"{place}: the run has no matrix of features; omit --edge-features")
            tables = [] if self.plain else tables
            if file:
                tables.append(self._from_file(file, events, rows, order))
            else:
                tables.append(self._from_matrix(matrix, events, origin, order))
        elif self.matrix is not None:
            fault = f"the run has a matrix of features of width {self.matrix.width}, {self.matrix.name}"
            raise DataError(f"{place}: {fault}; pass that of these events as --edge-features")
        if not self.width:
            return None
        if not tables:
            fault = f"there are no features, and the run's have width {self.width}"
            raise DataError(f"{place}: {fault}; call columns f0, f1, …, or pass a matrix as --edge-features")
        values = torch.cat(tables, 1)
        _check_width(place, values.shape[1], self.width)
        return values

    def _column(self, part: Part, column: pa.ChunkedArray, origin: Origin) -> torch.Tensor:
        if self.plain:
            return torch.from_numpy(numbers(part.name, column, origin)).float()
        return part.apply(column, origin)

    def _from_file(self, path: str, events: int, rows: RowNumbers | None, order: np.ndarray | None) -> torch.Tensor:
        """Return the scaled rows of a .npy file."""
        array, selected, name = event_rows(path, events, rows, order)
        _check_width(name, array.shape[1], self.width if self.matrix is None else self.matrix.width)
        return scaled_in_chunks(array, self._scaling(array.shape[1]), selected)

    def _from_matrix(self, matrix: Any, events: int, origin: Origin, order: np.ndarray | None) -> torch.Tensor:
        """Return the scaled rows of a matrix from Python."""
        array = edge_matrix(matrix, events, "edge_features")
        _check_width("edge_features", array.shape[1], self.width if self.matrix is None else self.matrix.width)
        values = self._scaling(array.shape[1]).apply(torch.from_numpy(numbers("edge_features", array, origin)))
        return values if order is None else values[torch.from_numpy(order)]

    def _scaling(self, width: int) -> Scaling:
        """Return the scaling of the matrix."""
        rule = None if self.matrix is None else self.matrix.rule
        return rule if isinstance(rule, Scaling) else Scaling.identity(width)


def _check_width(name: str, width: int, expected: int) -> None:
    """Refuse features of another width than the run's.

    Raises:
        DataError: they have another.
    """
    if width != expected:
        raise DataError(f"{name}: has features of width {width}, the run's have {expected}; give {expected} columns")
