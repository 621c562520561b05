"""The plan of a schedule: the smallest staleness at full throughput, the period, and the start of every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite
from typing import Any

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graph import Dependency, StageGraph, Time
from mspipe_triton.pipeline.schedules import DEPTH, RESIDENT, RESOURCES, schedule_graph, stage_names
from mspipe_triton.pipeline.simulate import whole_times

LARGEST = 1e15


@dataclass(frozen=True)
class Delay:
    """`stage` of iteration i starts at least `offset` after the start of `reference` of iteration i − distance."""

    stage: str
    reference: str
    distance: int
    offset: Fraction


@dataclass(frozen=True)
class Plan:
    """A schedule in its steady state.

    Args:
        schedule: its name.
        staleness: the bound s: how many of the preceding updates a memory fetch may miss.
        period: time from an iteration's start to the next one's.
        lower_bound: T*, the largest load of a resource; no period is below it.
        starts: start of every stage of an iteration after its first one's, as early as the period allows. The memory
            fetch is as late as it can be as well: it ends where the next stage starts (under fixed, or an update).
        utilisation: share of the period that each resource works, 0 to 1.
        graph: what was planned.
        delay: what the engine holds the memory fetch back by, in mspipe and exact.
        slack: how much later the memory fetch starts than the last update it has to wait for would let it.
    """

    schedule: str
    staleness: int
    period: Fraction
    lower_bound: Fraction
    starts: dict[str, Fraction]
    utilisation: dict[str, Fraction]
    graph: StageGraph
    delay: Delay | None
    slack: Fraction

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON numbers: integers where they are whole."""
        return {
            "schedule": self.schedule,
            "period": _number(self.period),
            "lower_bound": _number(self.lower_bound),
            "staleness": self.staleness,
            "starts": {name: _number(start) for name, start in self.starts.items()},
            "utilisation": {name: _number(share) for name, share in self.utilisation.items()},
            "slack": _number(self.slack),
        }


