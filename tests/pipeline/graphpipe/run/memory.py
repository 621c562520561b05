"""Memory of a pipelined run: what the processes of a stage hold between passes, and what its plan says."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan, PipelineStage
from tests.pipeline.graphpipe.run.cases import batches
from tests.pipeline.graphpipe.run.harness import trainer_of


class Held(NamedTuple):
    """Micro-batches and bytes of activations that a process of a stage held between passes, at most."""

    stage: int
    in_flight: int
    activations: int


def held(plan: PipelinePlan, name: str, dtype: torch.dtype) -> Held:
    """Train the stage of this process on a mini-batch, and measure."""
    (inputs,) = batches(name, dtype, 1)
    trainer = trainer_of(plan, name, dtype, "sgd")
    report = trainer.step(inputs, {}, measured=True)
    return Held(trainer.index, report.in_flight, report.activations)


def planned_activations(plan: PipelinePlan, stage: PipelineStage) -> float:
    """Return the bytes of activations on each device of a stage."""
    return plan.memory(stage) - plan.problem.cost(stage.operators).parameters * plan.problem.copies
