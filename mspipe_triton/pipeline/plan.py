"""The plan of a schedule: the smallest staleness at full throughput, the period, and the start of every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite
from typing import Any

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graph import Dependency, StageGraph, Time
from mspipe_triton.pipeline.schedules import DEPTH, RESIDENT, RESOURCES, schedule_graph
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
        staleness: the bound s: the number of preceding updates that a memory fetch may miss.
        period: time from an iteration's start to the next one's.
        lower_bound: T*, the largest load of a resource; no period is below it.
        starts: start of every stage, counted from the start of the iteration's first stage, as early as the period
            allows. The memory fetch is also as late as possible: it ends when the next stage starts, or under fixed an
            update.
        utilisation: share of the period that each resource works, 0 to 1.
        graph: the graph that was planned.
        delay: the engine's delay of the memory fetch, in mspipe and exact.
        slack: how much later the memory fetch starts than the last update that it waits for would allow.
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
        """Return the plan as JSON numbers; whole numbers become integers."""
        return {
            "schedule": self.schedule,
            "period": number(self.period),
            "lower_bound": number(self.lower_bound),
            "staleness": self.staleness,
            "starts": {name: number(start) for name, start in self.starts.items()},
            "utilisation": {name: number(share) for name, share in self.utilisation.items()},
            "slack": number(self.slack),
        }


def make_plan(
    schedule: str,
    times: Mapping[str, Time],
    staleness: int | None = None,
    resources: Mapping[str, str] = RESOURCES,
    depth: int = DEPTH,
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a schedule for the stage times.

    Without `staleness`, mspipe and exact use the smallest one that no larger one improves the period of. With the
    default resources that period is T*; a resource whose stages run both before and after others may miss T* at any
    bound.

    Args:
        schedule: one of `SCHEDULES`, or `RESIDENT`.
        times: time of every stage of the schedule, in one unit. Integers and fractions are exact; floats are rounded
            to 12 significant digits, so that 0.1 and 0.2 add up to 0.3.
        staleness: the bound s. fixed needs it; serial and prefetch allow only 0.
        resources: the resource that each stage occupies.
        depth: finished iterations that may wait between two stages on different resources.
        sizes: bytes of each stage's output.

    Raises:
        GraphError: a staleness is missing or the schedule has none, or `schedule_graph` refuses the arguments.
    """
    exact_times = {name: _quantise(time) for name, time in times.items()}

    def graph_with(bound: int) -> StageGraph:
        return schedule_graph(schedule, exact_times, bound, resources, depth, sizes)

    if schedule in ("serial", "prefetch", RESIDENT) and staleness:
        raise GraphError(f"schedule {schedule} misses no update: staleness {staleness} needs mspipe, fixed or exact")
    if schedule == "fixed" and staleness is None:
        raise GraphError("schedule fixed needs a staleness, as in --staleness 1")
    if staleness is None and schedule in ("mspipe", "exact"):
        staleness = _smallest_staleness(graph_with, len(times))
    graph = graph_with(staleness or 0)
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
    """Compute the period that a long run settles to: the largest ratio of time to distance over cycles of constraints.

    The search starts from the resources' cycles. While the period is too short for some cycle, that cycle's ratio
    becomes the period.
    """
    times, scale = whole_times(graph)
    return _largest_ratio(graph, times) / scale


def longest_time(graph: StageGraph, stage: str) -> Fraction:
    """Return how long a stage may take without making the period longer than if it took no time."""
    whole, scale = whole_times(graph)
    times = {**whole, stage: 0}
    period = _largest_ratio(graph, times)
    longest, _ = _relax(graph, times, period, [stage])
    # All cycles through the stage, each without its time; the resource's own order makes one of them.
    back = max(
        longest[each.before] + times[each.before] * period.denominator - each.distance * period.numerator
        for each in graph.constraints
        if each.after == stage and each.before in longest
    )
    return Fraction(-back, scale * period.denominator)


def _largest_ratio(graph: StageGraph, times: Mapping[str, int]) -> Fraction:
    names = [stage.name for stage in graph.stages]
    period = Fraction(max(sum(times[stage.name] for stage in stages) for stages in graph.by_resource.values()))
    while cycle := _relax(graph, times, period, names)[1]:
        period = Fraction(sum(times[each.before] for each in cycle), sum(each.distance for each in cycle))
    return period


def _relax(
    graph: StageGraph, times: Mapping[str, int], period: Fraction, sources: Iterable[str]
) -> tuple[dict[str, int], list[Dependency]]:
    """Find longest paths by Bellman-Ford; an edge's weight is the time of `before` less the periods that it goes back.

    Returns:
        The paths' lengths from the sources, times the period's denominator; and a cycle of positive weight, if any.
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
    for _ in graph.stages:  # back from a stage behind the cycle onto the cycle itself
        name = last[name].before
    cycle = [last[name]]
    while cycle[-1].before != name:
        cycle.append(last[cycle[-1].before])
    return longest, cycle


def _paths(graph: StageGraph, period: Fraction, source: str) -> dict[str, Fraction]:
    """Return each stage's earliest start after that of `source` in the same iteration, at a feasible period."""
    times, scale = whole_times(graph)
    longest, _ = _relax(graph, times, period * scale, [source])
    unit = scale * (period * scale).denominator
    return {stage.name: Fraction(longest[stage.name], unit) for stage in graph.stages}


def _delay(starts: Mapping[str, Fraction], period: Fraction) -> Delay:
    """Return the fetch's start relative to the nearest earlier iteration whose training starts no later."""
    reference = "train" if "train" in starts else "forward"
    ahead = starts[reference] - starts["memory"]
    distance = max(1, ceil(ahead / period))
    return Delay("memory", reference, distance, distance * period - ahead)


def _smallest_staleness(graph_with: Callable[[int], StageGraph], stages: int) -> int:
    """Return the smallest bound that no larger one improves on.

    A cycle's time is at most the sum of all loads, so at most `stages` times T*. With the bound `stages` − 1, every
    cycle that the bound relaxes needs at most T* per iteration, so larger bounds change nothing.
    """
    best = steady_period(graph_with(stages - 1))
    return next(bound for bound in range(stages) if steady_period(graph_with(bound)) == best)


def parse_times(text: str) -> dict[str, Fraction]:
    """Parse stage times such as `sample=2,features=2.5,memory=1/3`, exactly.

    Raises:
        ConfigError: a part is not name=time, a name is repeated, or a time is not a number above 0 and up to 1e15.
    """
    times: dict[str, Fraction] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals:
            raise ConfigError(f"--times: {part.strip()!r} is not name=time, as in sample=2")
        if name in times:
            raise ConfigError(f"--times: {name} is given twice; give it once")
        times[name] = _parse_time(name, value)
    return times


def _parse_time(name: str, value: str) -> Fraction:
    numerator, slash, denominator = value.partition("/")
    try:
        # The range is checked first: an exact 1e999999999 would not fit into memory.
        if all(0 < float(number) <= LARGEST for number in ((numerator, denominator) if slash else (numerator,))):
            return Fraction(numerator) / Fraction(denominator if slash else 1)
    except ValueError:
        pass
    raise ConfigError(f"--times: {name}={value} is not a time; give a number above 0 and at most {LARGEST:g}")


def _quantise(time: Time) -> Time:
    return Fraction(f"{time:.12g}") if isinstance(time, float) and isfinite(time) else time


def number(value: Fraction) -> int | float:
    """Return a JSON number, an integer if the value is whole."""
    return int(value) if value.denominator == 1 else float(value)
