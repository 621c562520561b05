"""Small calls of operations, and kernel tuning with simulated times and a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels import memory_gru, sample_recent
from mspipe_triton.kernels.runtime.launch import KERNELS
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.operations import record_calls
from mspipe_triton.tuning.kernels.tune import KernelChoice, tune_kernels

RECENT = KERNELS["recent_kernel"]
Seconds = Callable[[Call], float]


class Clock:
    """A clock that every measurement advances by one second."""

    def __init__(self, seconds: Seconds) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now

    def measure(self, call: Call) -> float:
        self.now += 1
        return self.seconds(call)


def sampler_call() -> Call:
    """Return a call of a sampler."""
    graph = torch.tensor([0, 3, 6]), torch.tensor([1, 1, 1, 0, 0, 0]), torch.arange(6), torch.arange(6) % 3
    (call,) = record_calls(lambda: sample_recent(*graph, torch.tensor([0, 1, 1]), torch.tensor([2, 1, 2]), 2))
    return call


def update_calls() -> list[Call]:
    """Return a memory update and its backward pass."""
    random, dim = torch.Generator().manual_seed(0), 2
    sizes = [(3 * dim, 2 * dim + 2), (3 * dim, dim), (3 * dim,), (3 * dim,)]
    weights = [torch.randn(size, generator=random).requires_grad_() for size in sizes]
    table, rows = torch.randn(4, dim, generator=random), torch.tensor([2, 0, 1])

    def run() -> None:
        h = memory_gru(
            table, rows, table, rows, table[:, :1], rows, torch.rand(3), rows > 0, table[0, :1], table[1, :1], *weights
        )
        h.sum().backward()

    return record_calls(run)


def block_seconds(call: Call) -> float:
    """Return seconds that are inversely proportional to the sampler's block."""
    return 1.0 / RECENT.config()["BLOCK"]


def tune(calls: list[Call], seconds: Seconds, budget: float = 1000.0, **options: Any) -> KernelChoice:
    clock = Clock(seconds)
    return tune_kernels(calls, budget, measure=clock.measure, clock=clock, **options)
