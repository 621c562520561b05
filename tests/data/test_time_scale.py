"""Time scales: the resolution by a plain count of gaps, units, snapshots, rounding of floats, wide spans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from mspipe_triton.data.time_scale import TimeScale

DAY, YEAR = 86_400, 365 * 86_400
SECONDS = [0, 0, 3, 4, 4, 10, 60, 61, 3_600, 86_400, 86_400, 400_000, 1_000_001, 2_592_000]


def column(times: Sequence[float]) -> torch.Tensor:
    return torch.tensor(times, dtype=torch.float64 if isinstance(times[0], float) else torch.int64)


def of(times: Sequence[float], train_end: int | None = None) -> TimeScale:
    return TimeScale.of(column(times), len(times) - 1 if train_end is None else train_end)


def scaled(times: Sequence[float], train_end: int | None = None) -> list[float]:
    result: list[float] = of(times, train_end).scale(column(times)).tolist()
    return result


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40).map(sorted), st.data(), st.integers(-(10**15), 10**15))
def test_the_resolution_of_integers_is_the_smallest_gap_of_training(
    times: list[int], data: st.DataObject, start: int
) -> None:
    """A thousand gaps or fewer: number ⌊n/1000⌋ is the first."""
    train_end, times = data.draw(st.integers(1, len(times) - 1)), [start + time for time in times]
    gaps = [later - earlier for earlier, later in pairwise(times[: train_end + 1]) if later > earlier]
    scale = of(times, train_end)
    assert scale == TimeScale(times[0], float(min(gaps, default=1)))
    expected = times if scale.gap == 1 else [(time - times[0]) / scale.gap for time in times]
    assert scaled(times, train_end) == expected


@pytest.mark.parametrize("start", [0, 1_600_000_000], ids=["", "Unix"])
@pytest.mark.parametrize("unit", [10**3, 10**6, 10**9])
def test_integers_in_finer_units_scale_to_seconds_since_the_first_event(unit: int, start: int) -> None:
    times = [(start + time) * unit for time in SECONDS]
    assert of(times) == TimeScale(start * unit, float(unit))
    assert scaled(times) == SECONDS


@pytest.mark.parametrize("start", [0, -700_000_003, 1_600_000_000], ids=["", "before 1970", "Unix"])
@pytest.mark.parametrize("unit", [0.001, 0.1, 60, DAY, YEAR])
def test_floats_in_other_units_scale_to_the_same_bits(unit: float, start: int) -> None:
    times = [(start + time) / unit for time in SECONDS]
    assert scaled(times) == SECONDS
    assert of(times).gap == pytest.approx(1 / unit, rel=1e-9)


def test_seconds_stay_as_they_are() -> None:
    for times in ([5, 6, 9, 9, 20], [5.25, 6.25, 9.25, 9.75]):
        t = column(times)
        scale = TimeScale.of(t, 2)
        assert scale == TimeScale(times[0], 1.0)
        assert scale.scale(t) is t


def test_snapshots_are_numbered() -> None:
    times = [1_600_000_000 + DAY * day for day in range(12) for _ in range(50)]
    assert scaled(times) == [day for day in range(12) for _ in range(50)]


def test_training_events_at_one_time() -> None:
    assert of([7, 7, 7, 19, 20], train_end=3) == TimeScale(7, 12.0), "the first event after training counts"
    assert of([7, 7, 7, 7, 20], train_end=3) == TimeScale(7, 1.0)
    assert of([0.1 + 0.2, 0.3 + 1e-16], train_end=1).gap == 1.0, "0.30000000000000004 and 0.3 differ by rounding"


def test_wrong_gaps_among_thousands_do_not_count() -> None:
    times = list(range(0, 60 * 2_000, 60))
    times.insert(700, times[700] - 1)
    assert of(times) == TimeScale(0, 60.0)
    assert of(times[600:800]) == TimeScale(times[600], 1.0), "a gap among two hundred counts"


def test_bursts_of_nanoseconds_over_a_year() -> None:
    """The resolution is a billionth of the span, and the slowest frequency a radian in 80 spans."""
    hours = [3600 * 10**9 * hour for hour in range(24 * 365)]
    times = [time + 100 * number for time in hours for number in range(3)]
    span = times[-1] - times[0]
    assert of(times) == TimeScale(0, span / 10**9, pytest.approx(math.log10(80 * 10**9)))
    assert max(scaled(times)) == 10**9


def test_order_and_ties_are_kept() -> None:
    year = YEAR * 10**9
    times = [0, 100, 100, *(year + number for number in (0, 0, 1, 3, 10, 24, 38, 1_000))]
    result = scaled(times, train_end=2)
    assert of(times, train_end=2).gap == 100
    assert result == sorted(result)
    for (before, after), (a, b) in zip(pairwise(times), pairwise(result), strict=True):
        if before == after or after - before >= after * 2**-51:
            assert (a == b) == (before == after), (before, after)
    assert result[5] == result[3], "a nanosecond is lost after a year"


def test_rounding_is_no_gap() -> None:
    times = [0.1 * number for number in range(40)]
    doubled = sorted([*times, *(time * (1 + 2**-52) for time in times)])
    assert scaled(doubled) == [number for number in range(40) for _ in range(2)]


def test_floats_between_multiples_of_the_resolution_are_not_rounded() -> None:
    times = torch.rand(2_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sort().values.tolist()
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    assert of(times) == TimeScale(times[0], gaps[1])
    assert scaled(times) == [(time - times[0]) / gaps[1] for time in times]
    later = [*(float(time) for time in range(0, 200, 2)), 199.3]
    assert scaled(later, train_end=50) == [*range(100), 199.3 / 2], "one time between two multiples"


def test_decades_reach_beyond_the_span() -> None:
    """Seconds need the nine decades alone up to 12.5 million of them; times that are recorded finely need more."""
    assert of([0, 1, 3, 12_500_000]).decades == 9
    assert of([0, 1, 3, 125_000_000]).decades == pytest.approx(10)
    fine = of([0.0, 0.03, 1.5, 12_500_000.0])
    assert (fine.gap, fine.decades) == pytest.approx((0.03, math.log10(80 * 12_500_000 / 0.03)))
    for unit in (1000, 86400):
        assert of([time / unit for time in (0.0, 0.03, 1.5, 12_500_000.0)]).decades == pytest.approx(fine.decades)


def test_floats_near_their_spacing_are_not_rounded() -> None:
    step = 2.0**-19  # 8 units in the last place of 1.6e9
    times = [1.6e9 + step * number for number in (0, 2, 5, 9, 12, 15)]
    assert scaled(times) == [0, 1, 2.5, 4.5, 6, 7.5]


def test_the_widest_span_of_integers() -> None:
    times = [-(2**63), 0, 2**63 - 1]
    scale = of(times)
    assert scale == TimeScale(-(2**63), float(2**63 - 1))
    assert scaled(times) == [0, 1, 2]
