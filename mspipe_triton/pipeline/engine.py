"""The engine: runs the stages of a graph for real, one after the other or overlapping, a thread a resource."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from typing import Any

from mspipe_triton.errors import GraphError, StuckError
from mspipe_triton.pipeline.flight import Flight, Span, no_time
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph
from mspipe_triton.pipeline.lane import Lane
from mspipe_triton.pipeline.plan import Delay
from mspipe_triton.pipeline.watchdog import Watchdog

Functions = Mapping[str, Callable[[Any], Any]]
Observe = Callable[[list[Span]], None]
PATIENCE = 300.0
_GRACE = 5.0


def run_serial(
    graph: StageGraph,
    functions: Functions,
    items: Iterable[Any],
    observe: Observe | None = None,
    unpaid: Callable[[], float] = no_time,
    lanes: Mapping[str, Lane] | None = None,
) -> Iterator[Any]:
    """Take every item through all stages before the next one starts; yields it when its last stage is done.

    Every stage sees everything that earlier iterations wrote: staleness 0. Arguments as in `Engine`; all lanes are used
    on this one thread, and of the graph only the stages, their order and their resources count.
    """
    alone = Lane()
    lane_of = {name: (lanes or {}).get(name, alone) for name in graph.by_resource}
    with ExitStack() as opened:
        for lane in dict.fromkeys(lane_of.values()):
            lane.open()
            opened.callback(lane.close)
        for iteration, item in enumerate(items):
            flight = Flight(item)
            for stage in graph.stages:
                flight.run(stage, functions[stage.name], iteration, lane_of[stage.resource], (), unpaid)
            if observe is not None:
                observe(flight.spans())
            yield flight.value


class Engine:
    """Overlaps iterations as a stage graph allows: a thread for every resource, and one place where all are ordered.

    A stage is a function from what the stage listed before it returned to what the one behind it takes. A resource
    serves its stages strictly by iteration; a stage starts once all that its graph makes it wait for has ended. What
    holds a run back is in the graph alone, the lengths of queues too.

    Args:
        graph: stages, resources and dependencies, each stage waiting for the one listed before it.
        functions: stage name to function.
        delay: makes a stage wait for a time after the start of another; None: nothing is delayed.
        caller: the resource whose stages run on the thread that iterates over `run`.
        lanes: resource to the `Lane` that its stages run on; a plain thread where it has none.
        observe: told the spans of every iteration that is done, in order, on the calling thread.
        unpaid: seconds of the current thread so far that belong to no stage, such as compiling; taken off.
        patience: seconds without any stage ending after which the run is given up.

    Raises:
        GraphError: a stage does not wait for the one listed before it.
    """

    def __init__(
        self,
        graph: StageGraph,
        functions: Functions,
        delay: Delay | None = None,
        caller: str = "compute",
        lanes: Mapping[str, Lane] | None = None,
        observe: Observe | None = None,
        unpaid: Callable[[], float] = no_time,
        patience: float = PATIENCE,
    ) -> None:
        for before, after in zip(graph.stages, graph.stages[1:], strict=False):
            if Dependency(before.name, after.name) not in graph.dependencies:
                raise GraphError(f"stage {after.name!r} takes what {before.name!r} returns; make it depend on that")
        self.graph, self.functions, self.delay, self.caller = graph, functions, delay, caller
        self.lanes = {name: (lanes or {}).get(name) or Lane() for name in {*graph.by_resource, caller}}
        self.observe, self.unpaid, self.patience = observe, unpaid, patience
        self.lock = threading.RLock()
        self.turns = {name: threading.Condition(self.lock) for name in self.lanes}

    def adopt(self, graph: StageGraph, delay: Delay | None) -> None:
        """Go on with other dependencies and another delay between the same stages, from the next start on."""
        with self.lock:
            self.graph, self.delay = graph, delay
            self._wake(self.turns)

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """Take items through all stages; yields what the last one returned, in order.

        An error in a stage ends the run at once and is raised here with that stage's traceback. Whichever way the
        iteration ends, it waits for the stages that run at that moment, a few seconds at most.

        Raises:
            StuckError: nothing has ended for `patience` seconds. A stage on the calling thread can be broken off only
                where that is the main thread and the stage runs Python; stderr names it all the same.
        """
        self.source = iter(items)
        self.total: int | None = None
        self.flights: dict[int, Flight] = {}
        self.ended = {stage.name: 0 for stage in self.graph.stages}
        self.running: dict[str, tuple[int, int, float]] = {}
        self.error: BaseException | None = None
        self.stopping, self.opened = False, 0
        self.watchdog = Watchdog(self.patience, self._explain, self._give_up)
        self.thread = threading.current_thread()
        others = [name for name in self.graph.by_resource if name != self.caller]
        workers = [threading.Thread(target=self._serve, args=(name,), name=name, daemon=True) for name in others]
        for worker in workers:
            worker.start()
        try:
            own = self.turns[self.caller]
            with own:
                own.wait_for(lambda: self.opened == len(workers) or self.error is not None)
            self.lanes[self.caller].open()  # the last one, since a lane may set what is the process's as well
            with self.watchdog:
                yield from self._lead()
        except KeyboardInterrupt:
            if self.watchdog.verdict is None:
                raise
            raise self.watchdog.verdict from None
        finally:
            with self.lock:
                self.stopping = True
                self._wake(self.turns)
            deadline = time.perf_counter() + (0.0 if self.watchdog.verdict else _GRACE)
            for worker in workers:
                worker.join(max(0.0, deadline - time.perf_counter()))
            self.lanes[self.caller].close()

    def _lead(self) -> Iterator[Any]:
        """The calling thread: hands out every iteration that is done, and runs its own resource's stages between."""
        done = 0
        own, turn = self._order(self.caller), self.turns[self.caller]
        stage, iteration = next(own, (None, 0))
        while True:
            with turn:
                while True:
                    if self.error is not None:
                        raise self.error
                    if done == self.total:
                        return
                    finished = min(self.ended.values()) > done
                    due = None if finished or stage is None else self._due(stage, iteration)
                    if finished or due == 0.0:
                        break
                    turn.wait(due)
            if not finished and stage is not None:
                self._run(stage, iteration)
                stage, iteration = next(own)
                continue
            flight = self.flights.pop(done)
            done += 1
            if self.observe is not None:
                self.observe(flight.spans())
            with self.watchdog.paused():
                yield flight.value

    def _order(self, resource: str) -> Iterator[tuple[Stage, int]]:
        """The stages of a resource in the order in which it serves them, without end."""
        stages = self.graph.by_resource.get(resource, ())
        return ((stage, iteration) for iteration in count() for stage in stages) if stages else iter(())

    def _serve(self, resource: str) -> None:
        """A worker: the turns of its resource, until the run ends."""
        lane, turn = self.lanes[resource], self.turns[resource]
        try:
            lane.open()
            with self.lock:
                self.opened += 1
                self._wake([self.caller])
            for stage, iteration in self._order(resource):
                with turn:
                    while (due := self._due(stage, iteration)) != 0.0:
                        if self.stopping or self.error is not None or self._beyond(iteration):
                            return
                        turn.wait(due)
                    if self.stopping or self.error is not None:
                        return
                self._run(stage, iteration)
        except BaseException as error:
            with self.lock:
                self.error = self.error or error
                self._wake(self.turns)
        finally:
            lane.close()

    def _wake(self, resources: Iterable[str]) -> None:
        """Let the threads of resources look again; with the lock held. Waking all of them at every end costs more."""
        for name in set(resources):
            self.turns[name].notify()

    def _beyond(self, iteration: int) -> bool:
        return self.total is not None and iteration >= self.total

    def _missing(self, stage: Stage, iteration: int) -> Dependency | None:
        """What the stage still has to wait for; called with the lock held."""
        for each in self.graph.waits[stage.name]:
            other = each.awaited(iteration, self.total)
            if other is not None and self.ended[each.before] <= other:
                return each
        return None

    def _due(self, stage: Stage, iteration: int) -> float | None:
        """Seconds until the stage may start, 0 for now, None if something has to happen first; with the lock held."""
        if self._beyond(iteration) or self._missing(stage, iteration):
            return None
        if self.delay is None or self.delay.stage != stage.name:
            return 0.0
        reference = self.flights.get(iteration - self.delay.distance)
        if reference is None:  # before the first iteration, or over already
            return 0.0
        begun = reference.begun.get(self.delay.reference)
        return None if begun is None else max(0.0, begun + float(self.delay.offset) - time.perf_counter())

    def _run(self, stage: Stage, iteration: int) -> None:
        """Run a stage that is due; the first one takes its item from the source."""
        with self.lock:
            self.running[stage.name] = (iteration, threading.get_ident(), time.perf_counter())
        if stage.name == self.graph.stages[0].name:
            try:
                flight = Flight(next(self.source))
            except StopIteration:
                with self.lock:
                    del self.running[stage.name]
                    self.total = iteration
                    self._wake(self.turns)
                return
        else:
            flight = self.flights[iteration]
        with self.lock:
            self.flights[iteration] = flight
            before = [
                (self.flights.get(iteration - each.distance), each.before) for each in self.graph.waits[stage.name]
            ]
            marks = [other.marks[name] for other, name in before if other is not None and name in other.marks]
            flight.begun[stage.name] = time.perf_counter()
            if self.delay is not None and self.delay.reference == stage.name:
                self._wake([self.graph.resource_of[self.delay.stage]])
        try:
            flight.run(stage, self.functions[stage.name], iteration, self.lanes[stage.resource], marks, self.unpaid)
        except BaseException as error:
            error.add_note(f"In stage {stage.name} of iteration {iteration}.")
            raise
        with self.lock:
            del self.running[stage.name]
            self.ended[stage.name] = iteration + 1
            self.watchdog.touch()
            behind = [each.after for each in self.graph.dependencies if each.before == stage.name]
            self._wake(self.graph.resource_of[name] for name in behind)
            if min(self.ended.values()) > iteration:
                self._wake([self.caller])

    def _explain(self) -> str:
        """What is stuck: the stages that run and where, or what the next ones wait for."""
        now, frames, said = time.perf_counter(), sys._current_frames(), []
        for name, (iteration, thread, since) in list(self.running.items()):
            code = frames[thread].f_code if thread in frames else None
            place = f" in {code.co_filename}:{frames[thread].f_lineno} ({code.co_name})" if code else ""
            said.append(f"stage {name} of iteration {iteration} has been running for {now - since:.0f} s{place}")
        with self.lock:
            for stage in self.graph.stages if not said else ():
                each = self._missing(stage, self.ended[stage.name])
                if each is not None:
                    iteration = self.ended[stage.name]
                    other = each.awaited(iteration, self.total)
                    said.append(f"stage {stage.name} of iteration {iteration} waits for {each.before} of {other}")
        return f"nothing has ended for {self.patience:g} s: {'; '.join(said) or 'no stage runs or waits'}"

    def _give_up(self, verdict: StuckError) -> None:
        with self.lock:
            self.error = self.error or verdict
            own = any(thread == self.thread.ident for _, thread, _ in self.running.values())
            self._wake(self.turns)
        if own:  # the error reaches the caller only if the stage can be broken off
            print(f"mspipe-triton: {verdict}", file=sys.stderr)
        if own and self.thread is threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
