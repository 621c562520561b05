"""A stand-in for trainers: the part of a small module that a stage of a plan trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import SGD, Adam, Optimizer

from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, PipelineStage, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from tests.pipeline.graphpipe.plans import operator

STATE = {"a": ["a.weight", "a.bias", "scale"], "b": ["scale", "b.weight", "tied.weight"]}
Make = Callable[[Any], Optimizer]


class Net(nn.Module):
    """Two operators, a and b, with a buffer that both use, a tied weight, and a layer that neither uses."""

    def __init__(self, width: int = 4, seed: int = 0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a = nn.Linear(3, width, dtype=dtype)
        self.b = nn.Linear(width, 3, bias=False, dtype=dtype)
        self.tied = nn.Linear(width, 3, bias=False, dtype=dtype)
        self.tied.weight = self.b.weight
        self.register_buffer("scale", torch.rand(2, dtype=dtype))
        self.unused = nn.Linear(2, 2, dtype=dtype)


@dataclass
class Standin:
    """The attributes of a trainer that a checkpoint uses."""

    plan: PipelinePlan
    index: int
    state: dict[str, Tensor]
    rest: dict[str, Tensor]
    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer | None
    replica: int = 0
    steps: int = 0

    @property
    def stage(self) -> PipelineStage:
        return self.plan.stages[self.index]

    def train(self, steps: int) -> None:
        """Update the parameters with gradients that depend on the step alone."""
        for _ in range(steps):
            for name, each in self.parameters.items():
                numbers = torch.Generator().manual_seed(self.steps * 100 + sum(name.encode()))
                each.grad = torch.randn(each.shape, generator=numbers).to(each.dtype)
            if self.optimizer is not None:
                self.optimizer.step()
            self.steps += 1


def standin(
    stages: Sequence[str] = ("ab",), index: int = 0, make: Make | None = Adam, net: Net | None = None, replica: int = 0
) -> StageTrainer:
    """Build the trainer of a stage; a stage is a string of its operators."""
    graph = OperatorGraph.of([operator("a"), operator("b")], [("a", "b")], "small")
    parts = [Part(sum(1 << "ab".index(each) for each in one), 1, Rhythm(1)) for one in stages]
    plan = assemble(Problem(graph, Cluster(len(parts), inf), 2), parts)
    net = net or Net()
    entries = net.state_dict(keep_vars=True)
    state = {name: entries[name] for each in stages[index] for name in STATE[each]}
    rest = {name: entries[name].detach() for name in entries if name.startswith("unused")}
    parameters = {name: each for name, each in net.named_parameters() if name in state}
    optimizer = make(parameters.values()) if make else None
    return cast("StageTrainer", Standin(plan, index, state, rest, parameters, optimizer, replica))


def train(trainer: StageTrainer, steps: int) -> None:
    cast("Standin", trainer).train(steps)


def momentum(parameters: Any) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9)


@contextmanager
def process(store: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Join a group of processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
