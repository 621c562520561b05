"""Slow links between ranks: the staleness that would hide an exchange that holds training up, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from mspipe_triton.pipeline.plan import Plan, longest_time, make_plan, number
from mspipe_triton.pipeline.schedules import RESOURCES

_EXCHANGE = "exchange"
_SHORTEST = 1e-9  # seconds, as clocks may not see a short stage
_WORTHWHILE = Fraction(105, 100)  # times the period of mspipe, for a note on a run


@dataclass(frozen=True)
class Gain:
    """A gain by staleness where the exchange holds training up.

    Args:
        staleness: the smallest bound with which `mspipe` reaches its best period.
        period: that period. before: the plan's.
        faster: how many times as fast the exchange must be, so that it holds nothing up.
    """

    staleness: int
    period: Fraction
    before: Fraction
    faster: Fraction

    def to_json(self) -> dict[str, Any]:
        """Return staleness, period and `faster` as JSON numbers."""
        return {"staleness": self.staleness, "period": number(self.period), "faster": number(self.faster)}

    def describe(self, unit: str = "", per_unit: int = 1) -> str:
        """Say it in a sentence, with times in `unit`, `per_unit` of which make one unit of the plan's times."""
        period, before = (f"{float(time * per_unit):,.4g}{unit}" for time in (self.period, self.before))
        return (
            f"The exchange holds training up: staleness {self.staleness} (--schedule mspipe) would take {period} "
            f"instead of {before} per iteration; if the exchange were {ceil(10 * self.faster) / 10:,g} times as fast, "
            "no staleness would be needed."
        )


def staleness_gain(plan: Plan) -> Gain | None:
    """Return what staleness would gain because the exchange takes longer than the work that it overlaps with.

    Returns:
        None if the exchange does not make the plan's period longer, if staleness does not make it shorter, and for
        `serial`, in which staleness means nothing.
    """
    times = plan.graph.times
    if _EXCHANGE not in times or plan.schedule == "serial":
        return None
    limit = longest_time(plan.graph, _EXCHANGE)
    if times[_EXCHANGE] <= limit:
        return None
    resources = {**RESOURCES, **plan.graph.resource_of}
    best = make_plan("mspipe", {name: time for name, time in times.items() if name != "patch"}, resources=resources)
    if not best.staleness or best.period >= plan.period:
        return None
    return Gain(best.staleness, best.period, plan.period, times[_EXCHANGE] / limit)


def link_notes(schedule: str, stage_seconds: Mapping[str, float], staleness: int) -> list[str]:
    """Return a sentence if staleness would shorten a run's iterations by a twentieth or more; none otherwise.

    Args:
        stage_seconds: measured, of every stage of the schedule.
        staleness: of the run's plan.
    """
    if _EXCHANGE not in stage_seconds:
        return []
    bound = staleness if schedule in ("mspipe", "fixed") else None
    seconds = {name: max(time, _SHORTEST) for name, time in stage_seconds.items()}
    gain = staleness_gain(make_plan(schedule, seconds, bound))
    if gain is None or gain.before < _WORTHWHILE * gain.period:
        return []
    return [gain.describe(" ms", 1000)]
