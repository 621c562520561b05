"""Two-branch models whose layers sleep, for exactly the time that the planner is told, or for unequal times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS, total
from mspipe_triton.pipeline.graphpipe.operators import Duration, OperatorGraph

LAYERS, WIDTH, BATCH = 4, 8, 16
UNEQUAL = ((0.3, 1.5, 1.5, 1.8, 1.8), (0.62,) * 5)  # times of the layers of both branches, over `FORWARD`; 1 on average
FORWARD = Duration(8e-3, 4e-3)  # of a layer, four times that of GraphPipe's case study; a backward pass takes twice it


@torch.library.custom_op("mspipe_bench::sleep", mutates_args=())
def sleep(x: Tensor, fixed: float, per_sample: float) -> Tensor:
    """Return a copy of x, [N, D], after `fixed` + N · `per_sample` seconds."""
    time.sleep(fixed + len(x) * per_sample)
    return x.clone()


@sleep.register_fake
def _(x: Tensor, fixed: float, per_sample: float) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
    ctx.seconds = inputs[1:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    fixed, per_sample = ctx.seconds
    return sleep(gradient, 2 * fixed, 2 * per_sample), None, None


sleep.register_autograd(_backward, setup_context=_remember)


class Layer(nn.Module):
    """A fully connected layer that sleeps for `times` times `FORWARD`."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.sleep = total(FORWARD, times=times)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, D] to [N, D]."""
        weight, bias = self.linear.weight, self.linear.bias
        return sleep(nn.functional.linear(x, weight, bias), self.sleep.fixed, self.sleep.per_sample)


class TwoBranch(nn.Module):
    """Two chains of layers with separate inputs, and the sum of their losses."""

    def __init__(self, times: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(*(Layer(each) for each in branch)) for branch in times)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the mean squares of both branches' outputs."""
        return self.a(x).square().mean() + self.b(y).square().mean()


def build() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the model of equal layers, and example inputs."""
    return TwoBranch([[1.0] * LAYERS] * 2), (torch.randn(4, WIDTH), torch.randn(4, WIDTH))


def build_unequal() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the model of unequal layers, and example inputs."""
    return TwoBranch(UNEQUAL), (torch.randn(4, WIDTH), torch.randn(4, WIDTH))


def data() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mini-batches without end."""
    while True:
        yield torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)


def graph(model: Callable[[], tuple[nn.Module, tuple[Tensor, Tensor]]] = build) -> OperatorGraph:
    """Return a model's operators; all layers take `FORWARD`."""
    module, inputs = model()
    traced = capture(module, inputs, accelerator=ACCELERATORS["h200"], name="two-branch")
    operators = tuple(
        replace(each, forward=FORWARD, backward=total(FORWARD, times=2)) if traced.placed >> index & 1 else each
        for index, each in enumerate(traced.operators)
    )
    return replace(traced, operators=operators)
