"""Services for tests: started on a state folder, with the folder of a log's serial replay to compare with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mspipe_triton import Predictor, load
from mspipe_triton.serving.service.engine import Service
from mspipe_triton.serving.service.log import Entry, EventLog
from mspipe_triton.serving.service.snapshots import Snapshots
from mspipe_triton.serving.service.state import StateFolder
from mspipe_triton.serving.service.work import Batch

PATIENCE = 30.0  # seconds that a test waits at most


class Started(NamedTuple):
    """A service and its parts."""

    service: Service
    predictor: Predictor
    log: EventLog
    notes: list[str]


@contextmanager
def started(run: Path, folder: Path, events: int = 10**6, **options: Any) -> Iterator[Started]:
    """Start a service on a state folder, and stop it at the end.

    Args:
        events: a snapshot is due after so many.
    """
    notes: list[str] = []
    state = StateFolder(folder, run)
    try:
        predictor, entries = state.restore(None, 0.5, notes.append)
        with closing(state.log(predictor)) as log:
            service = Service(predictor, log, Snapshots(state, entries, events, 10**6, notes.append), **options)
            service.start()
            wait_for(lambda: service.status().ready or service.stopped.is_set())
            try:
                yield Started(service, predictor, log, notes)
            finally:
                service.stop()
    finally:
        state.close()


def wait_for(condition: Any) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "too slow"
        time.sleep(0.005)


def purchase(number: int, **options: Any) -> Batch:
    """A batch of two purchases, later than those before it."""
    features = {"amount": [number % 7 + 0.5, 2.0], "channel": ["web", "app"]}
    minute = f"2024-04-{1 + number // 1440:02}T{number // 60 % 24:02}:{number % 60:02}:00"
    ids = [f"u{number % 25}", f"new{number % 4}"], [100 + number % 12, 200 + number % 3]
    return Batch(*ids, minute, features, **options)


def bits(predictor: Predictor) -> dict[str, Any]:
    """Everything that a predictor's answers depend on, bit by bit."""
    live = predictor._live
    tables = {name: table[: live.nodes].numpy().tobytes() for name, table in live.session.state.tables.items()}
    columns = {name: getattr(live, name).rows.numpy().tobytes() for name in ("src", "dst", "t", "edges")}
    parameters = {name: each.numpy().tobytes() for name, each in live.model.state_dict().items()}
    return tables | columns | parameters | {"nodes": predictor.nodes, "time": predictor.time}


def same_bits(one: Predictor, other: Predictor) -> None:
    """Check that two predictors are in the same state."""
    ours, theirs = bits(one), bits(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    torch.testing.assert_close(torch.from_numpy(one.embed()), torch.from_numpy(other.embed()), rtol=0, atol=1e-5)


def outcome(future: Future[Any]) -> Any:
    """The result of a future, or its error."""
    error = future.exception(PATIENCE)
    return future.result() if error is None else error


class Gate:
    """A question that the engine answers when it is opened, so that other requests wait in a group."""

    def __init__(self, parts: Started) -> None:
        self._event, entered = threading.Event(), threading.Event()

        def wait(predictor: Predictor) -> None:
            entered.set()
            assert self._event.wait(PATIENCE)

        parts.service.ask(wait)
        assert entered.wait(PATIENCE)

    def open(self) -> None:
        self._event.set()


def logged(run: Path, folder: Path) -> list[Entry]:
    """The entries of a service's log, after it has stopped."""
    with closing(StateFolder(folder, run)) as state, closing(state.log(load(run))) as log:
        return list(log.read())
