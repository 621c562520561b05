"""Command whose processes pass a tensor round a ring, for tests of how runs start and end: ring.py CASE FOLDER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch, which reports broken connections

import torch
from torch import distributed

from mspipe_triton.errors import GraphError, MspipeError
from mspipe_triton.processes.launch import launch
from mspipe_triton.processes.start import is_process, rank, run_process, start_group
from mspipe_triton.processes.watch import Watch

NAMES = {0: "stage 0", 1: "stage 1", 2: "stage 2"}
STALLED = 6.0
CASE, FOLDER = sys.argv[1], Path(sys.argv[2])


def ring() -> None:
    """Pass a tensor on once."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    send = distributed.isend(torch.ones(1000), (rank + 1) % count)
    distributed.recv(torch.empty(1000), (rank - 1) % count)
    send.wait()


def work(watch: Watch) -> str:
    if CASE == "refuses":
        raise GraphError("the plan is of another model")
    watch.names = NAMES
    assert start_group("cpu", watch) == "cpu"
    ring()
    if CASE == "again":
        if watch.restarts:
            return f"{rank()} after {watch.restarts}: {watch.notes.read('author')}"
        if rank() == 0:
            watch.notes.write("author", str(os.getpid()))
    print(f"noise of {rank()}", file=sys.stderr if rank() == 0 else sys.stdout)
    (FOLDER / f"{rank()}.tmp").write_text(str(os.getpid()), encoding="utf-8")
    (FOLDER / f"{rank()}.tmp").rename(FOLDER / f"{rank()}")  # a reader never sees it empty
    for _ in range(20):
        ring()
    if CASE == "raises" and rank() == 1:
        raise ValueError("bad\nwidth")
    if CASE == "late" and rank() == 2:
        time.sleep(1)
        raise ValueError("no checkpoint")
    if CASE == "exits" and rank() == 1:
        os._exit(7)
    while CASE not in ("ends", "late"):
        ring()
        time.sleep(0.001)
    return "result"


def main() -> int:
    if not is_process():
        return launch([sys.executable, __file__, *sys.argv[1:]], len(NAMES), NAMES)
    result = run_process(work, say, STALLED)
    if rank() == 0 or CASE == "again":
        print(result)
    return 0


def say(message: str) -> None:
    print(f"ring: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MspipeError as error:
        say(str(error))
        sys.exit(error.exit_code)
