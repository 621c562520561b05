"""All plans of small models, by definition and in plain arithmetic; an oracle that uses no code of the planners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations, pairwise, product
from typing import NamedTuple

from mspipe_triton.pipeline.graphpipe.operators import Duration
from mspipe_triton.pipeline.graphpipe.problem import Problem

Operators = frozenset[int]
Levels = frozenset[tuple[Operators, int]]


class Placed(NamedTuple):
    """A stage of a plan: its level is the number of groups of passes that it has in flight."""

    operators: Operators
    level: int
    devices: int


class Outcome(NamedTuple):
    """A plan, with its seconds per sample, its largest level, and its number of devices."""

    bottleneck: float
    depth: int
    devices: int
    stages: frozenset[Placed]


class Enumeration:
    """All plans of a problem, in which every stage has one micro-batch size and one group size."""

    def __init__(self, problem: Problem, micro_batch: int, group: int) -> None:
        self.problem, self.micro_batch, self.group = problem, micro_batch, group
        self.operators, self.edges = problem.graph.operators, problem.graph.edges
        self.everything = Operators(filter(self._needs_a_device, range(len(self.operators))))
        self.following = {index: self._reached(index) for index in range(len(self.operators))}
        self.seconds, self.fits = cache(self._seconds), cache(self._fits)
        self.levels, self.steps, self.branches = cache(self._levels), cache(self._steps), cache(self._branches)

    def plans_by_splits(self) -> list[Outcome]:
        """Return the plans that the seven splits of `Space` make of a series-parallel model.

        A stage's level is one more than that of what follows it: of the first stages of all that comes after it in a
        series, or of the stage that a split puts last, for everything before that one.
        """
        return self._outcomes(self.levels(self.everything, 0))

    def all_plans(self) -> list[Outcome]:
        """Return the plans of every partition into stages that do not use one another in a cycle.

        A stage's level is the number of stages on the longest path from it to the end.
        """
        return self._outcomes(filter(None, map(self._depths, self.partitions())))

    def partitions(self) -> Iterator[list[Operators]]:
        """Yield all partitions of the operators into at most as many sets as there are devices."""
        groups: list[list[Operators]] = [[]]
        for index in sorted(self.everything):
            longer = []
            for sets in groups:
                for number, one in enumerate(sets):
                    longer.append([*sets[:number], one | {index}, *sets[number + 1 :]])
                if len(sets) < self.problem.cluster.devices:
                    longer.append([*sets, Operators({index})])
            groups = longer
        yield from groups

    def _needs_a_device(self, index: int) -> bool:
        """False for an operator that costs nothing, uses others, and is used by none."""
        one = self.operators[index]
        costs = one.forward != Duration(0, 0) or one.backward != Duration(0, 0) or one.parameters or one.activations
        used, uses = (any(edge[end] == index for edge in self.edges) for end in (0, 1))
        return bool(costs) or used or not uses

    def _reached(self, index: int) -> Operators:
        """Return the operators that come after one."""
        reached: set[int] = set()
        while True:
            more = {after for before, after in self.edges if before == index or before in reached}
            if more <= reached:
                return Operators(reached)
            reached |= more

    def _before(self, some: Operators, others: Operators) -> bool:
        return all(others <= self.following[index] for index in some)

    def _apart(self, some: Operators, others: Operators) -> bool:
        return not any(others & self.following[index] for index in some) and not any(
            some & self.following[index] for index in others
        )

    def _steps(self, operators: Operators) -> list[Operators]:
        """Cut a set wherever all operators of one side come before all of the other."""
        starts = [some for some in _subsets(operators) if self._before(some, operators - some)]
        bounds = [Operators(), *sorted(starts, key=len), operators]
        return [after - before for before, after in pairwise(bounds)]

    def _branches(self, operators: Operators) -> list[Operators]:
        """Cut a set into the smallest sets that do not depend on one another."""
        sides = [*(some for some in _subsets(operators) if self._apart(some, operators - some)), operators]
        return [side for side in sides if not any(other < side for other in sides)]

    def _levels(self, operators: Operators, follow: int) -> set[Levels]:
        """Return the stages that the splits make of a set, with their levels, if level `follow` comes after the set."""
        results = {Levels({(operators, follow + 1)})}  # 1
        steps = self.steps(operators)
        for place, step in enumerate(steps):
            before, after = _union(steps[:place]), _union(steps[place + 1 :])
            if before:
                results |= self._one_after_the_other(before, step | after, follow)  # 2
            for heads, tails in self._cuts(self.branches(step)):
                if after:
                    results |= self._with_last(before | heads, tails | after, follow)  # 4
                elif before:
                    results |= self._with_first(before | heads, tails, follow)  # 5
        branches = self.branches(operators)
        for some in _subsets(Operators(range(len(branches)))):
            one = _union(branches[number] for number in some)
            results |= {
                mine | others
                for mine, others in product(self.levels(one, follow), self.levels(operators - one, follow))
            }  # 3
        for heads, tails in self._cuts(branches):
            if all(tails & branch for branch in branches):
                results |= self._with_last(heads, tails, follow)  # 6
            if all(heads & branch for branch in branches):
                results |= self._with_first(heads, tails, follow)  # 7
        return {each for each in results if len(each) <= self.problem.cluster.devices}

    def _one_after_the_other(self, front: Operators, back: Operators, follow: int) -> set[Levels]:
        return {
            first | second
            for second in self.levels(back, follow)
            for first in self.levels(front, max(level for _, level in second))
        }

    def _with_last(self, front: Operators, last: Operators, follow: int) -> set[Levels]:
        return {stages | {(last, follow + 1)} for stages in self.levels(front, follow + 1)}

    def _with_first(self, first: Operators, back: Operators, follow: int) -> set[Levels]:
        return {stages | {(first, 1 + max(level for _, level in stages))} for stages in self.levels(back, follow)}

    def _cuts(self, branches: Sequence[Operators]) -> Iterator[tuple[Operators, Operators]]:
        """Yield beginnings and ends of two or more branches, cut between their steps; neither is empty."""
        if len(branches) < 2:
            return
        steps = [self.steps(branch) for branch in branches]
        for places in product(*(range(len(each) + 1) for each in steps)):
            heads = _union(_union(each[:place]) for each, place in zip(steps, places, strict=True))
            tails = _union(branches) - heads
            if heads and tails:
                yield heads, tails

    def _depths(self, sets: Sequence[Operators]) -> Levels | None:
        """Return sets with their levels by data dependencies, or None if these form a cycle."""
        users = {
            one: {
                other
                for other in sets
                if other != one and any(before in one and after in other for before, after in self.edges)
            }
            for one in sets
        }
        levels: dict[Operators, int] = {}
        while len(levels) < len(sets):
            ready = [one for one in sets if one not in levels and all(other in levels for other in users[one])]
            if not ready:
                return None
            levels |= {one: 1 + max((levels[other] for other in users[one]), default=0) for one in ready}
        return Levels(levels.items())

    def _outcomes(self, partitions: Iterable[Levels]) -> list[Outcome]:
        """Place each partition on devices in every way that fits."""
        results, available = [], self.problem.cluster.devices
        most = min(available, self.micro_batch, self.problem.replicas or available)
        for partition in partitions:
            options = [
                [
                    Placed(operators, level, devices)
                    for devices in range(1, most + 1)
                    if self.fits(operators, devices, level)
                ]
                for operators, level in partition
            ]
            for stages in product(*options):
                devices = sum(stage.devices for stage in stages)
                if devices <= available:
                    slowest = max(self.seconds(stage.operators, stage.devices) for stage in stages)
                    results.append(Outcome(slowest, max(s.level for s in stages), devices, frozenset(stages)))
        return results

    def _seconds(self, stage: Operators, devices: int) -> float:
        """Return the seconds per sample of a stage: of its work, or of what it receives if that takes longer."""
        cluster, ones = self.problem.cluster, [self.operators[index] for index in stage]
        share = (self.micro_batch + devices - 1) // devices
        link = cluster.bandwidth
        if cluster.node is not None and cluster.between is not None and cluster.node < cluster.devices:
            link = min(link, cluster.between)
        passes = sum(way.fixed + way.per_sample * share for one in ones for way in (one.forward, one.backward))
        reduce = 2 * (devices - 1) * sum(one.parameters for one in ones) / (devices * link)
        senders = {before for before, after in self.edges if after in stage and before not in stage}
        received = sum(self.operators[index].output for index in senders) / link
        return max(passes / self.micro_batch + reduce / self.problem.batch, received)

    def _fits(self, stage: Operators, devices: int, level: int) -> bool:
        """Compare the bytes of a stage that has as many groups of passes in flight as its level with the memory."""
        ones = [self.operators[index] for index in stage]
        share = (self.micro_batch + devices - 1) // devices
        micro_batches = min(level * self.group * self.micro_batch, self.problem.batch) // self.micro_batch
        state = self.problem.copies * sum(one.parameters for one in ones)
        return state + sum(one.activations for one in ones) * micro_batches * share <= self.problem.cluster.memory


def cuts_of(order: Sequence[int], plans: Iterable[Outcome]) -> list[Outcome]:
    """Return the plans whose stages are intervals of an order of the operators."""
    place = {index: number for number, index in enumerate(order)}

    def interval(operators: Operators) -> bool:
        places = [place[index] for index in operators]
        return max(places) - min(places) == len(places) - 1

    return [plan for plan in plans if all(interval(stage.operators) for stage in plan.stages)]


def _subsets(operators: Operators) -> Iterator[Operators]:
    """Yield all subsets but the empty and the whole one."""
    for size in range(1, len(operators)):
        yield from map(Operators, combinations(sorted(operators), size))


def _union(sets: Iterable[Operators]) -> Operators:
    return Operators().union(*sets)
