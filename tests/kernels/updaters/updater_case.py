"""Cases of memory_gru and memory_rnn, which differ only in the cell; the oracle is torch's cell on whole messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from mspipe_triton.kernels import memory_gru, memory_rnn
from tests.kernels.comparing import Tensors
from tests.kernels.runtime.operation_case import OperationCase

TABLES = ("memory", "partner", "features")
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Updater:
    """A memory updater: the public function, torch's cell, its number of gates, and the kernels' variant if any."""

    function: Callable[..., torch.Tensor]
    cell: type[torch.nn.RNNCellBase]
    gates: int
    variant: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    def __str__(self) -> str:
        return "-".join([self.name, *self.variant.values()])


GRU = Updater(memory_gru, torch.nn.GRUCell, 3, {"variant": "fused"})
SPLIT = Updater(memory_gru, torch.nn.GRUCell, 3, {"variant": "split"})
RNN = Updater(memory_rnn, torch.nn.RNNCell, 1)


@dataclass
class Case(OperationCase):
    """Random tables, rows, mails and weights for U nodes, the first `count` of them real."""

    outputs: ClassVar[tuple[str, ...]] = ("h",)
    tables: ClassVar[tuple[str, ...]] = TABLES

    updater: Updater
    nodes: int
    dim: int = 5
    width: int = 3  # of the features
    times: int = 4
    rows: bool = True
    mail: float = 0.7  # share of nodes with mail
    padding: int = 0  # NaNs after every row of a table
    count: int | None = None
    empty: str = "update"

    def __post_init__(self) -> None:
        self.function = self.updater.function
        self.unread = (*TABLES, "h") if self.updater.gates == 3 else TABLES
        self.random = torch.Generator().manual_seed(17 * self.nodes + self.dim)
        self.size = self.nodes + 7 if self.rows else self.nodes  # of the tables
        message, out = 2 * self.dim + self.width + self.times, self.updater.gates * self.dim
        self.leaves = {
            "memory": self.table(self.dim),
            "partner": self.table(self.dim),
            "features": self.table(self.width),
            "frequency": self.normal(self.times).abs(),
            "phase": self.normal(self.times),
            "weight_ih": self.normal(out, message) / message**0.5,
            "weight_hh": self.normal(out, self.dim) / self.dim**0.5,
            "bias_ih": self.normal(out),
            "bias_hh": self.normal(out),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.deltas = self.normal(self.nodes).abs() * 3
        self.has_mail = torch.rand(self.nodes, generator=self.random) < self.mail
        self.picks = [self.pick(torch.ones_like(self.has_mail)), self.pick(self.has_mail), self.pick(self.has_mail)]
        self.probes = (self.normal(self.nodes, self.dim),)

    def table(self, width: int) -> torch.Tensor:
        buffer = torch.full((self.size, width + self.padding), torch.nan, dtype=torch.float64)
        buffer[:, :width] = self.normal(self.size, width)
        return buffer[:, :width]

    def pick(self, mask: torch.Tensor) -> torch.Tensor | None:
        """Draw rows of a table, including -1, which is read as row 0; -1 where the mask is false."""
        return torch.randint(-1, self.size, mask.shape, generator=self.random).where(mask, -1) if self.rows else None

    @property
    def weights(self) -> Tensors:
        return {name: self.leaves[name] for name in WEIGHTS}

    def keywords(self) -> dict[str, Any]:
        kinds = zip(TABLES, ("memory_rows", "partner_rows", "feature_rows"), self.picks, strict=True)
        sources = {key: value for name, rows, pick in kinds for key, value in ((name, self.leaves[name]), (rows, pick))}
        count = None if self.count is None else torch.tensor([self.count])
        arguments = {**sources, "deltas": self.deltas, "has_mail": self.has_mail, **self.leaves}
        return {**arguments, "empty": self.empty, "count": count, **self.updater.variant}

    def expected(self) -> torch.Tensor:
        memory, partner, features = (
            self.leaves[name] if rows is None else self.leaves[name][rows.clamp(min=0)]
            for name, rows in zip(TABLES, self.picks, strict=True)
        )
        encoded = torch.cos(self.deltas[:, None] * self.leaves["frequency"] + self.leaves["phase"])
        message = torch.cat([memory, partner, features, encoded], 1) * self.has_mail[:, None]
        h = cell(self.updater, message, memory, self.weights)
        h = h if self.empty == "update" else torch.where(self.has_mail[:, None], h, memory)
        return h if self.count is None else h * (torch.arange(self.nodes) < self.count)[:, None]


def cell(updater: Updater, message: torch.Tensor, memory: torch.Tensor, weights: Tensors) -> torch.Tensor:
    """Run torch's cell with these weights."""
    module = updater.cell(message.shape[1], memory.shape[1], dtype=torch.float64)
    return torch.func.functional_call(module, weights, (message, memory))
