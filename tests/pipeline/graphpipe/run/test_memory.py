"""Memory of a pipelined run: what a process holds between passes, beside what the plan says."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.pipeline.graphpipe.capture.load import Model
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer
from tests.pipeline.graphpipe.run.layouts import NAMED, by_hand
from tests.pipeline.graphpipe.run.models import batches, build
from tests.pipeline.graphpipe.run.oracle import OPTIMIZERS
from tests.pipeline.graphpipe.run.pool import Pool

DTYPE = torch.float64


def held(plan: PipelinePlan, name: str) -> tuple[int, int, int]:
    """Train a stage on a mini-batch; return its index, its micro-batches in flight, and the bytes of activations."""
    (inputs,) = batches(name, DTYPE, 1)
    trainer = StageTrainer(plan, Model(build(name, DTYPE), inputs, {}), OPTIMIZERS["sgd"])
    report = trainer.step(inputs, {}, measured=True)
    return trainer.index, report.in_flight, report.activations


@pytest.mark.parametrize(("name", "world"), [("mmt", 4), ("two-branch", 3), ("diamond", 4)])
def test_activations_are_freed_as_planned(processes: Pool, name: str, world: int) -> None:
    """A run counts a tensor once that two operators of a stage save, and the plan counts it twice.

    A number that a loss saves per pass is spread over the samples of a larger one in the plan.
    """
    plan = by_hand(name, NAMED[name][world], DTYPE)
    for index, in_flight, activations in processes(plan.devices, held, plan, name):
        stage = plan.stages[index]
        state = plan.problem.cost(stage.operators).parameters * plan.problem.copies
        assert in_flight == stage.in_flight
        planned = plan.memory(stage) - state
        assert 0.7 * planned <= activations <= planned + 8 * in_flight
