"""Oracles of TGN, with whole messages and projected attention, and of TGAT: node by node, from the equations alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.models.plain_model import Event, PlainModel, Time


class PlainTGN(PlainModel):
    """TGN: GRU memory and layers of attention over recent neighbours; arguments as in `PlainModel`."""

    NAMES: ClassVar[dict[str, str]] = {"updater": "updater.cell"}

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, heads: int, fanout: int, start: Time, layers: int = 1,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(parameters, dim, fanout, start, **options)
        self.heads, self.layers = heads, layers
        self.embedded: dict[tuple[int, int, Time], torch.Tensor] = {}

    def digest(self, node: int) -> torch.Tensor:
        """Apply the GRU cell to the node's whole message, or to zeros."""
        memory, _ = self.memory_of(node)
        message = self.message(node)
        x = (self.parameter("updater", "weight_ih") @ message + self.parameter("updater", "bias_ih")).chunk(3)
        h = (self.parameter("updater", "weight_hh") @ memory + self.parameter("updater", "bias_hh")).chunk(3)
        r, z = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
        n = torch.tanh(x[2] + r * h[2])
        return (1 - z) * n + z * memory

    def logits(self, events: list[Event], negatives: list[list[int]], future: list[Event]) -> torch.Tensor:
        self.embedded = {}
        return super().logits(events, negatives, future)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """z_L(u, t)."""
        return self.layer(self.layers, node, t)

    def layer(self, number: int, node: int, t: Time) -> torch.Tensor:
        """z_l(u, t): attention of z_{l−1}(u, t) over z_{l−1}(v, t_v) of u's neighbours; z_0 is the node's row."""
        if number == 0:
            return self.hidden_row(node)
        if (number, node, t) not in self.embedded:
            self.embedded[number, node, t] = self.attention(number, node, t)
        return self.embedded[number, node, t]

    def attention(self, number: int, node: int, t: Time) -> torch.Tensor:
        name = f"embedding.attention.{number - 1}"
        root, shape = self.layer(number - 1, node, t), (self.heads, self.dim // self.heads)
        rows = [
            torch.cat([self.layer(number - 1, v, t_v), features, self.phi(t - t_v)])
            for v, t_v, features in self.neighbours(node, t)
        ]
        out = torch.zeros(shape, dtype=torch.float64)
        if rows:
            q = self.linear(f"{name}.query", torch.cat([root, self.phi(0)])).view(shape)
            keys = [self.linear(f"{name}.key", x).view(shape) for x in rows]
            out = self.attend(q, keys, [self.linear(f"{name}.value", x).view(shape) for x in rows])
        mixed = self.linear(f"{name}.output", torch.cat([out.reshape(-1), root])).clamp(min=0)
        return self.layer_norm(f"{name}.norm", mixed)


class PlainTGAT(PlainTGN):
    """TGAT: TGN without memory; a node's row is its projected features, or 0."""

    def digest(self, node: int) -> torch.Tensor:
        """A zero, since nothing is remembered."""
        return torch.zeros(self.dim, dtype=torch.float64)
