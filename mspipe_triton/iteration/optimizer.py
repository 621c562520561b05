"""The optimiser of a run: Adam or AdamW, with gradients that may be clipped before each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from mspipe_triton.config import TrainConfig


class Clipping:
    """Clips gradients, which are those of all ranks by then, before each step of an optimiser.

    Norms are added up on the device, so that no step waits for it.

    Args:
        parameters: those of the optimiser.
        limit: the largest norm of all gradients together.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], limit: float) -> None:
        self.parameters, self.limit = parameters, limit
        self.totals = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)  # sum of the norms, their number

    def __call__(self, *_: Any) -> None:
        """Clip the gradients; torch calls this before a step."""
        norm = clip_grad_norm_(self.parameters, self.limit)
        self.totals.add_(torch.stack([norm, torch.ones_like(norm)]))

    def mean(self) -> float:
        """Return the mean norm before clipping since the last call, and start over."""
        total, count = self.totals.tolist()
        self.totals.zero_()
        return float(total / max(1.0, count))


def make_optimizer(
    parameters: Sequence[torch.Tensor], train: TrainConfig, rate: float | torch.Tensor, clipping: Clipping | None,
    capturable: bool,
) -> torch.optim.Optimizer:  # fmt: skip
    """Return Adam, or AdamW if weights decay.

    Args:
        parameters: those to train. train: the run's settings. rate: the learning rate, [] if it is a tensor.
        clipping: clips the gradients before each step, or None.
        capturable: steps may be captured in a CUDA graph.
    """
    options: dict[str, Any] = {"lr": rate, "fused": True, "capturable": capturable}
    optimizer: torch.optim.Optimizer
    if train.weight_decay > 0:
        optimizer = torch.optim.AdamW(parameters, weight_decay=train.weight_decay, **options)
    else:
        optimizer = torch.optim.Adam(parameters, **options)
    if clipping is not None:
        optimizer.register_step_pre_hook(clipping)
    return optimizer
