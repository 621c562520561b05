"""The engine: runs the stages of a graph, one after the other or overlapping with one thread per resource."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count, pairwise
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
    """Run each item through all stages before the next one starts; yield its value when its last stage is done.

    Every stage sees everything that earlier iterations wrote: staleness 0. Arguments as in `Engine`, but all lanes run
    on the calling thread, and the graph's dependencies are ignored.
    """
    thread = Lane()
    lane_of = {name: (lanes or {}).get(name, thread) for name in graph.by_resource}
    with ExitStack() as stack:
        for lane in dict.fromkeys(lane_of.values()):
            lane.open()
            stack.callback(lane.close)
        for iteration, item in enumerate(items):
            flight, source = Flight(item), None
            for stage in graph.stages:
                flight.run(stage, source, functions[stage.name], iteration, lane_of[stage.resource], (), unpaid)
                source = stage.name
            if observe is not None:
                observe(flight.spans())
            yield flight.results[graph.stages[-1].name]


class Engine:
    """Overlap iterations as a stage graph allows, with one thread per resource.

    A stage is a function. It gets what the last stage before it, of those that it depends on within the iteration,
    returned; the first stage gets the item. A resource runs its stages strictly by iteration; a stage starts once all
    its dependencies have ended. Only the graph limits a run: it also encodes the lengths of queues.

    Args:
        graph: stages, resources and dependencies; each stage but the first must depend on one listed before it.
        functions: stage name to function.
        delay: makes a stage wait for a time after the start of another stage; None: no delay.
        caller: the resource whose stages run on the thread that iterates over `run`.
        lanes: resource to the `Lane` that its stages run on; by default a plain thread.
        observe: called with the spans of each finished iteration, in order, on the calling thread.
        unpaid: returns the seconds that the current thread has spent outside stages so far, such as on compiling; they
            are subtracted.
        patience: seconds without any stage ending after which the run stops.

    Raises:
        GraphError: a stage does not wait for any listed before it.
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
        for before, after in pairwise(graph.stages):
            if graph.sources[after.name] is None:
                raise GraphError(f"stage {after.name!r} uses no result; make it depend on {before.name!r}")
        self.graph, self.functions, self.delay, self.caller = graph, functions, delay, caller
        self.lanes = {name: (lanes or {}).get(name) or Lane() for name in {*graph.by_resource, caller}}
        self.observe, self.unpaid, self.patience = observe, unpaid, patience
        self.lock = threading.RLock()
        self.turns = {name: threading.Condition(self.lock) for name in self.lanes}

    def adopt(self, graph: StageGraph, delay: Delay | None) -> None:
        """Continue with other dependencies and another delay between the same stages, from the next start on."""
        with self.lock:
            self.graph, self.delay = graph, delay
            self._wake(self.turns)

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """Run items through all stages; yield the results of the last stage, in order.

        An error in a stage ends the run at once and is raised here with that stage's traceback. However the run ends,
        it waits for the stages that are still running, a few seconds at most.

        Raises:
            StuckError: no stage has ended for `patience` seconds. A stage on the calling thread can be interrupted only
                if that is the main thread and the stage runs Python; stderr names the stage in any case.
        """
        self.source = iter(items)
        self.total: int | None = None
        self.flights: dict[int, Flight] = {}
        self.counts = {stage.name: 0 for stage in self.graph.stages}  # iterations that have ended each stage
        self.running: dict[str, tuple[int, int, float]] = {}
        self.error: BaseException | None = None
        self.stopping, self.open_lanes = False, 0
        self.watchdog = Watchdog(self.patience, self._explain, self._give_up)
        self.thread = threading.current_thread()
        others = [name for name in self.graph.by_resource if name != self.caller]
        workers = [threading.Thread(target=self._serve, args=(name,), name=name, daemon=True) for name in others]
        for worker in workers:
            worker.start()
        try:
            turn = self.turns[self.caller]
            with turn:
                turn.wait_for(lambda: self.open_lanes == len(workers) or self.error is not None)
            self.lanes[self.caller].open()  # last, since a lane may also change settings of the process
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
        """Work of the calling thread: yield each finished iteration, and run the stages of `caller` in between."""
        done = 0
        order, turn = self._order(self.caller), self.turns[self.caller]
        stage, iteration = next(order, (None, 0))
        while True:
            with turn:
                while True:
                    if self.error is not None:
                        raise self.error
                    if done == self.total:
                        return
                    finished = min(self.counts.values()) > done
                    due = None if finished or stage is None else self._due(stage, iteration)
                    if finished or due == 0.0:
                        break
                    turn.wait(due)
            if not finished and stage is not None:
                self._run(stage, iteration)
                stage, iteration = next(order)
                continue
            flight = self.flights.pop(done)
            done += 1
            if self.observe is not None:
                self.observe(flight.spans())
            with self.watchdog.paused():
                yield flight.results[self.graph.stages[-1].name]

    def _order(self, resource: str) -> Iterator[tuple[Stage, int]]:
        """Yield the stages of a resource and their iterations in the order in which it runs them, without end."""
        stages = self.graph.by_resource.get(resource, ())
        return ((stage, iteration) for iteration in count() for stage in stages) if stages else iter(())

    def _serve(self, resource: str) -> None:
        """Run the stages of a resource on a worker thread until the run ends."""
        lane, turn = self.lanes[resource], self.turns[resource]
        try:
            lane.open()
            with self.lock:
                self.open_lanes += 1
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
        """Make the threads of resources check again; call with the lock held. Waking all of them is slower."""
        for name in set(resources):
            self.turns[name].notify()

    def _beyond(self, iteration: int) -> bool:
        return self.total is not None and iteration >= self.total

    def _missing(self, stage: Stage, iteration: int) -> Dependency | None:
        """Return a dependency that the stage still waits for, or None; call with the lock held."""
        for each in self.graph.waits[stage.name]:
            other = each.target(iteration, self.total)
            if other is not None and self.counts[each.before] <= other:
                return each
        return None

    def _due(self, stage: Stage, iteration: int) -> float | None:
        """Return seconds until the stage may start, 0 for now, None if it waits for others; call with the lock held."""
        if self._beyond(iteration) or self._missing(stage, iteration):
            return None
        if self.delay is None or self.delay.stage != stage.name:
            return 0.0
        reference = self.flights.get(iteration - self.delay.distance)
        if reference is None:  # before the first iteration, or already finished
            return 0.0
        start = reference.starts.get(self.delay.reference)
        return None if start is None else max(0.0, start + float(self.delay.offset) - time.perf_counter())

    def _run(self, stage: Stage, iteration: int) -> None:
        """Run a stage that is due; the first stage gets its item from the source."""
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
            flight.starts[stage.name] = time.perf_counter()
            if self.delay is not None and self.delay.reference == stage.name:
                self._wake([self.graph.resource_of[self.delay.stage]])
        try:
            source, lane = self.graph.sources[stage.name], self.lanes[stage.resource]
            flight.run(stage, source, self.functions[stage.name], iteration, lane, marks, self.unpaid)
        except BaseException as error:
            error.add_note(f"In stage {stage.name} of iteration {iteration}.")
            raise
        with self.lock:
            del self.running[stage.name]
            self.counts[stage.name] = iteration + 1
            self.watchdog.touch()
            successors = [each.after for each in self.graph.dependencies if each.before == stage.name]
            self._wake(self.graph.resource_of[name] for name in successors)
            if min(self.counts.values()) > iteration:
                self._wake([self.caller])

    def _explain(self) -> str:
        """Describe what is stuck: the running stages and their code lines, or the dependencies of the next stages."""
        now, frames, facts = time.perf_counter(), sys._current_frames(), []
        for name, (iteration, thread, since) in list(self.running.items()):
            code = frames[thread].f_code if thread in frames else None
            place = f" in {code.co_filename}:{frames[thread].f_lineno} ({code.co_name})" if code else ""
            facts.append(f"stage {name} of iteration {iteration} has been running for {now - since:.0f} s{place}")
        with self.lock:
            for stage in self.graph.stages if not facts else ():
                each = self._missing(stage, self.counts[stage.name])
                if each is not None:
                    iteration = self.counts[stage.name]
                    other = each.target(iteration, self.total)
                    facts.append(f"stage {stage.name} of iteration {iteration} waits for {each.before} of {other}")
        return f"nothing has ended for {self.patience:g} s: {'; '.join(facts) or 'no stage runs or waits'}"

    def _give_up(self, verdict: StuckError) -> None:
        with self.lock:
            self.error = self.error or verdict
            on_caller = any(thread == self.thread.ident for _, thread, _ in self.running.values())
            self._wake(self.turns)
        if on_caller:  # the error reaches the caller only if the stage can be interrupted
            print(f"mspipe-triton: {verdict}", file=sys.stderr)
        if on_caller and self.thread is threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
