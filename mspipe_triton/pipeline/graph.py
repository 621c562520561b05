"""The stage graph: stages with their time, resource and bytes held, and dependencies within and across iterations."""

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
    """A step that every iteration takes once.

    Args:
        name: unique in its graph.
        resource: what it occupies while it runs; a resource runs one stage at a time.
        time: how long it takes, above 0, in any unit; kept exactly.
        held: bytes that an iteration holds from this stage's start until its last stage ends.
    """

    name: str
    resource: str
    time: Time = 1
    held: int = 0


@dataclass(frozen=True)
class Dependency:
    """`after` of iteration i starts once `before` of iteration i − distance has ended.

    A negative distance waits for a later iteration, and for the last one where there is none so late.
    """

    before: str
    after: str
    distance: int = 0

    def awaited(self, iteration: int, total: int | None) -> int | None:
        """The iteration waited for by this one of `total` (None: not known yet), or None where there is nothing."""
        other = iteration - self.distance
        if other < 0:
            return None
        return other if total is None else min(other, total - 1)


@dataclass(frozen=True)
class StageGraph:
    """Stages in the order in which an iteration's work passes them, and what they wait for.

    A resource serves its stages strictly by iteration, and within an iteration in the order given here. `dependencies`
    are what comes on top of that; an iteration's own stages wait for one another only where it says so.

    Raises:
        GraphError: no stages, a name given twice, a time that is not positive and finite, an unknown resource or stage,
            or a circle of waiting that does not reach an earlier iteration, which could never start.
    """

    stages: tuple[Stage, ...]
    dependencies: tuple[Dependency, ...] = ()
    resources: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise GraphError("a stage graph needs at least one stage")
        known = set(self.resources if self.resources is not None else (stage.resource for stage in self.stages))
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise GraphError(f"stage {stage.name!r} is given twice; names must differ")
            seen.add(stage.name)
            if stage.resource not in known:
                raise GraphError(
                    f"stage {stage.name!r} is on resource {stage.resource!r}, none of {', '.join(sorted(known))}"
                )
            if not 0 < stage.time < float("inf"):
                raise GraphError(f"stage {stage.name!r} takes {stage.time}; give a time above 0")
            if stage.held < 0:
                raise GraphError(f"stage {stage.name!r} holds {stage.held} bytes; give 0 or more")
        for dependency in self.dependencies:
            for name in (dependency.before, dependency.after):
                if name not in seen:
                    raise GraphError(
                        f"a dependency names stage {name!r}, which is none of {', '.join(s.name for s in self.stages)}"
                    )
        self._refuse_circles()

    @cached_property
    def times(self) -> dict[str, Fraction]:
        """Exact time of each stage."""
        return {stage.name: Fraction(stage.time) for stage in self.stages}

    @cached_property
    def by_resource(self) -> dict[str, tuple[Stage, ...]]:
        """The stages of each resource that has any, in the order served."""
        names = dict.fromkeys(stage.resource for stage in self.stages)
        return {name: tuple(stage for stage in self.stages if stage.resource == name) for name in names}

    @cached_property
    def resource_of(self) -> dict[str, str]:
        """The resource of each stage."""
        return {stage.name: stage.resource for stage in self.stages}

    @cached_property
    def constraints(self) -> tuple[Dependency, ...]:
        """The dependencies and the order of every resource, as dependencies: all that a start has to wait for."""
        order = []
        for stages in self.by_resource.values():
            order += [Dependency(first.name, then.name) for first, then in pairwise(stages)]
            order.append(Dependency(stages[-1].name, stages[0].name, 1))
        return (*self.dependencies, *order)

    @cached_property
    def waits(self) -> dict[str, tuple[Dependency, ...]]:
        """The dependencies that each stage waits for, the order of its resource left out."""
        return {
            stage.name: tuple(each for each in self.dependencies if each.after == stage.name) for stage in self.stages
        }

    def loads(self) -> dict[str, Fraction]:
        """Time that an iteration occupies each resource."""
        return {
            name: sum((self.times[s.name] for s in stages), Fraction()) for name, stages in self.by_resource.items()
        }

    def lower_bound(self) -> Fraction:
        """T*, the largest load: no schedule's period is below it."""
        return max(self.loads().values())

    def with_times(self, times: Mapping[str, Time]) -> StageGraph:
        """The same graph with other stage times."""
        stages = tuple(Stage(s.name, s.resource, times.get(s.name, s.time), s.held) for s in self.stages)
        return StageGraph(stages, self.dependencies, self.resources)

    def _refuse_circles(self) -> None:
        """Every circle of waiting has to reach back: Bellman-Ford on a weight that only a circle of distance ≤ 0 gains.

        With n stages a circle has at most n edges, so 1 an edge less n + 1 a distance is positive exactly on those.
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
        for _ in self.stages:  # back from a stage that the circle has reached onto the circle itself
            name = last[name]
        circle = [name]
        while last[circle[-1]] != name:
            circle.append(last[circle[-1]])
        others = f" through {', '.join(circle[1:])}" if circle[1:] else ""
        raise GraphError(f"stage {name!r} waits for itself{others}: the circle reaches no earlier iteration")
