"""The mailbox of several mails a node, a ring of slots that are filled in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mspipe_triton.mailbox import Interactions, Receivers, Rows, Table, Written


class MailRing(NamedTuple):
    """The records of U nodes with a ring of S mails each, of which `received` so far fill the first slots.

    memory [U, D], memory_time [U], received [U], mails [U, S, 2D] (the sending end's row, then the other's), event_id
    and mail_time [U, S], mail_features [U, S, E].
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    received: torch.Tensor
    mails: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    mail_features: torch.Tensor

    @property
    def filled(self) -> torch.Tensor:
        """[U] how many slots hold a mail; they come first."""
        return self.received.clamp(max=self.mails.shape[1])

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the time that memory has once this record's mails are digested; unchanged without mail."""
        return torch.where(self.received > 0, self.mail_time.amax(1), self.memory_time)


@dataclass(frozen=True)
class RingMailbox:
    """Memory and the last `slots` mails a node, which the sampled neighbours of an event's ends get too (APAN).

    A node keeps one mail of a batch: of several the latest one ("last"), or the mean of their rows at the latest time
    ("mean"). Mails fill the slots in turn. A slot's features are read by event id, under "mean" from `mail_features`.
    """

    dim: int
    dim_edge: int
    dtype: torch.dtype
    slots: int
    aggregator: str = "last"
    hears = True

    def tables(self) -> Mapping[str, Table]:
        """memory [N, D]; memory_time, received [N]; mails [N, S, 2D]; event_id, mail_time [N, S]; mail_features."""
        tables = {
            "memory": Table((self.dim,), self.dtype),
            "memory_time": Table((), None),
            "received": Table((), torch.int64),
            "mails": Table((self.slots, 2 * self.dim), self.dtype),
            "event_id": Table((self.slots,), torch.int64, -1),
            "mail_time": Table((self.slots,), None),
        }
        return {**tables, "mail_features": Table((self.slots, self.dim_edge), self.dtype)} if self._mean else tables

    def record(self, rows: dict[str, torch.Tensor]) -> MailRing:
        """The record of rows by name."""
        return MailRing(**rows)

    def compose(
        self, record: MailRing, hidden: torch.Tensor | None, events: Interactions, sent: torch.Tensor
    ) -> Written:
        """memory := h of the endpoints, and a mail in the next slot of everyone who hears of the events."""
        assert hidden is not None
        assert events.receivers is not None
        heard = events.receivers
        ends = events.nodes.numel()
        own = Rows(events.nodes, {"memory": hidden[:ends], "memory_time": record.digested_time[:ends]})
        before = sent.index_select(0, heard.nodes)
        sent.index_copy_(0, heard.nodes, before + 1)
        latest = heard.last // 2
        if self.aggregator == "mean":
            mails, features = self._means(hidden, events, heard)
        else:
            mails, features = _rows_of(hidden, events, heard.last), events.features.index_select(0, latest)
        parts = {
            "mails": mails,
            "event_id": latest + events.first,
            "mail_time": events.times.index_select(0, latest),
            "mail_features": features,
        }
        slots = heard.nodes * self.slots + before % self.slots
        return [own, Rows(heard.nodes, {"received": before + 1}), Rows(slots, parts, self.slots)]

    def _means(self, hidden: torch.Tensor, events: Interactions, heard: Receivers) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean rows [V, 2D] and mean feature rows [V, E] of every receiver's deliveries."""
        number = torch.zeros_like(heard.nodes).index_add_(0, heard.owners, torch.ones_like(heard.owners)).unsqueeze(1)

        def mean(rows: torch.Tensor) -> torch.Tensor:
            return rows.new_zeros((number.numel(), rows.shape[1])).index_add_(0, heard.owners, rows) / number

        return mean(_rows_of(hidden, events, heard.mails)), mean(events.features.index_select(0, heard.mails // 2))

    @property
    def _mean(self) -> bool:
        return self.aggregator == "mean" and self.dim_edge > 0


def _rows_of(hidden: torch.Tensor, events: Interactions, mails: torch.Tensor) -> torch.Tensor:
    """The rows [M, 2D] of mails [M]: h of the end that it comes from, then of the other."""
    ends = torch.stack([events.src_rows, events.dst_rows], 1).view(-1)
    pair = torch.stack([ends.index_select(0, mails), ends.index_select(0, mails ^ 1)], 1)
    return hidden.index_select(0, pair.view(-1)).view(mails.numel(), -1)
