"""An oracle of APAN, whose mails also go to neighbours: mail by mail, from the equations alone."""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import torch

from tests.models.plain_model import Mail, PlainModel, Time


class PlainAPAN(PlainModel):
    """APAN: attention over a ring of mails updates the memory, which is the embedding; arguments as in `PlainModel`.

    Args:
        slots: mails that a node keeps.
    """

    NAMES: ClassVar[dict[str, str]] = {
        part: f"updater.{part}" for part in ("query", "key", "value", "norm", "hidden", "output", "output_norm")
    }

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, heads: int, fanout: int, start: Time, slots: int,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(parameters, dim, fanout, start, **options)
        self.heads, self.slots = heads, slots

    def mail_count(self, node: int) -> int:
        """Number of written mails that a node has received so far."""
        return len(self.mails.get(node, []))

    def ring(self, node: int) -> list[Mail | None]:
        """A node's mailbox, in which each mail replaces the one that came `slots` mails before it."""
        ring: list[Mail | None] = [None] * self.slots
        for number, mail in enumerate(self.mails.get(node, [])):
            ring[number % self.slots] = mail
        return ring

    def digest(self, node: int) -> torch.Tensor:
        """Apply a transformer block to the filled slots, aged at the batch's first event; attention over none is 0."""
        memory, _ = self.memory_of(node)
        mails = [mail for mail in self.ring(node) if mail is not None]
        shape = (self.heads, self.dim // self.heads)
        context = torch.zeros(shape, dtype=torch.float64)
        if mails:
            rows = [
                torch.cat([mail.sender, mail.partner, mail.features, self.phi(self.now - mail.time)]) for mail in mails
            ]
            keys = [self.linear("key", x).view(shape) for x in rows]
            values = [self.linear("value", x).view(shape) for x in rows]
            context = self.attend(self.linear("query", memory).view(shape) / sqrt(shape[1]), keys, values)
        mixed = self.layer_norm("norm", context.reshape(-1) + memory)
        inner = self.linear("output", self.linear("hidden", mixed).clamp(min=0))
        return self.layer_norm("output_norm", mixed + inner)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """The updated memory itself: news from neighbours has come by mail."""
        return self.hidden_row(node)

    def receivers(self, node: int, t: Time) -> list[int]:
        """The endpoint and its neighbours before the event."""
        return [node, *(neighbour for neighbour, *_ in self.neighbours(node, t))]
