"""Processes of this machine that form groups of Gloo ranks, one group after the other."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mspipe_triton.distributed.ranks import Ranks

LIMIT = 900.0  # seconds


class Groups:
    """The groups of a process; all processes form the same ones, in the same order.

    Args:
        rank: the process's number. folder: of files that all processes share.
    """

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.folder, self.number = rank, folder, 0

    @contextmanager
    def of(self, count: int) -> Iterator[Ranks | None]:
        """Form a group of the first `count` processes, the default one of `torch.distributed`; yield None in others."""
        self.number += 1
        if self.rank >= count:
            yield None
            return
        store = dist.FileStore(str(self.folder / f"store-{self.number}"), count)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=count)
        try:
            yield Ranks.of_group(torch.device("cpu"))
            dist.barrier()
        finally:
            dist.destroy_process_group()


def in_processes(work: Callable[..., Any], processes: int, *arguments: Any, limit: float = LIMIT) -> list[Any]:
    """Call `work(groups, *arguments)` in processes with one torch thread each, and return the result of each.

    Args:
        work: a function of a module.
        limit: seconds after which all processes are killed.

    Raises:
        TimeoutError: they have not ended by then.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.spawn(_process, (Path(folder), work, arguments), processes, join=False)
        assert context is not None
        deadline = time.monotonic() + limit
        try:
            while not context.join(timeout=max(0.0, deadline - time.monotonic())):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{processes} processes have not ended within {limit:g} s; run fewer repeats")
        finally:
            for each in context.processes:
                each.kill()
        return [pickle.loads((Path(folder) / f"result-{rank}").read_bytes()) for rank in range(processes)]


def _process(rank: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    result = work(Groups(rank, folder), *arguments)
    (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
