"""An oracle of the planner that imports nothing from the package: one recurrence per stage, run until it repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

CHAIN = ("sample", "features", "memory", "patch", "train", "update")
PLACES = {"sample": "sampler", "features": "in", "memory": "in", "patch": "gpu", "train": "gpu", "update": "out"}
QUEUE = 3
LONGEST = 20_000


class Pipeline:
    """Sample, features, memory, (patch,) train, update of one iteration after another, with bound s.

    A stage takes iteration i when it is done with i − 1, when its place is free of the stages served before it, when
    the stage ahead has handed i over, and when the queue behind it has room: no more than `QUEUE` + s finished
    iterations lie between two places. The fetch of i also waits for update i − 1 − s. With `exactly`, update i waits
    for the fetch of i + s. With `delay` = (q, offset), the fetch of i starts at least `offset` after train i − q.
    """

    def __init__(
        self,
        times: dict[str, int],
        s: int,
        exactly: bool = False,
        gather: bool = False,
        delay: tuple[int, Fraction] | None = None,
    ) -> None:
        self.names = [name for name in CHAIN if name in times]
        self.times, self.s, self.exactly, self.delay = times, s, exactly, delay
        self.place = {**PLACES, "memory": "gpu"} if gather else PLACES
        self.start: dict[str, list] = {name: [] for name in self.names}
        self.end: dict[str, list] = {name: [] for name in self.names}

    def run(self, name: str, i: int) -> None:
        """Start and end of one stage of iteration i, once all before it are known."""
        at = self.names.index(name)
        together = [other for other in self.names if self.place[other] == self.place[name]]
        waits = []
        if i > 0:
            waits.append(self.end[together[-1]][i - 1])
        waits += [self.end[other][i] for other in together[: together.index(name)]]
        if at > 0:
            waits.append(self.end[self.names[at - 1]][i])
        room = i - QUEUE - self.s
        if at + 1 < len(self.names) and self.place[self.names[at + 1]] != self.place[name] and room >= 0:
            waits.append(self.start[self.names[at + 1]][room])
        if name == "memory":
            if i > self.s:
                waits.append(self.end["update"][i - 1 - self.s])
            if self.delay and i >= self.delay[0]:
                waits.append(self.start["train"][i - self.delay[0]] + self.delay[1])
        if name == "update" and self.exactly:
            waits.append(self.end["memory"][i + self.s])
        assert len(self.start[name]) == i
        self.start[name].append(max(waits, default=0))
        self.end[name].append(self.start[name][i] + self.times[name])

    def steps(self) -> Iterator[int]:
        """Iterations without end; with `exactly` the updates come s iterations behind."""
        late = self.s if self.exactly else 0
        for i in range(LONGEST):
            for name in self.names[:-1]:
                self.run(name, i)
            if i >= late:
                self.run("update", i - late)
            yield i
        raise AssertionError(f"no regime within {LONGEST} iterations")

    def period(self) -> Fraction:
        """Time an iteration once what the next ones depend on has been there before, but for a shift in time."""
        seen: dict[tuple, tuple[int, Fraction]] = {}
        window = 2 + QUEUE + 2 * self.s + (self.delay[0] if self.delay else 0)
        for i in self.steps():
            if i < 2 * window:
                continue
            now = self.start["train"][i]
            recent = [
                times[name][-1 - k] - now for times in (self.start, self.end) for name in times for k in range(window)
            ]
            before = seen.setdefault(tuple(recent), (i, now))
            if before[0] != i:
                return Fraction(now - before[1]) / (i - before[0])
        raise AssertionError("unreachable")


def smallest(times: dict[str, int], gather: bool = False) -> tuple[int, Fraction]:
    """The first s = 0, 1, 2, … at which the period is the load of the busiest place, and that load."""
    place = {**PLACES, "memory": "gpu"} if gather else PLACES
    busiest = Fraction(max(sum(t for n, t in times.items() if place[n] == r) for r in set(place.values())))
    return next((s, busiest) for s in range(10) if Pipeline(times, s, gather=gather).period() == busiest)


def largest_ratio(edges: Iterable[tuple[str, str, int]], times: dict[str, Fraction]) -> Fraction | None:
    """Time over distance of the worst circle of (before, after, distance), by walking every one of them.

    None where a circle of distance 0 or less makes the ratio meaningless.
    """
    edges = list(edges)
    ratios: list[Fraction | None] = []

    def walk(first: str, here: str, passed: frozenset[str], time: Fraction, distance: int) -> None:
        for before, after, back in edges:
            if before == here and after == first:
                total = distance + back
                ratios.append((time + times[here]) / total if total > 0 else None)
            elif before == here and after > first and after not in passed:
                walk(first, after, passed | {after}, time + times[here], distance + back)

    for name in times:
        walk(name, name, frozenset({name}), Fraction(), 0)
    return None if None in ratios else max(ratio for ratio in ratios if ratio is not None)
