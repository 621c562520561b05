"""Categories: text columns as indicator columns, one per value of the training part, or hashed if there are many."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

MOST = 32  # values with a column each; more are hashed to as many columns


@dataclass(frozen=True, eq=False)
class Categories:
    """Indicator columns of a text column.

    Up to 32 values have a column each, in ascending order; more share 32 columns by the CRC-32 of their UTF-8, which is
    the same in every process. The next column is for a value that training has not seen. An empty value, which may
    be null, is a value like any other, with a column to itself even beside hashed ones: the last.

    Args:
        values: the distinct values of the training part, ascending, as strings.
    """

    values: pa.Array

    @staticmethod
    def fit(column: pa.ChunkedArray, rows: int | np.ndarray) -> Categories:
        """Collect the values of the training rows, which are a number (they come first) or numbers [M]."""
        part = column.slice(0, rows) if isinstance(rows, int) else column.take(pa.array(rows))
        distinct = pc.unique(_text(part))
        return Categories(distinct.take(pc.sort_indices(distinct)))

    @property
    def hashed(self) -> bool:
        """True if values share columns."""
        return len(self.values) > MOST

    @property
    def width(self) -> int:
        """The number of columns."""
        return MOST + 1 + self._has_empty if self.hashed else len(self.values) + 1

    def apply(self, column: pa.ChunkedArray) -> torch.Tensor:
        """Return the indicator columns [E, width] float32 of a column of text."""
        numbers = pc.index_in(_text(column), value_set=self.values)
        places = self._places[pc.fill_null(numbers, len(self.values)).to_numpy()]
        out = torch.zeros((places.size, self.width))
        return out.scatter_(1, torch.from_numpy(places)[:, None], 1.0)

    def describe(self) -> str:
        """Say the number of values, as in "5,312 categories, hashed to 32"."""
        return f"{len(self.values):,} categories" + (f", hashed to {MOST}" if self.hashed else "")

    @property
    def _has_empty(self) -> bool:
        return len(self.values) > 0 and self.values[0].as_py() == ""

    @cached_property
    def _places(self) -> np.ndarray:
        """The column [K + 1] int64 of each value, and of an unknown value."""
        if not self.hashed:
            return np.arange(len(self.values) + 1)
        places = np.fromiter((zlib.crc32(value.encode()) % MOST for value in self.values.to_pylist()), np.int64)
        if self._has_empty:
            places[0] = MOST + 1
        return np.append(places, MOST)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert text or a dictionary of text to strings, with "" for null."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    return pc.fill_null(pc.cast(column, pa.string()), "")
