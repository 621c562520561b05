"""Stages of a resident training step: sampling, forward, loss and backward, Adam, write-back, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mspipe_triton.iteration.passes import TrainPass
from mspipe_triton.iteration.scene import Scene
from mspipe_triton.iteration.step import differentiate, forward, loss_of


class Parts:
    """The stages of a training pass, each launched kernel by kernel; in order they equal `TrainPass.step`.

    Args:
        steps: a pass without a branch (`RunSettings(branch=False)`), so that each step samples its own batch.
    """

    scene: Scene
    hidden: torch.Tensor | None
    embeddings: torch.Tensor

    def __init__(self, steps: TrainPass) -> None:
        self.steps = steps

    def by_name(self) -> dict[str, Callable[[], None]]:
        """Return the stages by name, in order."""
        return {
            "sample": self.sample, "forward": self.forward, "backward": self.backward, "adam": self.adam,
            "write": self.write,
        }  # fmt: skip

    def sample(self) -> None:
        """Sample events, negatives, neighbours and distinct nodes."""
        self.scene = self.steps.sample()

    def forward(self) -> None:
        """Compute memory and embeddings."""
        self.scene = self.steps.fetched(self.scene, self.steps.clock)
        self.hidden, self.embeddings = forward(self.steps.model, self.scene)

    def backward(self) -> None:
        """Compute scores, loss and gradients."""
        steps = self.steps
        loss = differentiate(loss_of(steps.model, self.scene, self.embeddings), steps.optimizer, steps.unit)
        steps.losses.index_copy_(0, steps.clock.iteration, loss.view(1))

    def adam(self) -> None:
        """Take the optimiser's step."""
        self.steps.optimizer.step()

    @torch.no_grad()
    def write(self) -> None:
        """Write memory and mail of the endpoints, and move to the next batch."""
        self.steps.deliver(self.scene, self.hidden)
        self.steps.clock.advance()
