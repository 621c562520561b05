"""A resident training step taken apart: sampling, forward, loss and backward, Adam, write-back, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.training.resident_pass import Scene
from mspipe_triton.training.resident_steps import TrainPass


class Stages:
    """The stages of a training pass, each launched kernel by kernel; taken in order they are `TrainPass.step`.

    Args:
        steps: a pass without a branch (`RunSettings(branch=False)`), so that a step begins with its own batch.
    """

    scene: Scene
    record: Any
    hidden: torch.Tensor | None
    embeddings: torch.Tensor

    def __init__(self, steps: TrainPass) -> None:
        self.steps = steps

    def by_name(self) -> dict[str, Callable[[], None]]:
        """The stages in their order."""
        return {
            "sample": self.sample, "forward": self.forward, "backward": self.backward, "adam": self.adam,
            "write": self.write,
        }  # fmt: skip

    def sample(self) -> None:
        """Events, negatives, neighbours, distinct nodes."""
        self.scene = self.steps.sample()

    def forward(self) -> None:
        """Memory and embeddings."""
        self.record, self.hidden, self.embeddings = self.steps.embedded(self.scene, self.steps.clock)

    def backward(self) -> None:
        """Scores, loss and gradients."""
        loss, _ = self.steps.given.model.loss(self.embeddings, self.scene.count)
        self.steps.optimizer.zero_grad()
        loss.backward(self.steps.unit)
        self.steps.losses.index_copy_(0, self.steps.clock.iteration, loss.detach().view(1))

    def adam(self) -> None:
        """The optimiser's step."""
        self.steps.optimizer.step()

    def write(self) -> None:
        """Memory and mail of the endpoints, and on to the next batch."""
        self.steps.deliver(self.scene, self.record, self.hidden)
        self.steps.clock.advance()
