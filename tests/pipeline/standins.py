"""Stages that stand in for real ones: they sleep, and write down when each ran on whose thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from mspipe_triton.pipeline.graph import StageGraph


class Ran(NamedTuple):
    """One stage of one iteration, by its own clock."""

    stage: str
    iteration: int
    start: float
    end: float
    thread: str


class StandIns:
    """Functions for the stages of a graph; what passes through is (iteration, names of the stages passed).

    Args:
        graph: whose stages.
        seconds: how long a stage of an iteration sleeps.
        instead: called with the iteration in a stage's place, by its name.
    """

    def __init__(
        self,
        graph: StageGraph,
        seconds: Callable[[str, int], float] = lambda stage, iteration: 0.0,
        instead: Mapping[str, Callable[[int], Any]] | None = None,
    ) -> None:
        self.graph, self.seconds, self.instead = graph, seconds, instead or {}
        self.ran: list[Ran] = []
        self.functions = {stage.name: self._stage(stage.name) for stage in graph.stages}

    @property
    def expected(self) -> tuple[str, ...]:
        """What an item has passed at the end."""
        return tuple(stage.name for stage in self.graph.stages)

    def items(self, count: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Iterations 0, 1, … as they enter."""
        return ((iteration, ()) for iteration in range(count))

    def of(self, stage: str) -> dict[int, Ran]:
        """When a stage ran, by iteration."""
        return {each.iteration: each for each in self.ran if each.stage == stage}

    def check(self, graph: StageGraph, count: int) -> None:
        """Every stage ran once an iteration, when all that its graph makes it wait for had ended."""
        ran = {stage.name: self.of(stage.name) for stage in graph.stages}
        assert len(self.ran) == count * len(graph.stages)
        assert all(sorted(of) == list(range(count)) for of in ran.values())
        for each in graph.constraints:
            for iteration in range(count):
                if iteration >= each.distance:
                    awaited = min(iteration - each.distance, count - 1)
                    before, after = ran[each.before][awaited], ran[each.after][iteration]
                    assert before.end <= after.start, (each, before, after)

    def _stage(self, name: str) -> Callable[[tuple[int, tuple[str, ...]]], tuple[int, tuple[str, ...]]]:
        def run(item: tuple[int, tuple[str, ...]]) -> tuple[int, tuple[str, ...]]:
            start = time.perf_counter()
            iteration, passed = item
            if name in self.instead:
                self.instead[name](iteration)
            seconds = self.seconds(name, iteration)
            if seconds:
                time.sleep(seconds)
            self.ran.append(Ran(name, iteration, start, time.perf_counter(), threading.current_thread().name))
            return iteration, (*passed, name)

        return run


@contextmanager
def no_thread_left(within: float = 60.0) -> Iterator[None]:
    """Threads that the block starts are gone soon after it."""
    before = set(threading.enumerate())
    yield
    deadline = time.perf_counter() + within
    while left := set(threading.enumerate()) - before:
        assert time.perf_counter() < deadline, f"still running: {left}"
        time.sleep(0.01)
