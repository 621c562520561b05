"""Online planning: running averages of stage times, and a new plan when they drift from the current one."""

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
_OUTLIER = 4  # cap, in averages, on one measurement, for stages that pause once, for example to compile a kernel


def guarded(plan: Plan) -> Delay | None:
    """Return the plan's delay of the memory fetch less a tenth of a period, since stage times vary around the average.

    A fetch that ends late stalls training; one that ends early only misses an update more often.
    """
    if plan.delay is None:
        return None
    return replace(plan.delay, offset=max(plan.delay.offset - plan.period * GUARD, Fraction()))


@dataclass(frozen=True)
class Replanned:
    """A change of plan from `old` (None for the first plan) to `new`, and the stage whose time caused it."""

    old: Plan | None
    new: Plan
    stage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the change's entry in `metrics.jsonl`."""
        old, new = (None if plan is None else _with_times(plan) for plan in (self.old, self.new))
        return {"event": "plan", "stage": self.stage, "old": old, "new": new}


def _with_times(plan: Plan) -> dict[str, Any]:
    return {**plan.to_json(), "times": {name: float(time) for name, time in plan.graph.times.items()}}


class OnlinePlanner:
    """The current plan of a run, and the average stage times that may require a new one.

    Args:
        schedule: one of `SCHEDULES`.
        staleness: the bound of `fixed`; None lets the plan find it.
        times: seconds of every stage for the first plan; None: all equal, until measurements replace them.
        resources, depth: as in `schedule_graph`. shared: whether several ranks share each iteration.
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
        shared: bool = False,
    ) -> None:
        self.schedule, self.staleness, self.resources = schedule, staleness, resources
        self.depth, self.drift = depth, drift
        self.average: dict[str, float] = {}
        self.iterations = 0  # since the current plan was made
        self.guessed, self.starting = times is None, True
        self.plan = self.plan_for(times or dict.fromkeys(stage_names(schedule, shared), 1e-3))

    def observe(self, spans: list[Span]) -> Replanned | None:
        """Add an iteration's stage times to the averages; return a new plan if they require one."""
        self.iterations += 1
        if self.starting:  # the first iteration of a process is unlike the others
            self.starting = False
            return None
        for span in spans:
            seconds = max(span.seconds, 1e-9)
            before = self.average.get(span.stage, seconds)
            seconds = min(seconds, _OUTLIER * before)
            self.average[span.stage] = before + _WEIGHT * (seconds - before)
        if self.iterations < _SETTLED:
            return None
        stage = self._drifted_stage()
        if stage is None:
            return None
        old, self.plan = self.plan, self.plan_for(self.average)
        self.iterations, self.guessed = 0, False
        return Replanned(old, self.plan, stage)

    def forget(self) -> None:
        """Forget the averages, since stages take other times from now on."""
        self.average.clear()
        self.iterations = 0

    def plan_for(self, times: Mapping[str, float]) -> Plan:
        """Plan the same schedule for other stage times."""
        return make_plan(self.schedule, times, self.staleness, self.resources, self.depth)

    def _drifted_stage(self) -> str | None:
        """Return the stage furthest from the plan, or None if all are close enough."""
        times = self.plan.graph.times
        differences = {name: abs(seconds - float(times[name])) for name, seconds in self.average.items()}
        stages = [
            name
            for name, difference in differences.items()
            if difference > self.drift * times[name] and difference > _NEGLIGIBLE * self.plan.period
        ]
        return max(stages, key=differences.__getitem__, default=None)
