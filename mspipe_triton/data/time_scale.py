"""Time scale of a run: times in units of the stream's time resolution, so the unit of the input has no effect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

_STEPS = 10**9  # at most, of the resolution in the span of training
_DECADES = 9.0
_BEYOND = 80  # spans of training after which the slowest frequency has turned by a radian
_ROUNDING = 8  # units in the last place of a time: a gap up to that is rounding


@dataclass(frozen=True)
class TimeScale:
    """Map from a stream's times t to (t − origin) / gap.

    Args:
        origin: the stream's first time. gap: g, the time resolution, in the stream's unit.
        decades: the decades of frequencies, from 1 radian per g down, that the time encoder covers.
    """

    origin: int | float
    gap: float
    decades: float = _DECADES

    @staticmethod
    def of(t: torch.Tensor, train_end: int) -> TimeScale:
        """Find the time resolution of the training events.

        g is the 0.1 % quantile of the positive gaps between successive events, the first event after training included:
        the gap number ⌊n/1000⌋, counted from 0, of n sorted ones. So g is a gap that occurs, and one wrong time among
        thousands does not decide it. g is at least the span of these events divided by 10⁹. Without a positive gap, g
        is 1. The decades are nine, or as many as it takes to have nearly constant frequencies, too: down to a radian in
        80 spans. Times that are recorded finely need them (docs/measured/evaluation.md).

        Floats carry rounding errors, of up to 8 units in the last place of the largest time: such a gap counts as 0,
        and if all gaps are multiples of g up to that error, g is the span over their sum.

        Args:
            t: [E] int64 or float64 on the host, never decreasing. train_end: the number of training events.
        """
        times = t[: train_end + 1].numpy()
        gaps, span, error = _since(times[1:], times[:-1]), float(_since(times[-1:], times[:1])[0]), _rounding(times)
        positive = gaps[gaps > error]
        if not positive.size:
            return TimeScale(t[0].item(), 1.0)
        place = positive.size // 1000
        gap = float(np.partition(positive, place)[place])
        if error > 0:
            steps = np.rint(gaps / gap)
            exact = span / float(steps.sum())
            gap = exact if _within(gaps, steps, exact, error) else gap
        gap = max(gap, span / _STEPS)
        return TimeScale(t[0].item(), gap, max(_DECADES, math.log10(_BEYOND * span / gap)))

    def scale(self, t: torch.Tensor, steps: bool | None = None) -> torch.Tensor:
        """Scale times [E] of the stream: t itself if g is 1, otherwise (t − origin) / g [E] in float64.

        If all results are integers but for the rounding of floats, they become integers, so that days and seconds give
        the same numbers. Order and ties are kept. Distinct times may become equal if they differ by less than 2⁻⁵¹ of
        their distance from the origin (14 ns after a year), or are floats that differ by rounding.

        Args:
            t: [E], all times of the stream, in order; or other times, at least one, of a stream whose scaled times are
                all integers or not, as `steps` says. If they are, a time that is one is made one.
        """
        if self.gap == 1.0:
            return t
        times = t.numpy()
        since = _since(times, times.dtype.type(self.origin))
        scaled = since / self.gap
        whole = np.rint(scaled)
        if steps is None:
            return torch.from_numpy(whole if _within(since, whole, self.gap, _rounding(times)) else scaled)
        if not steps:
            return torch.from_numpy(scaled)
        error = _rounding(np.sort(times))
        near = (np.abs(since - whole * self.gap) <= error) & (error <= self.gap / 10)
        return torch.from_numpy(np.where(near, whole, scaled))


def _since(later: np.ndarray, earlier: np.ndarray | np.generic) -> np.ndarray:
    """Return later − earlier in float64; integers are subtracted first, and as unsigned ones, which hold any span."""
    differences: np.ndarray = later - earlier
    return differences.view(np.uint64).astype(np.float64) if differences.dtype == np.int64 else differences


def _rounding(times: np.ndarray) -> float:
    """Return the largest rounding error of a difference of float times; 0 for integers."""
    return 0.0 if times.dtype == np.int64 else _ROUNDING * float(np.spacing(np.abs(times[[0, -1]]).max()))


def _within(times: np.ndarray, steps: np.ndarray, gap: float, error: float) -> bool:
    """Return True if times are steps · gap up to an error that is small beside the gap."""
    return error <= gap / 10 and bool((np.abs(times - steps * gap) <= error).all())
