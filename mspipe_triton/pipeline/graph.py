"""Stage graphs: stages with their time, resource and memory, and dependencies within and across iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from mspipe_triton.errors import GraphError

Time = Fraction | int | float


@dataclass(frozen=True)
class Stage:
    """A step that every iteration runs once.

    Args:
        name: unique in its graph.
        resource: the resource that the stage occupies while it runs; a resource runs one stage at a time.
        time: its duration, above 0, in any unit; stored exactly.
        size: bytes that an iteration holds from this stage's start until the iteration's last stage ends.
    """

    name: str
    resource: str
    time: Time = 1
    size: int = 0


@dataclass(frozen=True)
class Dependency:
    """`after` of iteration i starts once `before` of iteration i − distance has ended.

    A negative distance waits for a later iteration, or for the last one if the run ends before.
    """

    before: str
    after: str
    distance: int = 0

    def target(self, iteration: int, total: int | None) -> int | None:
        """Return the iteration that this one of `total` (None: unknown yet) waits for, or None if it need not wait."""
        other = iteration - self.distance
        if other < 0:
            return None
        return other if total is None else min(other, total - 1)


@dataclass(frozen=True)
class StageGraph:
    """The stages of an iteration, in order, and their dependencies.

    A resource runs its stages strictly by iteration, and within an iteration in the order of `stages`. `dependencies`
    come on top of that: without one, even stages of the same iteration do not wait for each other.

    Raises:
        GraphError: no stages, a repeated name, a time that is not positive and finite, an unknown resource or stage,
            or a dependency cycle that reaches no earlier iteration, whose stages could never start.
    """

    stages: tuple[Stage, ...]
    dependencies: tuple[Dependency, ...] = ()
    resources: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise GraphError("a stage graph needs at least one stage")
        resources = set(self.resources if self.resources is not None else (stage.resource for stage in self.stages))
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise GraphError(f"stage {stage.name!r} is given twice; names must differ")
            seen.add(stage.name)
            if stage.resource not in resources:
                names = ", ".join(sorted(resources))
                raise GraphError(f"stage {stage.name!r} is on resource {stage.resource!r}, not one of {names}")
            if not 0 < stage.time < float("inf"):
                raise GraphError(f"stage {stage.name!r} takes {stage.time}; give a time above 0")
            if stage.size < 0:
                raise GraphError(f"stage {stage.name!r} holds {stage.size} bytes; give 0 or more")
        for dependency in self.dependencies:
            for name in (dependency.before, dependency.after):
                if name not in seen:
                    raise GraphError(
                        f"a dependency names stage {name!r}, not one of {', '.join(s.name for s in self.stages)}"
                    )
        self._refuse_cycles()

    @cached_property
    def times(self) -> dict[str, Fraction]:
        """Exact time of each stage."""
        return {stage.name: Fraction(stage.time) for stage in self.stages}

    @cached_property
    def by_resource(self) -> dict[str, tuple[Stage, ...]]:
        """The stages of each resource that has any, in the order in which it runs them."""
        names = dict.fromkeys(stage.resource for stage in self.stages)
        return {name: tuple(stage for stage in self.stages if stage.resource == name) for name in names}

    @cached_property
    def resource_of(self) -> dict[str, str]:
        """The resource of each stage."""
        return {stage.name: stage.resource for stage in self.stages}

    @cached_property
    def constraints(self) -> tuple[Dependency, ...]:
        """Everything that a stage's start waits for: dependencies, and the order of each resource as dependencies."""
        order = []
        for stages in self.by_resource.values():
            order += [Dependency(before.name, after.name) for before, after in pairwise(stages)]
            order.append(Dependency(stages[-1].name, stages[0].name, 1))
        return (*self.dependencies, *order)

    @cached_property
    def waits(self) -> dict[str, tuple[Dependency, ...]]:
        """The dependencies that each stage waits for, without the order of its resource."""
        return {
            stage.name: tuple(each for each in self.dependencies if each.after == stage.name) for stage in self.stages
        }

    @cached_property
    def sources(self) -> dict[str, str | None]:
        """The stage whose result each stage gets: the last one before it, in order, that it waits for; None if none."""
        names = [stage.name for stage in self.stages]
        sources: dict[str, str | None] = {}
        for place, name in enumerate(names):
            here = {each.before for each in self.waits[name] if each.distance == 0}
            sources[name] = next((other for other in reversed(names[:place]) if other in here), None)
        return sources

    def loads(self) -> dict[str, Fraction]:
        """Return the time per iteration that each resource is busy."""
        return {
            name: sum((self.times[s.name] for s in stages), Fraction()) for name, stages in self.by_resource.items()
        }

    def lower_bound(self) -> Fraction:
        """Return T*, the largest load: no schedule's period is below it."""
        return max(self.loads().values())

    def with_times(self, times: Mapping[str, Time]) -> StageGraph:
        """Return the graph with other stage times."""
        stages = tuple(Stage(s.name, s.resource, times.get(s.name, s.time), s.size) for s in self.stages)
        return StageGraph(stages, self.dependencies, self.resources)

    def _refuse_cycles(self) -> None:
        """Refuse dependency cycles of distance ≤ 0, by Bellman-Ford on a weight that only these cycles increase.

        With n stages a cycle has at most n edges, so the weight 1 − (n + 1) · distance per edge, summed over a cycle,
        is positive exactly for distances ≤ 0.
        """
        size = len(self.stages) + 1
        longest = dict.fromkeys((stage.name for stage in self.stages), 0)
        last: dict[str, str] = {}
        for _ in self.stages:
            before = dict(longest)
            for each in self.constraints:
                reach = longest[each.before] + 1 - size * each.distance
                if reach > longest[each.after]:
                    longest[each.after], last[each.after] = reach, each.before
            if longest == before:
                return
        name = next(name for name in longest if longest[name] != before[name])
        for _ in self.stages:  # back from a stage behind the cycle onto the cycle itself
            name = last[name]
        cycle = [name]
        while last[cycle[-1]] != name:
            cycle.append(last[cycle[-1]])
        others = f" through {', '.join(cycle[1:])}" if cycle[1:] else ""
        raise GraphError(f"stage {name!r} waits for itself{others}: the cycle reaches no earlier iteration")
