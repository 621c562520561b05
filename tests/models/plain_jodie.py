"""An oracle: JODIE with an RNN memory and embeddings projected in time, node by node, from the equations alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.models.plain_model import Event, PlainModel, Time


class PlainJODIE(PlainModel):
    """RNN memory, and embeddings h ⊙ (1 + w·δ); arguments as in `PlainModel`.

    Args:
        training: the training events, whose nodes' gaps say what δ is measured in.

    Attributes:
        gap: σ, the standard deviation of those gaps; 1 where all are alike.
    """

    NAMES: ClassVar[dict[str, str]] = {"updater": "updater.cell"}

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, start: Time, training: list[Event], **shared: Any
    ) -> None:
        super().__init__(parameters, dim, 0, start, **shared)
        last: dict[int, Time] = {}
        gaps: list[Time] = []
        for src, dst, t, _ in training:
            for node in (src, dst):
                gaps.append(t - last.get(node, start))
                last[node] = t
        mean = sum(gaps) / len(gaps)
        self.gap = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 or 1.0

    def digest(self, node: int) -> torch.Tensor:
        """The RNN cell on the node's full mail, or on zeros."""
        given = self.parameter("updater", "weight_ih") @ self.message(node) + self.parameter("updater", "bias_ih")
        own = self.parameter("updater", "weight_hh") @ self.memory_of(node)[0] + self.parameter("updater", "bias_hh")
        return torch.tanh(given + own)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """h drifts with the time that has passed since what it last digested."""
        delta = (t - self.digested_time(node)) / self.gap
        return self.row(node) * (1 + self.parameter("embedding", "weight") * delta)
