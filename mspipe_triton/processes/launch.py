"""Launcher of a run on this machine: starts its processes, watches over them, and ends all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its module imports it without a list of names

from mspipe_triton.errors import InputError, PipelineError
from mspipe_triton.machine import SHARED_THREADS
from mspipe_triton.processes.board import LAUNCHER, Board, Verdict, process_name
from mspipe_triton.processes.meeting import FIRST, part
from mspipe_triton.processes.start import LAUNCHED

_ADDRESS = "127.0.0.1"
_POLL = 0.05  # seconds
_PATIENCE = 5.0  # seconds between SIGTERM and SIGKILL


def launch(command: Sequence[str], processes: int, names: Mapping[int, str] = MappingProxyType({})) -> int:
    """Run a command in processes until all have ended, and return their exit status.

    The first process inherits stdout; what the others print there goes to stderr. If one fails, all others are ended.
    If this process is killed, they end by themselves, since it hosts their store.

    Args:
        command: calls `run_process`.
        processes: their number.
        names: of ranks; what else messages call them.

    Returns:
        0, or the status of a process that has said why it failed after its part of the run.

    Raises:
        InputError: a process has refused its input.
        PipelineError: a process died or failed, or the run was interrupted.
    """
    store = TCPStore(_ADDRESS, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    board = Board(part(store, FIRST), processes)
    children: list[subprocess.Popen[bytes]] = []
    with _signals() as received:
        try:
            _start(children, command, processes, store.port, received)
            while (code := _check(board, children, names, received)) is None:
                time.sleep(_POLL)
            return code
        finally:
            _end(children)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals to end instead of ending."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {each: signal.signal(each, lambda number, _: received.append(number)) for each in numbers}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start(
    children: list[subprocess.Popen[bytes]], command: Sequence[str], count: int, port: int, received: Sequence[int]
) -> None:
    """Start the processes until a signal is received. SIGINT, which the terminal sends to all, is blocked in them."""
    threads = max(1, torch.get_num_threads() // count)
    shared = {
        **({} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads), SHARED_THREADS: "1"}),
        "TORCH_CPP_LOG_LEVEL": "FATAL",  # torch reports broken connections with stack traces
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": _ADDRESS,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        LAUNCHED: "1",
    }
    for rank in range(count):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        output = None if rank == 0 else 2
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if received:
            return


def _check(
    board: Board, children: Sequence[subprocess.Popen[bytes]], names: Mapping[int, str], received: Sequence[int]
) -> int | None:
    """Return the exit status of the run, or None while it goes on."""
    codes = [each.poll() for each in children]
    verdict, beats = board.read()
    if verdict is None and received:
        reason = "interrupted" if signal.SIGINT in received else f"stopped by {signal.Signals(received[0]).name}"
        verdict = board.settle(Verdict(board.advised(reason), 1, LAUNCHER))
    for rank, code in enumerate(codes):
        if verdict is None and code and (code < 0 or not beats[rank].done):
            name = process_name(rank, names, children[rank].pid)
            end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
            hint = ", as the system does if memory runs out" if code == -signal.SIGKILL else ""
            verdict = board.settle(Verdict(board.advised(f"{name} {end}{hint}"), 1, LAUNCHER))
    if verdict is not None:
        raise (InputError if verdict.code == InputError.exit_code else PipelineError)(verdict.message)
    return None if None in codes else max(code or 0 for code in codes)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that are still running."""
    deadline = time.monotonic() + _PATIENCE
    for each in children:
        each.terminate()
    while any(each.poll() is None for each in children) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for each in children:
        each.kill()
        each.wait()
