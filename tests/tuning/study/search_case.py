"""Spaces, a clock and a measurement for the tests of the search."""

from __future__ import annotations

from mspipe_triton.tuning.study.search import Cutoff
from mspipe_triton.tuning.study.space import Point, Space

# 2,000 points, with as many unordered names as a run may have.
SPACE = Space(
    {
        "threads": (1, 2, 4, 8, 16),
        "prefetch": (1, 2, 3, 4, 6),
        "schedule": ("serial", "prefetch", "exact", "mspipe"),
        "block": (16, 32, 64, 128, 256),
        "variant": ("fused", "split", "plain", "mixed"),
    },
    {"threads": 4, "prefetch": 3, "schedule": "serial", "block": 64, "variant": "fused"},
)
SMALL = Space(
    {"schedule": ("serial", "exact"), "prefetch": (1, 2, 3, 4, 6), "threads": (1, 2, 4, 6), "fused": (True, False)},
    {"schedule": "serial", "threads": 1, "fused": True},
    {"prefetch": ("schedule", ("exact",))},
)


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Measurement:
    """Speeds of points of SMALL, in four steps; each measurement moves the clock by ten seconds."""

    def __init__(self, clock: Clock | None = None, seconds: float = 10.0) -> None:
        self.clock, self.seconds = clock or Clock(), seconds
        self.points: list[Point] = []
        self.steps: list[int] = []

    def __call__(self, point: Point, cutoff: Cutoff) -> dict[str, float]:
        self.points.append(point)
        self.steps.append(0)
        score = speed(point)
        for _ in range(4):
            self.clock.now += self.seconds / 4
            self.steps[-1] += 1
            if cutoff(score):
                break
        return {"score": score, "stalls": 0.25}


def speed(point: Point) -> float:
    """Speed of a point; the best is 219, with four threads, `exact` with prefetch 6, and fused."""
    threads = {1: 0, 2: 30, 4: 50, 6: 40}[int(point["threads"])]
    return 100 + threads + 9 * int(point.get("prefetch", 0)) + 15 * bool(point["fused"])
