"""Small calls of operations, and a tuning of kernels whose seconds are made up and pass on a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels import memory_gru, sample_recent
from mspipe_triton.kernels.runtime.launch import KERNELS
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.operations import recorded
from mspipe_triton.tuning.kernels.tune import KernelChoice, tune_kernels

RECENT = KERNELS["recent_kernel"]
Seconds = Callable[[Call], float]


class Clock:
    """A clock that every measurement moves on by a second."""

    def __init__(self, seconds: Seconds) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now

    def measure(self, call: Call) -> float:
        self.now += 1
        return self.seconds(call)


def sampled() -> Call:
    """A sampler's call."""
    graph = torch.tensor([0, 3, 6]), torch.tensor([1, 1, 1, 0, 0, 0]), torch.arange(6), torch.arange(6) % 3
    (call,) = recorded(lambda: sample_recent(*graph, torch.tensor([0, 1, 1]), torch.tensor([2, 1, 2]), 2))
    return call


def updates() -> list[Call]:
    """A memory update and its backward pass."""
    random, dim = torch.Generator().manual_seed(0), 2
    sizes = [(3 * dim, 2 * dim + 2), (3 * dim, dim), (3 * dim,), (3 * dim,)]
    weights = [torch.randn(size, generator=random).requires_grad_() for size in sizes]
    table, rows = torch.randn(4, dim, generator=random), torch.tensor([2, 0, 1])

    def run() -> None:
        h = memory_gru(
            table, rows, table, rows, table[:, :1], rows, torch.rand(3), rows > 0, table[0, :1], table[1, :1], *weights
        )
        h.sum().backward()

    return recorded(run)


def blocks(call: Call) -> float:
    """The larger a sampler's block, the faster."""
    return 1.0 / RECENT.config()["BLOCK"]


def tuned(calls: list[Call], seconds: Seconds, budget: float = 1000.0, **options: Any) -> KernelChoice:
    clock = Clock(seconds)
    return tune_kernels(calls, budget, measure=clock.measure, clock=clock, **options)
