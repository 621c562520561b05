"""Learning rates: one for each iteration of a run, as a function of its number."""

from __future__ import annotations

import math

import torch

from mspipe_triton.config import TrainConfig


class LearningRate:
    """Learning rates of a run's iterations, and the setter of an optimiser's rate.

    Rates depend on the iteration's number in the run alone, and on `halvings`, which the validation of earlier epochs
    determines. So every schedule, every number of ranks and a resumed run use the same. Rates that change are float32
    numbers, since a GPU's optimiser reads them as such.

    Args:
        train: the run's settings.
        iterations: number per epoch.
    """

    def __init__(self, train: TrainConfig, iterations: int) -> None:
        self.train, self.iterations = train, iterations
        self.halvings = 0  # by plateaus, before the present epoch

    @property
    def changes(self) -> bool:
        """True if not all iterations have the same rate."""
        return self.train.lr_schedule != "constant" or self.train.warmup > 0

    def initial(self, device: torch.device) -> float | torch.Tensor:
        """Return the rate to create an optimiser with; a tensor [] on the device if it changes."""
        return torch.tensor(self.train.lr, dtype=torch.float32, device=device) if self.changes else self.train.lr

    def at(self, epoch: int, index: int) -> float:
        """Return the rate of iteration `index` of an epoch; epochs count from 1, iterations from 0."""
        rate = self._rate(epoch, index)
        return float(torch.tensor(rate, dtype=torch.float32)) if self.changes else rate

    def set(self, optimizer: torch.optim.Optimizer, epoch: int, index: int) -> None:
        """Set the optimiser's rate for an iteration, without waiting for the device."""
        if self.changes:
            for group in optimizer.param_groups:
                group["lr"].fill_(self.at(epoch, index))

    def of_epoch(self, epoch: int) -> torch.Tensor:
        """Return the rates [iterations] of an epoch, float32 on the host."""
        return torch.tensor([self._rate(epoch, index) for index in range(self.iterations)], dtype=torch.float32)

    def _rate(self, epoch: int, index: int) -> float:
        """Return the rate of an iteration before it is rounded."""
        train, number = self.train, (epoch - 1) * self.iterations + index
        rate = train.lr * 0.5**self.halvings
        if number < train.warmup:
            return rate * (number + 1) / train.warmup
        if train.lr_schedule == "cosine":
            progress = (number - train.warmup) / max(1, train.epochs * self.iterations - train.warmup)
            rate *= (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return rate
