"""The pool of processes: results by rank, errors with their traceback, processes that end or hang."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.processes.pool import Pool, RankError


def total(start: int) -> int:
    value = torch.tensor(start + dist.get_rank())
    dist.all_reduce(value)
    return int(value)


def fail(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError(f"a fault of {rank}")
    dist.barrier()


def die(rank: int) -> None:
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def hang() -> None:
    time.sleep(60)


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_results(processes: Pool, world: int) -> None:
    assert processes(world, total, 1) == [sum(range(1, world + 1))] * world


@pytest.mark.slow
def test_failures_name_their_cause_and_the_next_case_runs(processes: Pool) -> None:
    with pytest.raises(RankError, match=r"rank 1: (.|\n)*ValueError: a fault of 1"):
        processes(3, fail, 1)
    with pytest.raises(RankError, match="rank 0: the process ended"):
        processes(2, die, 0)
    with pytest.raises(RankError, match=r"rank 0: no answer in 0.5 s\nrank 1: no answer"):
        processes(2, hang, limit=0.5)
    assert processes(2, total, 0) == [1, 1]
