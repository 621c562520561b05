"""Engine of a service: one thread that owns the predictor, takes in events and answers questions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from mspipe_triton.errors import InputError, RunFolderError
from mspipe_triton.serving.files import Saved
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.log import EventLog
from mspipe_triton.serving.service.snapshots import Snapshots
from mspipe_triton.serving.service.work import Batch, BusyError, Lines, Observed, Question, StartingError, Status
from mspipe_triton.serving.service.writer import Swap, Work, Writer

T = TypeVar("T")
_PAUSE = 0.5  # seconds between looks at what is due, while no request comes


class Task(Protocol):
    """Work in the background on an image of the predictor, such as a snapshot."""

    def due(self, entries: int, events: int) -> bool:
        """Return True if it should start now, after so many log entries and events."""

    def start(self, image: Saved, entries: int) -> None:
        """Start it; this returns at once."""

    def finish(self, predictor: Predictor, entries: int) -> None:
        """End it, since the service stops."""


class Service:
    """A predictor that many threads use: `observe`, `rank` and `ask` return futures.

    Events of the requests that wait are written to the log together, and then taken in request by request, as a serial
    replay of the log does. Questions are answered between such groups, so they see whole requests.

    Args:
        predictor: of the last snapshot. log: of events.
        snapshots: the task that writes them, the first of `tasks`.
        queue: the most requests that wait.
        observing: False if events come from a source that the service follows, and not from requests.
    """

    def __init__(
        self, predictor: Predictor, log: EventLog, snapshots: Snapshots, queue: int = 256, observing: bool = True
    ) -> None:
        if snapshots.entries > len(log):
            raise RunFolderError(
                f"{log.path}: has {len(log)} entries, and the last snapshot has {snapshots.entries}; restore the log, "
                "or remove its folder to start from the run"
            )
        self.observing, self.tasks = observing, list[Task]([snapshots])
        self.failure: BaseException | None = None
        self.stopped = threading.Event()
        self.retrained = ""
        self._writer, self._snapshots, self._limit = Writer(predictor, log), snapshots, queue
        self._queue: deque[Work] = deque()
        self._condition = threading.Condition()
        self._state = "restores its state"
        self._status = Status(observing=observing, model=predictor.name, kinds=predictor.kinds)
        self._publish()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine, which restores the state first."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the work that waits, and end."""
        with self._condition:
            self._state = "stops"
            self._condition.notify()
        self._thread.join()

    def observe(self, batch: Batch | Lines) -> Future[Observed]:
        """Take in events, after they are logged.

        Raises:
            BusyError: too much work waits. StartingError: the service starts or stops.
        """
        return self._submit(batch)

    def rank(self, question: Question) -> Future[list[tuple[Any, float]]]:
        """Rank destinations, together with other questions at the same time; raises as `observe`."""
        return self._submit(question)

    def ask(self, call: Callable[[Predictor], T]) -> Future[T]:
        """Call a function with the predictor, which it must not change; raises as `observe`."""
        return self._submit(call)

    def swap(self, parameters: bytes, verdict: str) -> Future[Observed]:
        """Use other parameters from now on, after they are logged, too; raises as `observe`."""
        return self._submit(Swap(parameters, verdict))

    def status(self) -> Status:
        """Return the state of the service."""
        waiting, size, snapshot = len(self._queue), self._writer.log.size, self._snapshots.entries
        return replace(self._status, waiting=waiting, log_bytes=size, snapshot=snapshot, retrained=self.retrained)

    def latest(self, count: int) -> list[dict[str, Any]]:
        """Return the latest events, newest first: src, dst, t and received, in Unix seconds."""
        return list(self._writer.latest)[::-1][:count]

    def _submit(self, request: Any) -> Future[Any]:
        work = Work(request)
        with self._condition:
            if self._state:
                raise StartingError(f"the service {self._state}; try again later")
            if len(self._queue) >= self._limit:
                raise BusyError(f"{len(self._queue)} requests wait, as many as are allowed; try again later")
            self._queue.append(work)
            self._condition.notify()
        return work.future

    def _run(self) -> None:
        """Restore the state, then work until the service stops, or until an error leaves the state unclear."""
        work: list[Work] = []
        try:
            self._restore()
            while (work := self._next()) or self._state != "stops":
                outcomes = self._writer.write([each for each in work if each.writes])
                self._publish()  # before clients learn of it
                for each, outcome in outcomes:
                    if isinstance(outcome, Exception):
                        each.future.set_exception(outcome)
                    else:
                        each.future.set_result(outcome)
                self._answer([each for each in work if not each.writes])
                for task in self.tasks:
                    if task.due(len(self._writer.log), self._status.events):
                        task.start(self._writer.predictor.image(), len(self._writer.log))
            for task in self.tasks if self._status.ready else ():
                task.finish(self._writer.predictor, len(self._writer.log))
        except BaseException as error:  # every thread that waits must learn of it
            self.failure = error
            with self._condition:
                self._state = f"has failed ({error})"
            for each in [*work, *self._queue]:
                if not each.future.done():
                    each.future.set_exception(StartingError(f"the service {self._state}; start it again"))
        finally:
            self._status = replace(self._status, ready=False)
            self.stopped.set()

    def _restore(self) -> None:
        """Take in the entries of the log that the predictor does not contain."""
        replayed = 0
        for replayed, entry in enumerate(self._writer.log.read(self._snapshots.entries), 1):
            if self._state == "stops":
                return
            self._writer.replay(entry)
            if replayed % 100 == 0:
                self._publish()
        self._publish()
        with self._condition:
            self._state = self._state.removeprefix("restores its state")
        self._status = replace(self._status, ready=True, replayed=replayed)  # last, so that who sees it is not refused

    def _next(self) -> list[Work]:
        """Wait for work for a moment, and return all that waits."""
        with self._condition:
            if not self._queue and not self._state:
                self._condition.wait(_PAUSE)
            work = [each for each in self._queue if each.future.set_running_or_notify_cancel()]
            self._queue.clear()
        return work

    def _answer(self, work: Sequence[Work]) -> None:
        """Answer questions, those that have the same group together."""
        predictor, groups = self._writer.predictor, dict[Any, list[Work]]()
        for each in work:
            if isinstance(each.request, Question):
                groups.setdefault(each.request.group, []).append(each)
            else:
                _settle(each, lambda each=each: each.request(predictor))  # type: ignore[misc]
        for group, members in groups.items():
            if group is None or len(members) == 1:
                for each in members:
                    _settle(each, lambda each=each: each.request.answer(predictor))  # type: ignore[misc]
            else:
                self._rank_together(group, members)

    def _rank_together(self, group: tuple[Any, int | None, str, bool], work: Sequence[Work]) -> None:
        """Answer rankings of a group."""
        (t, top, mode, new), predictor, ready = group, self._writer.predictor, list[Work]()
        try:
            for each in work:
                try:
                    predictor.check_source(each.request.src, new)
                    ready.append(each)
                except InputError as error:
                    each.future.set_exception(error)
            sources = [each.request.src for each in ready]
            answers = predictor.rank_many(sources, t, top, mode=mode, new=new)
        except Exception as error:  # of the time, which all of them name
            for each in work:
                if not each.future.done():
                    each.future.set_exception(error)
        else:
            for each, answer in zip(ready, answers, strict=True):
                each.future.set_result(answer)

    def _publish(self) -> None:
        """Note the present state for `status`."""
        writer, predictor = self._writer, self._writer.predictor
        self._status = replace(
            self._status, events=len(predictor), nodes=predictor.num_nodes, time=predictor.time,
            observed=len(predictor) - writer.log.first, writable=writer.writable, log_entries=len(writer.log),
            swaps=writer.swaps, rejected=writer.rejected,
        )  # fmt: skip


def _settle(work: Work, call: Callable[[], Any]) -> None:
    """Give a future the outcome of a call."""
    try:
        work.future.set_result(call())
    except Exception as error:
        work.future.set_exception(error)
