"""Stand-ins for real stages, which sleep and log the time and thread of every run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from mspipe_triton.pipeline.graph import StageGraph


class StageRun(NamedTuple):
    """One stage of one iteration, timed by the stage itself."""

    stage: str
    iteration: int
    start: float
    end: float
    thread: str


class StandIns:
    """Functions for the stages of a graph; an item is (iteration, names of the stages that it has passed).

    Args:
        graph: the graph of the stages.
        seconds: sleep of a stage in an iteration.
        actions: by stage name, functions that the stage calls with the iteration.
    """

    def __init__(
        self,
        graph: StageGraph,
        seconds: Callable[[str, int], float] = lambda stage, iteration: 0.0,
        actions: Mapping[str, Callable[[int], Any]] | None = None,
    ) -> None:
        self.graph, self.seconds, self.actions = graph, seconds, actions or {}
        self.runs: list[StageRun] = []
        self.functions = {stage.name: self._stage(stage.name) for stage in graph.stages}

    @property
    def expected(self) -> tuple[str, ...]:
        """Names of the stages that an item has passed at the end."""
        return tuple(stage.name for stage in self.graph.stages)

    def items(self, count: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Items of iterations 0, 1, … before the first stage."""
        return ((iteration, ()) for iteration in range(count))

    def runs_of(self, stage: str) -> dict[int, StageRun]:
        """Runs of a stage, by iteration."""
        return {run.iteration: run for run in self.runs if run.stage == stage}

    def check(self, graph: StageGraph, count: int) -> None:
        """Check that every stage ran once per iteration, after all that the graph makes it wait for."""
        runs = {stage.name: self.runs_of(stage.name) for stage in graph.stages}
        assert len(self.runs) == count * len(graph.stages)
        assert all(sorted(by_iteration) == list(range(count)) for by_iteration in runs.values())
        for constraint in graph.constraints:
            for iteration in range(count):
                if iteration >= constraint.distance:
                    earlier = min(iteration - constraint.distance, count - 1)
                    before, after = runs[constraint.before][earlier], runs[constraint.after][iteration]
                    assert before.end <= after.start, (constraint, before, after)

    def _stage(self, name: str) -> Callable[[tuple[int, tuple[str, ...]]], tuple[int, tuple[str, ...]]]:
        def run(item: tuple[int, tuple[str, ...]]) -> tuple[int, tuple[str, ...]]:
            start = time.perf_counter()
            iteration, passed = item
            if name in self.actions:
                self.actions[name](iteration)
            seconds = self.seconds(name, iteration)
            if seconds:
                time.sleep(seconds)
            self.runs.append(StageRun(name, iteration, start, time.perf_counter(), threading.current_thread().name))
            return iteration, (*passed, name)

        return run


@contextmanager
def no_thread_left(within: float = 60.0) -> Iterator[None]:
    """Check that the threads started in the block end soon after it."""
    before = set(threading.enumerate())
    yield
    deadline = time.perf_counter() + within
    while threads := set(threading.enumerate()) - before:
        assert time.perf_counter() < deadline, f"still running: {threads}"
        time.sleep(0.01)
