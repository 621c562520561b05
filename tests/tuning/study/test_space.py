"""Search spaces: their points, conditions and digest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mspipe_triton.tuning.study.space import Space

SMALL = Space(
    {"schedule": ("serial", "exact"), "depth": (1, 2, 4), "fused": (True, False)},
    {"schedule": "serial", "fused": False},
    {"depth": ("schedule", ("exact",))},
)


def test_points_start_with_the_default_and_are_distinct() -> None:
    points = list(SMALL.points())
    assert points[0] == SMALL.default
    assert len(points) == SMALL.size == 2 + 3 * 2
    assert len({str(sorted(point.items())) for point in points}) == SMALL.size
    assert all(SMALL.contains(point) for point in points)


@pytest.mark.parametrize(
    "point",
    [
        {"schedule": "serial", "fused": True, "depth": 1},  # a name that does not apply
        {"schedule": "exact", "fused": True},  # a missing name
        {"schedule": "exact", "fused": True, "depth": 3},  # not a choice
        {"schedule": "exact", "fused": 1, "depth": 1},  # 1 is not True
        {"schedule": "serial", "fused": True, "more": 1},
    ],
)
def test_invalid_points_are_not_in_the_space(point: dict[str, bool | int | str]) -> None:
    assert not SMALL.contains(point)


def test_a_space_with_a_wrong_default_or_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="not a point"):
        replace(SMALL, default={"schedule": "serial"})
    with pytest.raises(ValueError, match="does not come before"):
        replace(SMALL, applies={"schedule": ("depth", (1,))})


def test_only_numbers_are_ordered() -> None:
    assert [SMALL.ordered(name) for name in SMALL.choices] == [False, True, False]


def test_the_digest_depends_on_the_content() -> None:
    assert SMALL.digest() == Space(dict(SMALL.choices), dict(SMALL.default), dict(SMALL.applies)).digest()
    others = [
        replace(SMALL, default={"schedule": "serial", "fused": True}),
        replace(SMALL, choices={**SMALL.choices, "depth": (1, 2)}),
        replace(SMALL, applies={"depth": ("schedule", ("exact", "serial"))}, default=next(reversed([*SMALL.points()]))),
    ]
    assert len({SMALL.digest(), *(other.digest() for other in others)}) == 4
