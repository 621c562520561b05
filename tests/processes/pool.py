"""A pool of processes that run functions as ranks of a process group, started once for many tests."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT = 60.0  # seconds of a case, and of what a process waits for another one
GRACE = 2.0  # seconds for the errors of further processes, of which one may be the cause


class RankError(AssertionError):
    """The tracebacks of a case's processes."""


class Pool:
    """Processes that wait for cases.

    A case is a function at the top of a module, which all processes of a new Gloo group call with the same arguments.
    After a failure the processes are killed, and the next case has new ones.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.processes.warm"])
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def __call__(self, world: int, function: Callable[..., Any], *arguments: Any, limit: float = LIMIT) -> list[Any]:
        """Call a function in `world` processes, and return their results by rank.

        Raises:
            RankError: a process raises, ends, or takes longer than the limit.
        """
        if not self._processes:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            name = (function.__module__, function.__qualname__)
            for rank in range(world):
                self._connections[rank].send_bytes(pickle.dumps((folder, rank, world, limit, name, arguments)))
            answers = self._answers(world, limit)
        failures = {rank: text for rank, (passed, text) in answers.items() if not passed}
        if len(answers) < world and not failures:
            failures = {rank: f"no answer in {limit:g} s" for rank in range(world) if rank not in answers}
        if failures:
            self.close()
            raise RankError("\n".join(f"rank {rank}: {text}" for rank, text in sorted(failures.items())))
        return [answers[rank][1] for rank in range(world)]

    def close(self) -> None:
        """End the processes."""
        for each in self._processes:
            each.kill()
        for each in self._processes:
            each.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        for _ in range(self.size):
            here, there = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)

    def _answers(self, world: int, limit: float) -> dict[int, tuple[bool, Any]]:
        """Return an answer per rank: passed or not, and the result or the traceback; fewer after a failure."""
        answers: dict[int, tuple[bool, Any]] = {}
        ranks = {self._connections[rank]: rank for rank in range(world)}
        deadline = time.monotonic() + limit
        while len(answers) < world and (remaining := deadline - time.monotonic()) > 0:
            for connection in wait([each for each in ranks if ranks[each] not in answers], remaining):
                assert isinstance(connection, Connection)
                try:
                    answers[ranks[connection]] = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionError):
                    answers[ranks[connection]] = (False, "the process ended")
                if not answers[ranks[connection]][0]:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return answers


@contextmanager
def pool(size: int) -> Iterator[Pool]:
    """Yield a pool, and end its processes."""
    result = Pool(size)
    try:
        yield result
    finally:
        result.close()


def _serve(connection: Connection) -> None:
    """Run cases until the connection ends."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # or each process would compile loops
    while True:
        try:
            folder, rank, world, limit, (module, name), arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            store = dist.FileStore(str(Path(folder) / "store"), world)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=limit))
            result = getattr(importlib.import_module(module), name)(*arguments)
            dist.barrier()
            dist.destroy_process_group()
            answer: tuple[bool, Any] = (True, result)
        except BaseException:
            answer = (False, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))
