"""An oracle of JODIE, with RNN memory and embeddings projected in time: node by node, from the equations alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.models.plain_model import Event, PlainModel, Time


class PlainJODIE(PlainModel):
    """JODIE: RNN memory, and embeddings h ⊙ (1 + w·δ); arguments as in `PlainModel`.

    Args:
        training: the training events; the gaps between a node's events give the unit of δ.

    Attributes:
        gap: σ, the standard deviation of those gaps; 1 if all are equal.
    """

    NAMES: ClassVar[dict[str, str]] = {"updater": "updater.cell"}

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, start: Time, training: list[Event], **options: Any
    ) -> None:
        super().__init__(parameters, dim, 0, start, **options)
        last: dict[int, Time] = {}
        gaps: list[Time] = []
        for src, dst, t, _ in training:
            for node in (src, dst):
                gaps.append(t - last.get(node, start))
                last[node] = t
        mean = sum(gaps) / len(gaps)
        self.gap = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 or 1.0

    def digest(self, node: int) -> torch.Tensor:
        """Apply the RNN cell to the node's whole message, or to zeros."""
        x = self.parameter("updater", "weight_ih") @ self.message(node) + self.parameter("updater", "bias_ih")
        h = self.parameter("updater", "weight_hh") @ self.memory_of(node)[0] + self.parameter("updater", "bias_hh")
        return torch.tanh(x + h)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """Let h drift with the time since the node's last digested mail."""
        delta = (t - self.digested_time(node)) / self.gap
        return self.hidden_row(node) * (1 + self.parameter("embedding", "weight") * delta)
