"""Runs of PyG's memory or of this package's, step by step, with every output kept by name."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, TGNMemory

from bench.studies.peer_pyg import FixedAggregator
from mspipe_triton.kernels.pyg import FusedTGNMemory

Memory = FusedTGNMemory | TGNMemory
Event = tuple[int, int, int]
NODES, WIDTH, DIM, TIMES = 5, 2, 3, 4


def build_memory(kind: str, widths: tuple[int, int, int, int] = (NODES, WIDTH, DIM, TIMES)) -> Memory:
    """Build a memory of widths (nodes, raw message, memory, time) with the parameters of seed 0."""
    torch.manual_seed(0)
    message = IdentityMessage(*widths[1:]) if widths[1] else None
    if kind == "fused":
        memory = FusedTGNMemory(*widths, message_module=message, aggregator_module=LastAggregator())
    else:
        memory = TGNMemory(*widths, message, FixedAggregator() if kind == "fixed" else LastAggregator())
    memory.double()
    memory.reset_state()  # PyG's empty messages keep the dtype of their creation
    return memory


class Run:
    """A memory and its outputs by name: every tensor that a step returned or wrote, and gradients."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.outputs: dict[str, torch.Tensor] = {}
        self.random = torch.Generator().manual_seed(3)
        self.loss = torch.zeros((), dtype=torch.float64)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random).to(self.memory.memory.dtype)

    def note(self, label: str, *values: torch.Tensor) -> None:
        for value in values:
            self.outputs[f"{len(self.outputs)} {label}"] = value.detach().clone()

    def update(self, events: list[Event]) -> None:
        src, dst, t = torch.tensor(events).unbind(1)
        self.memory.update_state(src, dst, t, self.normal(len(events), self.memory.raw_msg_dim))
        self.note("state", self.memory.memory, self.memory.last_update)

    def read(self, nodes: list[int]) -> None:
        h, times = self.memory(torch.tensor(nodes))
        self.loss = self.loss + (h * self.normal(*h.shape)).sum()
        self.note("read", h, times)

    def backward(self) -> None:
        if self.loss.requires_grad:
            self.memory.zero_grad()
            self.loss.backward()
            for name, value in self.memory.named_parameters():
                self.note(f"gradient of {name}", torch.zeros_like(value) if value.grad is None else value.grad)
        self.memory.detach()
        self.loss = torch.zeros_like(self.loss, requires_grad=False)

    def step(self, name: str, argument: Any = None) -> None:
        if name == "reset":
            self.backward()
            self.memory.reset_state()
        elif name == "switch":
            self.memory.train(not self.memory.training)
            self.note("state", self.memory.memory, self.memory.last_update)
        else:
            {"update": self.update, "read": self.read, "backward": lambda _: self.backward()}[name](argument)
