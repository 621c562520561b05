"""Planning while training: running averages of stage times, and a new plan when they drift from the one in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.plan import Delay, Plan, make_plan
from mspipe_triton.pipeline.schedules import DEPTH, RESOURCES, stage_names

DRIFT = 0.2
GUARD = Fraction(1, 10)
_WEIGHT = 1 / 16
_SETTLED = 8
_NEGLIGIBLE = 0.01
_OUTLIER = 4  # a stage that pauses once, to compile a kernel say, counts as this many times its average at most


def guarded(plan: Plan) -> Delay | None:
    """The plan's delay of the memory fetch, less a tenth of a period, since stage times scatter around their averages.

    A fetch that ends late holds training up, one that ends early only misses an update more often.
    """
    if plan.delay is None:
        return None
    return replace(plan.delay, offset=max(plan.delay.offset - plan.period * GUARD, Fraction()))


@dataclass(frozen=True)
class Replanned:
    """A plan put in the place of another, the first one in the place of None, and the stage that gave cause."""

    old: Plan | None
    new: Plan
    stage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `metrics.jsonl` holds it."""
        old, new = (None if plan is None else _in_force(plan) for plan in (self.old, self.new))
        return {"event": "plan", "stage": self.stage, "old": old, "new": new}


def _in_force(plan: Plan) -> dict[str, Any]:
    return {**plan.to_json(), "times": {name: float(time) for name, time in plan.graph.times.items()}}


class OnlinePlanner:
    """The plan that a run is under, and the averages that may call for another one.

    Args:
        schedule: one of `SCHEDULES`.
        staleness: the bound of `fixed`; None lets the plan find it.
        times: seconds of every stage to plan with at first; None: all equal, until the first have been measured.
        resources, depth: as in `schedule_graph`.
        drift: share by which a stage's average may differ from the plan's time; differences below a hundredth of the
            period never count.
    """

    def __init__(
        self,
        schedule: str,
        staleness: int | None = None,
        times: Mapping[str, float] | None = None,
        resources: Mapping[str, str] = RESOURCES,
        depth: int = DEPTH,
        drift: float = DRIFT,
    ) -> None:
        self.schedule, self.staleness, self.resources = schedule, staleness, resources
        self.depth, self.drift = depth, drift
        self.average: dict[str, float] = {}
        self.measured = 0  # iterations since the plan in force was made
        self.guessed, self.starting = times is None, True
        self.plan = self.plan_for(times or dict.fromkeys(stage_names(schedule), 1e-3))

    def observe(self, spans: list[Span]) -> Replanned | None:
        """Take an iteration's stage times in; the new plan, where they call for one."""
        self.measured += 1
        if self.starting:  # the first iteration of a process is none like the others
            self.starting = False
            return None
        for span in spans:
            seconds = max(span.seconds, 1e-9)
            before = self.average.get(span.stage, seconds)
            seconds = min(seconds, _OUTLIER * before)
            self.average[span.stage] = before + _WEIGHT * (seconds - before)
        if self.measured < _SETTLED:
            return None
        stage = self._drifted()
        if stage is None:
            return None
        old, self.plan = self.plan, self.plan_for(self.average)
        self.measured, self.guessed = 0, False
        return Replanned(old, self.plan, stage)

    def plan_for(self, times: Mapping[str, float]) -> Plan:
        """The plan for given stage times, under the same schedule."""
        return make_plan(self.schedule, times, self.staleness, self.resources, self.depth)

    def _drifted(self) -> str | None:
        """The stage furthest from the plan, where that is too far."""
        planned = self.plan.graph.times
        off = {name: abs(seconds - float(planned[name])) for name, seconds in self.average.items()}
        far = [
            name
            for name, difference in off.items()
            if difference > self.drift * planned[name] and difference > _NEGLIGIBLE * self.plan.period
        ]
        return max(far, key=off.__getitem__, default=None)