def make_plan(
    schedule: str,
    times: Mapping[str, Time],
    staleness: int | None = None,
    resources: Mapping[str, str] = RESOURCES,
    depth: int = DEPTH,
    held: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a schedule for given stage times.

    Without `staleness`, mspipe and exact take the smallest one whose period no larger one betters. With the default
    resources that period is T*; a resource that serves stages before and after others' work may miss it at any bound.

    Args:
        schedule: one of `SCHEDULES`, or `RESIDENT`.
        times: time of every stage of the schedule, in one unit. Integers and fractions are kept exactly; floats count
            to 12 significant digits, so that 0.1 and 0.2 make 0.3.
        staleness: the bound s. fixed needs it; serial and prefetch know only 0.
        resources: what each stage occupies.
        depth: finished iterations that may wait between two stages on different resources.
        held: bytes that each stage's output takes.

    Raises:
        GraphError: a staleness that the schedule lacks or does not have, or what `schedule_graph` refuses.
    """
    exact = {name: _quantised(time) for name, time in times.items()}

    def at(bound: int) -> StageGraph:
        return schedule_graph(schedule, exact, bound, resources, depth, held)

    if schedule in ("serial", "prefetch", RESIDENT) and staleness:
        raise GraphError(f"schedule {schedule} misses no update: staleness {staleness} takes mspipe, fixed or exact")
    if schedule == "fixed" and staleness is None:
        raise GraphError("schedule fixed needs a staleness, as in --staleness 1")
    if staleness is None and schedule in ("mspipe", "exact"):
        staleness = _smallest_staleness(at, len(stage_names(schedule)))
    graph = at(staleness or 0)
    period = steady_period(graph)
    starts = _paths(graph, period, graph.stages[0].name)
    slack = Fraction(0)
    if schedule != RESIDENT:
        slack = starts["memory"] - starts["update"] - _paths(graph, period, "update")["memory"]
    return Plan(
        schedule,
        staleness or 0,
        period,
        graph.lower_bound(),
        starts,
        {name: load / period for name, load in graph.loads().items()},
        graph,
        _delay(starts, period) if schedule in ("mspipe", "exact") else None,
        slack,
    )


def steady_period(graph: StageGraph) -> Fraction:
    """The period that a long run settles to: the largest ratio of time to distance over all circles of constraints.

    Starts from the circles of the resources, and goes on to the ratio of a circle that the period is too short for
    until there is none.
    """
    times, scale = whole_times(graph)
    names = [stage.name for stage in graph.stages]
    period = graph.lower_bound() * scale
    while circle := _relax(graph, times, period, names)[1]:
        period = Fraction(sum(times[each.before] for each in circle), sum(each.distance for each in circle))
    return period / scale


def _relax(
    graph: StageGraph, times: Mapping[str, int], period: Fraction, sources: Iterable[str]
) -> tuple[dict[str, int], list[Dependency]]:
    """Bellman-Ford for longest paths: an edge weighs the time of `before` less the periods it reaches back.

    Returns:
        The paths' lengths from the sources, times the period's denominator; and a circle of positive weight, or none.
    """
    longest = dict.fromkeys(sources, 0)
    last: dict[str, Dependency] = {}
    for _ in graph.stages:
        before = dict(longest)
        for each in graph.constraints:
            if each.before in longest:
                weight = times[each.before] * period.denominator - each.distance * period.numerator
                reach = longest[each.before] + weight
                if each.after not in longest or reach > longest[each.after]:
                    longest[each.after], last[each.after] = reach, each
        if longest == before:
            return longest, []
    name = next(name for name in longest if longest[name] != before.get(name))
    for _ in graph.stages:  # back from a stage that the circle has reached onto the circle itself
        name = last[name].before
    circle = [last[name]]
    while circle[-1].before != name:
        circle.append(last[circle[-1].before])
    return longest, circle


def _paths(graph: StageGraph, period: Fraction, source: str) -> dict[str, Fraction]:
    """How long after `source` every stage of the same iteration can start at the earliest, at a feasible period."""
    times, scale = whole_times(graph)
    longest, _ = _relax(graph, times, period * scale, [source])
    unit = scale * (period * scale).denominator
    return {stage.name: Fraction(longest[stage.name], unit) for stage in graph.stages}


def _delay(starts: Mapping[str, Fraction], period: Fraction) -> Delay:
    """The fetch's start as counted from the nearest earlier iteration whose training starts no later."""
    ahead = starts["train"] - starts["memory"]
    distance = max(1, ceil(ahead / period))
    return Delay("memory", "train", distance, distance * period - ahead)


def _smallest_staleness(at: Callable[[int], StageGraph], stages: int) -> int:
    """The smallest bound that no larger one betters.

    A circle's time is at most the sum of all loads, so at most `stages` times T*. With the bound `stages` − 1, every
    circle that the bound relaxes takes no more than T* an iteration: larger ones change nothing.
    """
    best = steady_period(at(stages - 1))
    return next(bound for bound in range(stages) if steady_period(at(bound)) == best)


def parse_times(text: str) -> dict[str, Fraction]:
    """Stage times from `sample=2,features=2.5,memory=1/3`, exactly.

    Raises:
        ConfigError: a part that is not name=time, a name given twice, or a time that is no number above 0 up to 1e15.
    """
    times: dict[str, Fraction] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals:
            raise ConfigError(f"--times: {part.strip()!r} is not name=time, as in sample=2")
        if name in times:
            raise ConfigError(f"--times: {name} is given twice")
        times[name] = _parsed(name, value)
    return times


def _parsed(name: str, value: str) -> Fraction:
    over, slash, under = value.partition("/")
    try:
        # The range is looked at first: an exact 1e999999999 would not fit into memory.
        if all(0 < float(number) <= LARGEST for number in ((over, under) if slash else (over,))):
            return Fraction(over) / Fraction(under if slash else 1)
    except ValueError:
        pass
    raise ConfigError(f"--times: {name}={value} is not a time; give a number above 0 and at most {LARGEST:g}")


def _quantised(time: Time) -> Time:
    return Fraction(f"{time:.12g}") if isinstance(time, float) and isfinite(time) else time


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
