"""Mailbox of several mails per node, in a ring of slots that are filled in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mspipe_triton.kernels import deliver_mails
from mspipe_triton.kernels.mails.mean import Mails, mail_rows, mean_mails
from mspipe_triton.nodes.mailbox import Deliveries, Interactions, Rows, Table, Tables, Writes
from mspipe_triton.nodes.views import MailSources, RingRows


class MailRing(NamedTuple):
    """Records of U nodes with a ring of S mails each; `received` counts all mails so far, which fill the first slots.

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
        """[U] number of slots with a mail, which come first."""
        return self.received.clamp(max=self.mails.shape[1])

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the memory's time after it digests this record's mails; unchanged without mail."""
        return torch.where(self.received > 0, self.mail_time.amax(1), self.memory_time)

    def sources(self) -> MailSources:
        """Input of the mailbox attention, with one row per node."""
        return MailSources(self.mails, None, self.mail_features.flatten(0, 1), None)


@dataclass(frozen=True)
class RingMailbox:
    """Mailbox with memory and the last `slots` mails per node; sampled neighbours of the ends get mail too (APAN).

    A node stores one mail per batch: the latest one ("last"), or the mean of the rows of all, at the latest time
    ("mean"). Mails fill the slots in turn. A slot's features are read by event id, with "mean" from `mail_features`.
    """

    dim: int
    dim_edge: int
    dtype: torch.dtype
    slots: int
    aggregator: str = "last"
    hears = True

    def tables(self) -> Mapping[str, Table]:
        """Tables memory [N, D]; memory_time, received [N]; mails [N, S, 2D]; event_id, mail_time, mail_features."""
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
        """Make the record from rows by name."""
        return MailRing(**rows)

    def compose(
        self, digested: torch.Tensor, hidden: torch.Tensor | None, events: Interactions, mail_counts: torch.Tensor
    ) -> Writes:
        """Compute the writes: memory := h of the endpoints, and a mail in the next slot of every receiver."""
        assert hidden is not None
        assert events.receivers is not None
        receivers, ends = events.receivers, events.nodes.numel()
        memory = {"memory": hidden[:ends].to(self.dtype), "memory_time": digested[:ends]}
        counts = mail_counts.index_select(0, receivers.nodes)
        mail_counts.index_copy_(0, receivers.nodes, counts + 1)
        latest = receivers.last // 2
        if self.aggregator == "mean":
            deliveries = Mails(
                hidden, events.src_rows, events.dst_rows, events.features, receivers.owners, receivers.mails,
                receivers.nodes.numel(),
            )  # fmt: skip
            mails, features = mean_mails(deliveries)
            assert features is not None
        else:
            mails = mail_rows(hidden, events.src_rows, events.dst_rows, receivers.last)
            features = events.features.index_select(0, latest)
        parts = {
            "mails": mails.to(self.dtype),
            "event_id": latest + events.first,
            "mail_time": events.times.index_select(0, latest),
            "mail_features": features.to(self.dtype),
        }
        slots = receivers.nodes * self.slots + counts % self.slots
        return [
            Rows(events.nodes, memory),
            Rows(receivers.nodes, {"received": counts + 1}),
            Rows(slots, parts, self.slots),
        ]

    def view(
        self, tables: Tables, nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor, dtype: torch.dtype
    ) -> RingRows:
        """View the nodes' rows in place."""
        return RingRows(tables, nodes, count, features)

    def deliver(
        self, tables: Tables, digested: torch.Tensor, hidden: torch.Tensor | None, deliveries: Deliveries
    ) -> None:
        """Write memory := h of the endpoints, and a mail in the next slot of every receiver, in one operation."""
        assert hidden is not None
        assert deliveries.receivers is not None
        batch, receivers, mean = deliveries, deliveries.receivers, self.aggregator == "mean"
        features = batch.features.index_select(0, batch.events.clamp(min=0)) if self._mean else None
        deliver_mails(
            tables["memory"], tables["memory_time"], tables["received"], tables["mails"], tables["event_id"],
            tables["mail_time"], tables.get("mail_features"), batch.src, batch.dst, batch.events, batch.times, features,
            hidden, digested, batch.src_rows, batch.dst_rows, receivers.nodes, receivers.last,
            receivers.owners if mean else None, receivers.mails if mean else None, self.aggregator,
        )  # fmt: skip

    @property
    def _mean(self) -> bool:
        return self.aggregator == "mean" and self.dim_edge > 0
