"""An oracle: APAN with mailboxes that neighbours receive too, mail by mail, from the equations alone."""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import torch

from tests.models.plain_model import Mail, PlainModel, Time


class PlainAPAN(PlainModel):
    """Attention over a ring of mails updates the memory, which is the embedding; arguments as in `PlainModel`.

    Args:
        slots: how many mails a node keeps.
    """

    NAMES: ClassVar[dict[str, str]] = {
        part: f"updater.{part}" for part in ("query", "key", "value", "norm", "hidden", "output", "output_norm")
    }

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, heads: int, fanout: int, start: Time, slots: int,
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(parameters, dim, fanout, start, **shared)
        self.heads, self.slots = heads, slots

    def received(self, node: int) -> int:
        """How many mails a node has got so far, of those that are written."""
        return len(self.mails.get(node, []))

    def ring(self, node: int) -> list[Mail | None]:
        """A node's mailbox: each mail lies where the one that came `slots` before it lay."""
        ring: list[Mail | None] = [None] * self.slots
        for number, mail in enumerate(self.mails.get(node, [])):
            ring[number % self.slots] = mail
        return ring

    def digest(self, node: int) -> torch.Tensor:
        """A transformer's block on the filled slots, aged by the batch's first event; attention is 0 without any."""
        memory, _ = self.memory_of(node)
        mails = [mail for mail in self.ring(node) if mail is not None]
        shape = (self.heads, self.dim // self.heads)
        context = torch.zeros(shape, dtype=torch.float64)
        if mails:
            rows = [torch.cat([mail.own, mail.other, mail.features, self.phi(self.now - mail.time)]) for mail in mails]
            keys = [self.linear("key", x).view(shape) for x in rows]
            values = [self.linear("value", x).view(shape) for x in rows]
            context = self.attended(self.linear("query", memory).view(shape) / sqrt(shape[1]), keys, values)
        mixed = self.normed("norm", context.reshape(-1) + memory)
        inner = self.linear("output", self.linear("hidden", mixed).clamp(min=0))
        return self.normed("output_norm", mixed + inner)

    def embed(self, node: int, t: Time) -> torch.Tensor:
        """The updated memory itself: what neighbours know has come by mail."""
        return self.row(node)

    def receivers(self, node: int, t: Time) -> list[int]:
        """The end and its neighbours before the event."""
        return [node, *(neighbour for neighbour, *_ in self.neighbours(node, t))]
