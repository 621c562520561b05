"""Common part of the attentions' cases: neighbour slots and the tables that they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tests.kernels.comparing import Tensors
from tests.kernels.runtime.operation_case import OperationCase


@dataclass
class SlotCase(OperationCase):
    """R roots with up to F neighbours; K heads; empty slots hold garbage."""

    tables: ClassVar[tuple[str, ...]] = ("table", "features")

    roots: int
    fanout: int = 6
    width: int = 3  # of the edge features
    heads: int = 2
    dim: int = 4
    times: int = 3
    indexed_features: bool = False
    counts: str = "some"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.roots * 31 + self.fanout)
        slots = self.roots, self.fanout
        self.leaves = {
            "frequency": torch.logspace(0, -3, self.times, dtype=torch.float64), "phase": self.normal(self.times),
        }  # fmt: skip
        self.deltas = torch.rand(slots, dtype=torch.float64, generator=self.random) * 100
        low, high = {"none": (0, 0), "some": (0, self.fanout), "all": (self.fanout, self.fanout)}[self.counts]
        self.filled = low + self.integers(high - low + 1, self.roots)
        self.features = self.normal(50 if self.indexed_features else self.roots * self.fanout, self.width)
        self.feature_rows = self.integers(50, *slots) if self.indexed_features else None

    @property
    def empty(self) -> torch.Tensor:
        """Mask [R, F] of the slots without a neighbour."""
        return torch.arange(self.fanout) >= self.filled[:, None]

    def slot_rows(self, root: int) -> torch.Tensor:
        """Table rows of one root's filled slots, [counts, D]."""
        return self.leaves["table"][self.rows[root, : int(self.filled[root])]]

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, D + E + T] of one root's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        encoded = encode(self.deltas[root, :count], self.leaves)
        return torch.cat([self.slot_rows(root), self.features[slots], encoded], 1)

    def spoil(self, value: float, row: int = 2**31 - 1) -> None:
        """Put `value` or `row` into every empty slot."""
        self.deltas = torch.where(self.empty, value, self.deltas)
        self.spoil_rows(value, row)
        if self.feature_rows is None:
            self.features = torch.where(self.empty.view(-1, 1), value, self.features)
        else:
            self.feature_rows = torch.where(self.empty, row, self.feature_rows)

    def spoil_rows(self, value: float, row: int) -> None:
        self.rows = torch.where(self.empty, row, self.rows)

    def narrow(self) -> None:
        """Make indices int32, and leave gaps between the rows of tables."""
        self.filled = self.filled.int()
        self.feature_rows = None if self.feature_rows is None else self.feature_rows.int()
        self.features = torch.cat([self.features, self.features], 1)[:, : self.width]
        self.narrow_rows()

    def narrow_rows(self) -> None:
        self.rows = self.rows.int()
        self.leaves["table"] = self.leaves["table"].detach().repeat(1, 2)[:, : self.dim].requires_grad_()
        assert self.leaves["table"].stride(0) == 2 * self.dim


def encode(deltas: torch.Tensor, leaves: Tensors) -> torch.Tensor:
    return torch.cos(deltas[:, None] * leaves["frequency"] + leaves["phase"])


def leaky(logits: torch.Tensor) -> torch.Tensor:
    return torch.where(logits > 0, logits, 0.2 * logits)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Compute softmax by its definition; without logits it is empty."""
    weights = torch.exp(logits - logits.detach().max()) if len(logits) else logits
    return weights / weights.sum()
