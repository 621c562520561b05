"""Command whose processes pass a tensor round a ring, for tests of how runs start and end: ring.py CASE FOLDER."""

from __future__ import annotations

import os
import sys
import time
from math import inf
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch, which reports broken connections

import torch
from torch import distributed

from mspipe_triton.errors import GraphError, MspipeError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.launch import launch
from mspipe_triton.pipeline.graphpipe.run.processes import is_process, run_process, stage_names
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

PROCESSES = 3
STALLED = 6.0
CASE, FOLDER = sys.argv[1], Path(sys.argv[2])


def ring() -> None:
    """Pass a tensor on once."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    send = distributed.isend(torch.ones(1000), (rank + 1) % count)
    distributed.recv(torch.empty(1000), (rank - 1) % count)
    send.wait()


def work(plan: PipelinePlan, device: str) -> str:
    rank = distributed.get_rank()
    ring()
    print(f"noise of {rank}", file=sys.stderr if rank == 0 else sys.stdout)
    (FOLDER / f"{rank}.tmp").write_text(str(os.getpid()), encoding="utf-8")
    (FOLDER / f"{rank}.tmp").rename(FOLDER / f"{rank}")  # a reader never sees it empty
    for _ in range(20):
        ring()
    if CASE == "raises" and rank == 1:
        raise ValueError("bad\nwidth")
    if CASE == "late" and rank == 2:
        time.sleep(1)
        raise ValueError("no checkpoint")
    if CASE == "exits" and rank == 1:
        os._exit(7)
    while CASE not in ("ends", "late"):
        ring()
        time.sleep(0.001)
    return "result"


def make_plan() -> PipelinePlan:
    if CASE == "refuses" and is_process():
        raise GraphError("the plan is of another model")
    count = PROCESSES + 1 if CASE == "size" else PROCESSES
    graph = OperatorGraph.of([Operator(f"o{each}", Duration(0, 1), Duration(0, 1)) for each in range(count)], [])
    parts = [Part(1 << each, 1, Rhythm(1)) for each in range(count)]
    return assemble(Problem(graph, Cluster(count, inf, inf), 4), parts, chain=True)


def main() -> int:
    if not is_process():
        command = [sys.executable, __file__, *sys.argv[1:]]
        return launch(command, dict(list(stage_names(make_plan()).items())[:PROCESSES]))
    result = run_process(make_plan, work, "cpu", say, STALLED)
    if os.environ["RANK"] == "0":
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
