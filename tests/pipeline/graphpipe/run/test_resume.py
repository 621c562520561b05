"""Resumption of real stages: five steps, a checkpoint and five steps are ten steps, also under another plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

import torch
import torch.multiprocessing
from torch import Tensor, nn

from mspipe_triton.pipeline.graphpipe.capture import Model, capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run import module_state
from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.pipeline.graphpipe.run.data import DataSource
from mspipe_triton.pipeline.graphpipe.run.optimizers import load_optimizer
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from tests.pipeline.graphpipe.run.standins import process

BATCH = 8
INPUTS = (torch.ones(2, 6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64))


class Net(nn.Module):
    """Two branches, one of them with tied weights; statistics of batches and dropout on request; an unused layer."""

    def __init__(self, seed: int, noisy: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.a = nn.Linear(6, 8), nn.Linear(8, 8)
        self.b, self.c, self.last = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 6, bias=False)
        self.c.weight = self.b.weight
        self.noise = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.25)) if noisy else nn.Identity()
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(1.5))
        self.double()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.first(x).relu() * self.scale
        h = self.noise(self.a(h)).tanh() + self.c(self.b(h))
        return ((self.last(h) - y) ** 2).mean(1)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.randn(BATCH, 6, dtype=torch.float64), torch.randn(BATCH, 6, dtype=torch.float64)


def plan_of(graph: OperatorGraph, cuts: Sequence[int], devices: Sequence[int], micro_batch: int) -> PipelinePlan:
    """Cut a graph's operators, in their order, into stages."""
    operators = list(members(graph.placed))
    bounds = [0, *cuts, len(operators)]
    parts = [
        Part(sum(1 << each for each in operators[start:end]), count, Rhythm(micro_batch))
        for start, end, count in zip(bounds, bounds[1:], devices, strict=False)
    ]
    return assemble(Problem(graph, Cluster(sum(devices), inf), BATCH), parts)


def graph_of(noisy: bool) -> OperatorGraph:
    return capture(Net(0, noisy), INPUTS, accelerator=ACCELERATORS["h100"])


class Run:
    """A stage and its mini-batches."""

    def __init__(self, plan: PipelinePlan, noisy: bool, seed: int = 0) -> None:
        self.trainer = StageTrainer(plan, Model(Net(seed, noisy), INPUTS, {}), load_optimizer("adam", 0.01))
        self._data = DataSource("batches", batches)

    def train(self, steps: int) -> None:
        """Train up to a step."""
        while self.trainer.steps < steps:
            batch = self._data.next(BATCH)
            self.trainer.step(batch.args, batch.kwargs)

    def resume(self, folder: Path) -> None:
        """Go on where the run of a checkpoint ended."""
        load_checkpoint(folder, self.trainer)
        self._data.skip(self.trainer.steps)


def run(rank: int, folder: Path, plan: PipelinePlan, noisy: bool, again: bool) -> None:
    """Save after five steps and after ten; then, if asked to, resume after the five with a model of other weights."""
    with process(folder / "store-of-two", rank, plan.devices):
        whole = Run(plan, noisy)
        for steps in (5, 10):
            whole.train(steps)
            save_checkpoint(folder / str(steps), whole.trainer)
        if again:
            resumed = Run(plan, noisy, seed=9)
            resumed.resume(folder / "5")
            resumed.train(10)
            assert all(torch.equal(resumed.trainer.state[name], each) for name, each in whole.trainer.state.items())


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    plan = plan_of(graph_of(noisy=True), [2], [1, 1], 4)
    torch.multiprocessing.start_processes(run, (tmp_path, plan, True, True), 2, start_method="fork")
    states = [module_state(tmp_path / name) for name in ("5", "10")]
    assert all(Net(9, True).load_state_dict(state) for state in states)
    assert not any(torch.equal(states[0][name], states[1][name]) for name in ("a.weight", "noise.0.running_mean"))


def test_a_run_is_resumed_under_another_plan(tmp_path: Path) -> None:
    graph = graph_of(noisy=False)
    plan = plan_of(graph, [2], [1, 1], 2)
    torch.multiprocessing.start_processes(run, (tmp_path, plan, False, False), 2, start_method="fork")
    with process(tmp_path / "store"):
        alone = Run(plan_of(graph, [], [1], 4), False, seed=9)
        alone.resume(tmp_path / "5")
        alone.train(10)
        save_checkpoint(tmp_path / "alone", alone.trainer)
    expected, actual = module_state(tmp_path / "10"), module_state(tmp_path / "alone")
    assert actual.keys() == Net(0, False).state_dict().keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(actual[name], each, rtol=1e-12, atol=1e-12)
