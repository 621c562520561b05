"""Bandwidth of the links between stages, measured with messages of the size that a pass sends."""

from __future__ import annotations

import time
from statistics import median

import torch
import torch.distributed as dist

from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer

ROUNDS = 7
LARGEST = torch.iinfo(torch.int64).max


def bandwidth(trainer: StageTrainer) -> float | None:
    """Return the bytes per second of the slowest link between stages, the same in all processes.

    The first devices of two stages send a message there and back, one pair after the other.

    Args:
        trainer: of this process; all processes call this at the same time.

    Returns:
        The bandwidth in each direction; None if nothing crosses a link.
    """
    slowest = torch.tensor([torch.inf], dtype=torch.float64)
    for index, stage in enumerate(trainer.plan.stages):
        for before in stage.after:
            ends = (trainer.plan.stages[before].devices[0], stage.devices[0])
            here = dist.get_rank() in ends
            size = torch.tensor([trainer.bytes_between(before, index) if here else LARGEST])
            dist.all_reduce(size, op=dist.ReduceOp.MIN)  # passes of both stages may have different samples
            if here and size.item():
                slowest[0] = min(slowest[0].item(), size.item() / _one_way(trainer, int(size.item()), *ends))
            dist.barrier()
    dist.all_reduce(slowest, op=dist.ReduceOp.MIN)
    return None if slowest.isinf().item() else slowest.item()


def _one_way(trainer: StageTrainer, size: int, one: int, other: int) -> float:
    """Return the seconds of a message between two processes, of which this is one."""
    message, seconds = torch.zeros(size, dtype=torch.uint8, device=trainer.device), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        if dist.get_rank() == one:
            dist.send(message, other)
            dist.recv(message, other)
        else:
            dist.recv(message, one)
            dist.send(message, one)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        seconds.append(time.perf_counter() - start)
    return median(seconds) / 2
