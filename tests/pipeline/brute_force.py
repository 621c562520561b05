"""An oracle of the planner that imports nothing from the package: one recurrence per stage, until it repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise

STAGES = ("sample", "features", "memory", "patch", "train", "forward", "backward", "exchange", "update")
RESOURCES = {
    "sample": "sampler", "features": "in", "memory": "in", "patch": "gpu", "train": "gpu", "forward": "gpu",
    "backward": "gpu", "exchange": "net", "update": "out",
}  # fmt: skip
QUEUE = 3
LONGEST = 20_000


class Pipeline:
    """Sample, features, memory, (patch,) train, update of successive iterations, with staleness bound s.

    A stage starts iteration i when it has finished i − 1, its resource has finished the stages before it in order, the
    preceding stage has finished i, and the queue after it has room: at most `QUEUE` + s finished iterations wait
    between two resources. The fetch of i also waits for update i − 1 − s. With `fixed`, update i waits for the fetch
    of i + s. With `delay` = (q, offset), the fetch of i starts at least `offset` after train i − q.

    With several ranks, forward, backward and exchange replace train. Both of the last two follow forward, and the
    update follows both of them; the patch of i also waits for exchange i − 1.
    """

    def __init__(
        self,
        times: dict[str, int],
        s: int,
        fixed: bool = False,
        gather: bool = False,
        delay: tuple[int, Fraction] | None = None,
    ) -> None:
        self.names = [name for name in STAGES if name in times]
        self.learning = "train" if "train" in times else "forward"
        pairs = set(pairwise(self.names))
        if "exchange" in times:
            pairs = pairs - {("backward", "exchange")} | {("forward", "exchange"), ("backward", "update")}
        self.pairs = pairs
        self.times, self.s, self.fixed, self.delay = times, s, fixed, delay
        self.resource = {**RESOURCES, "memory": "gpu"} if gather else RESOURCES
        self.start: dict[str, list] = {name: [] for name in self.names}
        self.end: dict[str, list] = {name: [] for name in self.names}

    def run(self, name: str, i: int) -> None:
        """Compute start and end of one stage of iteration i, after all that it depends on."""
        sharing = [other for other in self.names if self.resource[other] == self.resource[name]]
        waits = []
        if i > 0:
            waits.append(self.end[sharing[-1]][i - 1])
        waits += [self.end[other][i] for other in sharing[: sharing.index(name)]]
        waits += [self.end[before][i] for before, after in self.pairs if after == name]
        blocker = i - QUEUE - self.s
        others = [after for before, after in self.pairs if before == name]
        if blocker >= 0:
            waits += [self.start[other][blocker] for other in others if self.resource[other] != self.resource[name]]
        if name == "patch" and "exchange" in self.names and i > 0:
            waits.append(self.end["exchange"][i - 1])
        if name == "memory":
            if i > self.s:
                waits.append(self.end["update"][i - 1 - self.s])
            if self.delay and i >= self.delay[0]:
                waits.append(self.start[self.learning][i - self.delay[0]] + self.delay[1])
        if name == "update" and self.fixed:
            waits.append(self.end["memory"][i + self.s])
        assert len(self.start[name]) == i
        self.start[name].append(max(waits, default=0))
        self.end[name].append(self.start[name][i] + self.times[name])

    def steps(self) -> Iterator[int]:
        """Run iterations without end; with `fixed`, updates are s iterations late."""
        lag = self.s if self.fixed else 0
        for i in range(LONGEST):
            for name in self.names[:-1]:
                self.run(name, i)
            if i >= lag:
                self.run("update", i - lag)
            yield i
        raise AssertionError(f"not periodic within {LONGEST} iterations")

    def period(self) -> Fraction:
        """Time per iteration once the recent starts and ends repeat, up to a shift in time."""
        states: dict[tuple, tuple[int, Fraction]] = {}
        window = 2 + QUEUE + 2 * self.s + (self.delay[0] if self.delay else 0)
        for i in self.steps():
            if i < 2 * window:
                continue
            now = self.start[self.learning][i]
            recent = [
                times[name][-1 - k] - now for times in (self.start, self.end) for name in times for k in range(window)
            ]
            before = states.setdefault(tuple(recent), (i, now))
            if before[0] != i:
                return Fraction(now - before[1]) / (i - before[0])
        raise AssertionError("unreachable")


def smallest(times: dict[str, int], gather: bool = False) -> tuple[int, Fraction]:
    """The smallest s for which the period is the load of the busiest resource, and that load."""
    resource = {**RESOURCES, "memory": "gpu"} if gather else RESOURCES
    busiest = Fraction(max(sum(t for n, t in times.items() if resource[n] == r) for r in set(resource.values())))
    return next((s, busiest) for s in range(10) if Pipeline(times, s, gather=gather).period() == busiest)


def largest_ratio(edges: Iterable[tuple[str, str, int]], times: dict[str, Fraction]) -> Fraction | None:
    """Time over distance of the worst cycle of edges (before, after, distance), by visiting every cycle.

    None if a cycle of distance 0 or less makes the ratio meaningless.
    """
    edges = list(edges)
    ratios: list[Fraction | None] = []

    def walk(first: str, node: str, visited: frozenset[str], time: Fraction, distance: int) -> None:
        for before, after, back in edges:
            if before == node and after == first:
                total = distance + back
                ratios.append((time + times[node]) / total if total > 0 else None)
            elif before == node and after > first and after not in visited:
                walk(first, after, visited | {after}, time + times[node], distance + back)

    for name in times:
        walk(name, name, frozenset({name}), Fraction(), 0)
    return None if None in ratios else max(ratio for ratio in ratios if ratio is not None)
