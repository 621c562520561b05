"""Scaling of features: standardised columns, after a logarithm where the tail is long, fitted on the training part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

FAR = 10.0  # deviations from the mean: a value further away asks for the logarithm, and results are clipped there
_NUMBERS = ("centre", "spread", "mean", "deviation")
_SAMPLE = 16_384  # rows that medians are taken from
_CHUNK = 2**21  # values per chunk

Values = torch.Tensor | np.ndarray
Refuse = Callable[[int, int, float], None]


@dataclass(frozen=True, eq=False)
class Scaling:
    """Scaling of F columns: y = x − centre, where `log` y := sign(y)·log1p(|y| / spread), then (y − mean) / deviation.

    The result is clipped to ±`limit`, so that a later outlier cannot ruin memory. All arithmetic is in float64.

    Args:
        log: [F] bool, on the host.
        centre, spread, mean, deviation: [F] float64. centre is the median of the column, spread the median distance
            of the values that differ from it; mean and deviation are those of y.
        limit: None leaves values as they are.
    """

    log: torch.Tensor
    centre: torch.Tensor
    spread: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    limit: float | None = FAR

    @staticmethod
    def identity(width: int) -> Scaling:
        """Return the scaling that leaves `width` columns as they are."""
        zeros, ones = torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
        return Scaling(zeros.bool(), zeros, ones, zeros, ones, None)

    @staticmethod
    def fit(values: Values, rows: int | np.ndarray) -> Scaling:
        """Fit a scaling in constant memory, so that `values` may be memory-mapped.

        A column gets the logarithm if one of the rows is more than 10 deviations from its mean, and more than 10
        spreads from its centre, which excludes columns of two values. Medians come from up to 16,384 evenly spaced
        rows. A constant column has deviation 1.

        Args:
            values: [E, F] of any real dtype, finite (see `check_finite`).
            rows: the training rows, as their number (they come first) or as numbers [M].
        """
        count, width = _count(rows), values.shape[1]
        if count == 0 or width == 0:
            return replace(Scaling.identity(width), limit=FAR)
        places = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)
        sample = _rows(values, places if isinstance(rows, int) else rows[places])
        centre = _median(sample)
        apart = (sample - centre).abs_()
        spread = _median(torch.where(apart > 0, apart, torch.nan)).nan_to_num_(nan=1.0)
        linear = replace(Scaling.identity(width), centre=centre, spread=spread, limit=FAR)
        mean, deviation, low, high = linear._moments(values, rows)
        far = torch.maximum(high - mean, mean - low) > FAR * deviation
        log = (far & (torch.maximum(high, -low) > FAR * spread)) | ~torch.isfinite(deviation)
        if log.any():
            mean, deviation, *_ = replace(linear, log=log)._moments(values, rows)
        return replace(linear, log=log, mean=mean, deviation=torch.where(deviation > 0, deviation, 1.0))

    @property
    def width(self) -> int:
        """F."""
        return self.log.numel()

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Scale rows [M, F] of any real dtype on the device of this scaling; returns float32."""
        return x.float() if self.limit is None else self._scaled(x.double()).clamp_(-self.limit, self.limit).float()

    def on(self, device: torch.device) -> Scaling:
        """Copy the scaling to a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _NUMBERS})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as lists; floats round-trip."""
        return {name: getattr(self, name).tolist() for name in ("log", *_NUMBERS)} | {"limit": self.limit}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Scaling:
        """Read what `to_json` returns."""
        numbers = {name: torch.tensor(fields[name], dtype=torch.float64) for name in _NUMBERS}
        return Scaling(torch.tensor(fields["log"], dtype=torch.bool), **numbers, limit=fields["limit"])

    @cached_property
    def _logarithms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns with the logarithm, and their spreads, on the device; cached, since the copy waits for the device."""
        columns = self.log.nonzero().squeeze(1).to(self.spread.device)
        return columns, self.spread.index_select(0, columns)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Scale rows [M, F] float64 without a limit."""
        y, (columns, spread) = x - self.centre, self._logarithms
        if columns.numel():
            part = y.index_select(1, columns)
            y.index_copy_(1, columns, part.sign() * part.abs().div_(spread).log1p_())
        return y.sub_(self.mean).div_(self.deviation)

    def _moments(self, values: Values, rows: int | np.ndarray) -> tuple[torch.Tensor, ...]:
        """Mean, deviation, smallest and largest value [F] of the scaled rows and 0."""
        total, squares, low, high = (torch.zeros(self.width, dtype=torch.float64) for _ in range(4))
        for _, chunk in _chunks(values, rows):
            y = self._scaled(chunk)
            total += y.sum(0)
            squares += y.square().sum(0)
            low, high = torch.minimum(low, y.amin(0)), torch.maximum(high, y.amax(0))
        count = _count(rows)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_(min=0).sqrt_()
        return mean, deviation, low, high


def scaled_in_chunks(
    values: Values, scaling: Scaling, rows: int | np.ndarray, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return scaled rows [M, F] of values on the host, a number of them or by numbers [M], computed chunk by chunk."""
    out = torch.empty((_count(rows), values.shape[1]), dtype=dtype)
    for start, chunk in _chunks(values, rows):
        out[start : start + chunk.shape[0]] = scaling.apply(chunk)
    return out


def check_finite(values: Values, rows: int | np.ndarray, refuse: Refuse) -> None:
    """Call `refuse` for the first value that is not finite, in a number of rows or in those of numbers [M].

    Args:
        refuse: raises an error, from the position of the row among `rows`, the column and the value.
    """
    for start, chunk in _chunks(values, rows):
        wrong = ~torch.isfinite(chunk)
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            refuse(start + row, column, chunk[row, column].item())


def _count(rows: int | np.ndarray) -> int:
    return rows if isinstance(rows, int) else rows.size


def _chunks(values: Values, rows: int | np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the rows in parts, float64, each with the position of its first row."""
    count, step = _count(rows), max(1, _CHUNK // max(1, values.shape[1]))
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield start, _rows(values, slice(start, stop) if isinstance(rows, int) else rows[start:stop])


def _rows(values: Values, rows: slice | np.ndarray) -> torch.Tensor:
    """Return rows of values as float64."""
    if isinstance(values, torch.Tensor):
        return values[rows if isinstance(rows, slice) else torch.from_numpy(rows)].double()
    return torch.from_numpy(np.require(values[rows], np.float64, "W"))  # torch warns of read-only memory


def _median(values: torch.Tensor) -> torch.Tensor:
    """Median [F] of the columns, without NaN values; NaN for a column of NaN."""
    return values.nanmedian(0).values
