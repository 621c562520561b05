"""The mailbox of several mails a node, a ring of slots that are filled in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mspipe_triton.mailbox import Deliveries, Interactions, Receivers, Rows, Table, Written
from mspipe_triton.precision import widened
from mspipe_triton.table_rows import MailSources, RingRows


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

    def sources(self) -> MailSources:
        """The rows, one a node."""
        return MailSources(self.mails, None, self.mail_features.flatten(0, 1), None)


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
        own = Rows(events.nodes, {"memory": hidden[:ends].to(self.dtype), "memory_time": record.digested_time[:ends]})
        before = sent.index_select(0, heard.nodes)
        sent.index_copy_(0, heard.nodes, before + 1)
        latest = heard.last // 2
        if self.aggregator == "mean":
            mails, features = _means(hidden, events, events.features, heard)
        else:
            mails, features = _rows_of(hidden, events, heard.last), events.features.index_select(0, latest)
        parts = {
            "mails": mails.to(self.dtype),
            "event_id": latest + events.first,
            "mail_time": events.times.index_select(0, latest),
            "mail_features": features.to(self.dtype),
        }
        slots = heard.nodes * self.slots + before % self.slots
        return [own, Rows(heard.nodes, {"received": before + 1}), Rows(slots, parts, self.slots)]

    def view(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor,
        dtype: torch.dtype,
    ) -> RingRows:  # fmt: skip
        """The nodes' rows where they lie."""
        return RingRows(tables, nodes, count, features)

    def deliver(
        self, tables: Mapping[str, torch.Tensor], record: Any, hidden: torch.Tensor | None, sent: Deliveries
    ) -> None:
        """Write memory := h of the endpoints, and a mail in the next slot of everyone who hears of the events.

        Padding writes once more what the first endpoint, or receiver, has: whoever comes last, the bits are the same.
        """
        assert hidden is not None
        assert sent.receivers is not None
        heard = sent.receivers
        ends, rows = torch.cat([sent.src, sent.dst]), torch.cat([sent.src_rows, sent.dst_rows])
        rows, ends = _repeated(rows, ends), _repeated(ends, ends)
        tables["memory"].index_copy_(0, ends, hidden.index_select(0, rows).to(tables["memory"].dtype))
        tables["memory_time"].index_copy_(0, ends, record.digested_time.index_select(0, rows))
        to, last = _repeated(heard.nodes, heard.nodes), _repeated(heard.last, heard.nodes)
        before = tables["received"].index_select(0, to)
        tables["received"].index_copy_(0, to, before + 1)
        latest = last // 2
        events = sent.events.index_select(0, latest)
        parts = {"event_id": events, "mail_time": sent.times.index_select(0, latest)}
        if self.aggregator == "mean":
            features = sent.features.index_select(0, sent.events.clamp(min=0))
            mails, mean = _means(hidden, sent, features, heard, heard.mails >= 0)
            parts["mails"] = _repeated(mails, heard.nodes)
            if self._mean:
                parts["mail_features"] = _repeated(mean, heard.nodes)
        else:
            parts["mails"] = _rows_of(hidden, sent, last)
        slots = to * self.slots + before % self.slots
        for name, part in parts.items():
            table = tables[name].flatten(0, 1)
            table.index_copy_(0, slots, part.to(table.dtype))

    @property
    def _mean(self) -> bool:
        return self.aggregator == "mean" and self.dim_edge > 0


def _means(
    hidden: torch.Tensor, ends: Interactions | Deliveries, features: torch.Tensor, heard: Receivers,
    real: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Mean rows [V, 2D] and mean feature rows [V, E] of a receiver's deliveries, of the `real` ones [M] if given."""
    mails = heard.mails if real is None else heard.mails.clamp(min=0)
    ones = torch.ones_like(heard.owners) if real is None else real.long()
    number = torch.zeros_like(heard.nodes).index_add_(0, heard.owners, ones).clamp_(min=1).unsqueeze(1)

    def mean(rows: torch.Tensor) -> torch.Tensor:
        rows = rows if real is None else torch.where(real.unsqueeze(1), rows, 0)
        return rows.new_zeros((number.numel(), rows.shape[1])).index_add_(0, heard.owners, rows) / number

    return mean(_rows_of(hidden, ends, mails)), mean(widened(features.index_select(0, mails // 2), hidden.dtype))


def _rows_of(hidden: torch.Tensor, ends: Interactions | Deliveries, mails: torch.Tensor) -> torch.Tensor:
    """The rows [M, 2D] of mails [M]: h of the end that it comes from, then of the other."""
    rows = torch.stack([ends.src_rows, ends.dst_rows], 1).view(-1)
    pair = torch.stack([rows.index_select(0, mails), rows.index_select(0, mails ^ 1)], 1)
    return hidden.index_select(0, pair.view(-1)).view(mails.numel(), -1)


def _repeated(values: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Values [V, …] with the first one in the place of those of padding, where `nodes` [V] is −1."""
    real = (nodes >= 0).view(-1, *[1] * (values.dim() - 1))
    return torch.where(real, values, values[:1])
