"""Transformation of named columns to a float32 matrix fit for training: scaled numbers and categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.categories import Categories
from mspipe_triton.data.number_columns import Column, kind_of, numbers
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.scaling import Scaling


@dataclass(frozen=True, eq=False)
class Part:
    """Transformation of one column: a scaling of numbers, or categories of text."""

    name: str
    rule: Scaling | Categories

    @property
    def width(self) -> int:
        """The number of columns that the column becomes."""
        return self.rule.width

    def apply(self, column: Column, origin: Origin) -> torch.Tensor:
        """Transform a column to [E, width] float32."""
        if isinstance(self.rule, Categories):
            return self.rule.apply(column)
        values = numbers(self.name, column, origin)
        if values.shape[1] != self.width:
            fix = f"give {self.width} as in the training data"
            origin.fail(0, self.name, values[0].tolist(), f"of {values.shape[1]} numbers", fix)
        return self.rule.apply(torch.from_numpy(values))

    def describe(self) -> str:
        """Say what becomes of the column, as in "number, logarithm"."""
        if isinstance(self.rule, Categories):
            return self.rule.describe()
        logs, width = int(self.rule.log.sum()), self.width
        if width == 1:
            text = "number, logarithm" if logs else "number"
        else:
            text = f"{width} numbers" + (f", {logs} with logarithm" if logs else "")
        return text + (", not scaled" if self.rule.limit is None else "")

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        if isinstance(self.rule, Categories):
            return {"name": self.name, "categories": self.rule.values.to_pylist()}
        return {"name": self.name, "scaling": self.rule.to_json()}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Part:
        """Read what `to_json` returns."""
        if "categories" in fields:
            return Part(fields["name"], Categories(pa.array(fields["categories"], pa.string())))
        return Part(fields["name"], Scaling.from_json(fields["scaling"]))


@dataclass(frozen=True, eq=False)
class FeatureTransform:
    """Transformation of columns to features, fitted on the training part; the order of the parts is that of the result.

    Columns are integers, floats, decimals and booleans (0 and 1), dates and timestamps (in seconds), lists of numbers
    (all of one width; a matrix [E, F] counts as one), and text. Text is a category, unless nearly all values are
    numbers or lists of numbers (see `kind_of`).
    """

    parts: tuple[Part, ...]

    @staticmethod
    def fit(
        columns: Mapping[str, Column], rows: int | np.ndarray, origin: Origin, raw: bool = False
    ) -> FeatureTransform:
        """Fit the transformation of columns of E rows.

        Args:
            rows: the training rows, as their number (they come first) or as numbers [M].
            raw: True leaves numbers as they are.

        Raises:
            DataError: a value is empty, not a number or not finite, a list of another width than that of row 1, or a
                column of an unsupported type.
        """
        parts = []
        for name, column in columns.items():
            if kind_of(name, column, origin) == "text":
                assert not isinstance(column, np.ndarray)
                parts.append(Part(name, Categories.fit(column, rows)))
            else:
                values = numbers(name, column, origin)
                parts.append(Part(name, Scaling.identity(values.shape[1]) if raw else Scaling.fit(values, rows)))
        return FeatureTransform(tuple(parts))

    @property
    def width(self) -> int:
        """F, the number of features."""
        return sum(part.width for part in self.parts)

    def apply(self, columns: Mapping[str, Column], origin: Origin) -> torch.Tensor:
        """Transform columns of the names and kinds that it was fitted on to [E, F] float32; it has at least one part.

        Raises:
            DataError: as in `fit`.
        """
        return torch.cat([part.apply(columns[part.name], origin) for part in self.parts], 1)

    def describe(self) -> list[str]:
        """Say what becomes of each column, in a line each, as in "amount: number, logarithm"."""
        return [f"{part.name}: {part.describe()}" for part in self.parts]

    def to_json(self) -> list[dict[str, Any]]:
        """Return a value for JSON, from which `from_json` makes the same transformation to the last bit."""
        return [part.to_json() for part in self.parts]

    @staticmethod
    def from_json(parts: list[dict[str, Any]]) -> FeatureTransform:
        """Read what `to_json` returns."""
        return FeatureTransform(tuple(map(Part.from_json, parts)))
