"""Time scale of a run: times in units of the stream's time resolution, so the unit of the input has no effect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_PERIODS = 10**9  # the time encoder's longest period over its shortest one
_ROUNDING = 8  # units in the last place of a time: a gap up to that is rounding


@dataclass(frozen=True)
class TimeScale:
    """Map from a stream's times t to (t − origin) / gap.

    Args:
        origin: the stream's first time. gap: g, the time resolution, in the stream's unit.
    """

    origin: int | float
    gap: float

    @staticmethod
    def of(t: torch.Tensor, train_end: int) -> TimeScale:
        """Find the time resolution of the training events.

        g is the 0.1 % quantile of the positive gaps between successive events, the first event after training included:
        the gap number ⌊n/1000⌋, counted from 0, of n sorted ones. So g is a gap that occurs, and one wrong time among
        thousands does not decide it. g is at least the span of these events divided by 10⁹, so that the nine decades of
        the time encoder's periods reach the span. Gaps between floats of at most 8 units in the last place of the
        largest time count as 0. Without a positive gap, g is 1.

        Args:
            t: [E] int64 or float64 on the host, never decreasing. train_end: the number of training events.
        """
        times = t[: train_end + 1].numpy()
        gaps = _since(times[1:], times[:-1])
        noise = _ROUNDING * float(np.spacing(np.abs(times).max())) if t.is_floating_point() else 0.0
        gaps = gaps[gaps > noise]
        place = gaps.size // 1000
        resolution = float(np.partition(gaps, place)[place]) if gaps.size else 1.0
        return TimeScale(t[0].item(), max(resolution, float(_since(times[-1:], times[:1])[0]) / _PERIODS))

    def scale(self, t: torch.Tensor) -> torch.Tensor:
        """Scale times [E] of the stream: t itself if g is 1, otherwise (t − origin) / g [E] in float64.

        Order and ties are kept, but distinct times become equal if float64 cannot tell their distances from the origin
        apart: those of nanoseconds after a year differ by multiples of 4.
        """
        if self.gap == 1.0:
            return t
        times = t.numpy()
        return torch.from_numpy(_since(times, times.dtype.type(self.origin)) / self.gap)


def _since(later: np.ndarray, earlier: np.ndarray | np.generic) -> np.ndarray:
    """Return later − earlier in float64; integers are subtracted first, and as unsigned ones, which hold any span."""
    differences = later - earlier
    return differences.view(np.uint64).astype(np.float64) if differences.dtype == np.int64 else differences
