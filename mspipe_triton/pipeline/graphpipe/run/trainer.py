"""Training of a plan's stage in its process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mspipe_triton.pipeline.graphpipe.capture.load import Model
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan, PipelineStage
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan


@dataclass(frozen=True)
class StepReport:
    """What a process did in a mini-batch.

    Args:
        loss: the share of the loss that this process computed; the sum over processes is the mini-batch's.
        spans: its passes, in seconds of a clock that all processes of a host share.
        held: micro-batches between their passes, at most.
        activations: bytes that autograd held between passes, at most; 0 unless measured.
    """

    loss: float
    spans: tuple[PlanSpan, ...]
    held: int
    activations: int


class StageTrainer:
    """The stage of a plan that this process trains. `torch.distributed` is initialised: a process per device.

    Attributes:
        plan: the plan.
        index: the stage's.
        replica: this process's place among the devices of the stage.
        parameters: those that the stage trains, by name in the module.
        state: parameters and buffers that the stage uses, by all their names in the module's `state_dict`.
        rest: entries of the module's `state_dict` that no stage uses.
        optimizer: updates the parameters; None if there are none.
        steps: mini-batches that it has been trained on.
    """

    plan: PipelinePlan
    index: int
    replica: int
    parameters: dict[str, nn.Parameter]
    state: dict[str, Tensor]
    rest: dict[str, Tensor]
    optimizer: torch.optim.Optimizer | None
    steps: int

    @property
    def stage(self) -> PipelineStage:
        return self.plan.stages[self.index]

    def __init__(self, plan: PipelinePlan, model: Model, optimizer: Any, seed: int = 0, device: str = "cpu") -> None:
        raise NotImplementedError

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], measured: bool = False) -> StepReport:
        """Train on a mini-batch, the same in all processes: all passes, the sync of gradients, the update."""
        raise NotImplementedError

    def gradients(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the gradients of a mini-batch by name, without an update."""
        raise NotImplementedError
