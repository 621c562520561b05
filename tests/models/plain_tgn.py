"""An oracle: TGN with a full mailbox and projected attention, node by node, from the equations alone; and TGAT."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.models.plain_model import Event, PlainModel, Time


class PlainTGN(PlainModel):
    """GRU memory and layers of attention over recent neighbours; arguments as in `PlainModel`."""

    NAMES: ClassVar[dict[str, str]] = {"updater": "updater.cell"}

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, heads: int, fanout: int, start: Time, layers: int = 1,
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(parameters, dim, fanout, start, **shared)
        self.heads, self.layers = heads, layers
        self.embedded: dict[tuple[int, int, Time], torch.Tensor] = {}

    def digest(self, node: int) -> torch.Tensor:
        """The GRU cell on the node's full mail, or on zeros."""
        memory, _ = self.memory_of(node)
        message = self.message(node)
        given = (self.parameter("updater", "weight_ih") @ message + self.parameter("updater", "bias_ih")).chunk(3)
        own = (self.parameter("updater", "weight_hh") @ memory + self.parameter("updater", "bias_hh")).chunk(3)
        r, z = torch.sigmoid(given[0] + own[0]), torch.sigmoid(given[1] + own[1])
        n = torch.tanh(given[2] + r * own[2])
        return (1 - z) * n + z * memory

    def logits(
        self, events: list[Event], negatives: list[int], future: list[Event]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.embedded = {}
        return super().logits(events, negatives, future)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """z_L(u, t)."""
        return self.layer(self.layers, node, t)

    def layer(self, number: int, node: int, t: Time) -> torch.Tensor:
        """z_l(u, t), z_0 being the node's row: attention of z_{l−1}(u, t) over z_{l−1}(v, t_v) of u's neighbours."""
        if number == 0:
            return self.row(node)
        if (number, node, t) not in self.embedded:
            self.embedded[number, node, t] = self.attention(number, node, t)
        return self.embedded[number, node, t]

    def attention(self, number: int, node: int, t: Time) -> torch.Tensor:
        name = f"embedding.attention.{number - 1}"
        root, shape = self.layer(number - 1, node, t), (self.heads, self.dim // self.heads)
        rows = [
            torch.cat([self.layer(number - 1, v, when), features, self.phi(t - when)])
            for v, when, features in self.neighbours(node, t)
        ]
        out = torch.zeros(shape, dtype=torch.float64)
        if rows:
            q = self.linear(f"{name}.query", torch.cat([root, self.phi(0)])).view(shape)
            keys = [self.linear(f"{name}.key", x).view(shape) for x in rows]
            out = self.attended(q, keys, [self.linear(f"{name}.value", x).view(shape) for x in rows])
        mixed = self.linear(f"{name}.output", torch.cat([out.reshape(-1), root])).clamp(min=0)
        return self.normed(f"{name}.norm", mixed)


class PlainTGAT(PlainTGN):
    """The same without memory: a node's row is its projected features, or 0."""

    def digest(self, node: int) -> torch.Tensor:
        """Nothing is remembered."""
        return torch.zeros(self.dim, dtype=torch.float64)
