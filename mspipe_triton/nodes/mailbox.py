"""What a node keeps of the messages it received, and what a batch of events writes; a mailbox of one mail, and none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from mspipe_triton.kernels import aggregate_messages, unique_nodes
from mspipe_triton.nodes.views import MailRows, Sources
from mspipe_triton.placement import Placement


class Record(Protocol):
    """The rows of U nodes, all read at one version: a named tuple with a field for every table, rows [U, …]."""

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the time that memory has once this record's mail is digested; unchanged without mail."""


R = TypeVar("R", bound=Any)


class Table(NamedTuple):
    """A table [N, *shape]: its dtype, None for times, which start as the stream's first, and what others start as."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    empty: int = 0


class Rows(NamedTuple):
    """Whole rows to be written: `nodes` [M], distinct, beside the parts [M, …], which are by name of the table.

    With `each` S > 0 the tables are [N, S, …], seen as [N·S, …], and `nodes` are numbers node·S + slot.
    """

    nodes: torch.Tensor
    parts: dict[str, torch.Tensor]
    each: int = 0


Written = list[Rows]


@dataclass(frozen=True)
class Receivers:
    """Who hears of a batch of B events: V distinct nodes [V], in order of first occurrence, the endpoints' first.

    Mail 2·event goes from the event's source side, 2·event + 1 from its destination's. `last` [V] is the latest mail
    that a receiver gets; `owners`, `mails` [M] are all deliveries, as places among the receivers and numbers of mails.
    """

    nodes: torch.Tensor
    last: torch.Tensor
    owners: torch.Tensor
    mails: torch.Tensor

    @staticmethod
    def of(ends: torch.Tensor, neighbours: torch.Tensor, padded: bool = False) -> Receivers:
        """Of the ends [2B], sources before destinations, and their neighbours [2B, F], −1 in empty slots.

        Padded, it has a static shape: V and M are 2B·(1 + F), −1 fills `nodes`, and mail −1 reaches nobody.
        """
        reached = torch.cat([ends.unsqueeze(1), neighbours], 1)
        number = torch.arange(ends.numel(), device=ends.device).view(-1, 2).t().reshape(-1, 1)
        heard, mails = reached.view(-1), torch.where(reached >= 0, number, -1).view(-1)
        if not padded:
            places = (heard >= 0).nonzero().squeeze(1)
            heard, mails = heard.index_select(0, places), mails.index_select(0, places)
        nodes, owners, count = unique_nodes(heard, heard.numel())
        nodes = nodes if padded else nodes[: int(count)]
        last = torch.zeros_like(nodes).scatter_reduce_(0, owners, mails, "amax")
        return Receivers(nodes, last, owners, mails)

    def on(self, placement: Placement) -> Receivers:
        """The same on the device of a placement."""
        return Receivers(*(placement.load(part) for part in (self.nodes, self.last, self.owners, self.mails)))


@dataclass(frozen=True)
class Interactions:
    """A batch of B consecutive events as a mailbox sees them, on the device.

    Args:
        first: id of the first event; times: [B]; features: [B, E], the events' feature rows.
        nodes: [E] the distinct endpoints, the first of the batch's nodes.
        src_rows, dst_rows: [B] the events' ends among them.
        receivers: who hears of them, where that is more than the endpoints.
    """

    first: int
    times: torch.Tensor
    features: torch.Tensor
    nodes: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    receivers: Receivers | None = None


@dataclass(frozen=True)
class Deliveries:
    """A batch of B events at a static shape, for a mailbox to write where its tables lie; padding has event −1.

    Args:
        events: [B] ids; times: [B]; src, dst: [B] nodes, −1 in padding; src_rows, dst_rows: [B], their rows in h.
        features: [·, E], the stream's edge table.
        receivers: who hears of the events, padded, where that is more than their ends.
    """

    events: torch.Tensor
    times: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    features: torch.Tensor
    receivers: Receivers | None = None


class Mailbox(Protocol[R]):
    """What is kept of a node; `hears` says whether the sampled neighbours of the endpoints get mail too."""

    hears: bool

    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""

    def record(self, rows: dict[str, torch.Tensor]) -> R:
        """The record of rows by name of the table; `mail_features` are there too where there is an `event_id`."""

    def compose(self, record: R, hidden: torch.Tensor | None, events: Interactions, sent: torch.Tensor) -> Written:
        """What a batch writes.

        Args:
            record: of U nodes, the distinct endpoints first; hidden: their h [U, D], if there is memory.
            sent: [N] how many mails a node was sent before, where a table `received` counts them; brought up to date.
        """

    def view(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor,
        dtype: torch.dtype,
    ) -> Record:  # fmt: skip
        """The records of nodes [C] of which `count` [1] are real and the others −1, as rows of tables on the device.

        Args:
            features: [·, E], the stream's edge table. dtype: of time differences.
        """

    def deliver(
        self, tables: Mapping[str, torch.Tensor], record: Any, hidden: torch.Tensor | None, sent: Deliveries
    ) -> None:
        """What `compose` gives, written into the tables; nothing waits for the device."""


class LastMail(NamedTuple):
    """The records of U nodes with one mail each; `mail_features` are the features of the mail's event(s).

    memory [U, D], memory_time [U], partner [U, D], event_id [U] (−1: no mail), mail_time [U], mail_features [U, E].
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    partner: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    mail_features: torch.Tensor

    @property
    def has_mail(self) -> torch.Tensor:
        """[U] bool: the node has received and not yet digested something."""
        return self.event_id >= 0

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the time that memory has once this record's mail is digested; unchanged without mail."""
        return torch.where(self.has_mail, self.mail_time, self.memory_time)

    def sources(self, dtype: torch.dtype) -> Sources:
        """The rows, one a node."""
        deltas = (self.mail_time - self.memory_time).to(dtype)
        return Sources(self.memory, self.partner, None, self.mail_features, None, deltas, self.has_mail, None)


@dataclass(frozen=True)
class CompactMailbox:
    """Memory and one mail a node: the partner's row, the event's id and its time (TGN, JODIE).

    A mail's own half is the node's memory row, so it is not stored; its features are read from the stream's table by
    event id, except under the aggregator "mean", which stores the mean row in `mail_features`.
    """

    dim: int
    dim_edge: int
    dtype: torch.dtype
    aggregator: str = "last"
    hears = False

    def tables(self) -> Mapping[str, Table]:
        """memory, partner [N, D]; memory_time, mail_time [N]; event_id [N], −1 without mail; mail_features [N, E]."""
        row, time = Table((self.dim,), self.dtype), Table((), None)
        tables = {"memory": row, "memory_time": time, "partner": row, "event_id": Table((), torch.int64, -1)}
        tables["mail_time"] = time
        return {**tables, "mail_features": Table((self.dim_edge,), self.dtype)} if self._mean else tables

    def record(self, rows: dict[str, torch.Tensor]) -> LastMail:
        """The record of rows by name."""
        return LastMail(**rows)

    def compose(
        self, record: LastMail, hidden: torch.Tensor | None, events: Interactions, sent: torch.Tensor
    ) -> Written:
        """memory := h of the endpoints, and mail from their events (see `aggregate_messages`)."""
        assert hidden is not None
        endpoints, times, features = events.nodes.numel(), events.times, events.features
        memory, partner = (hidden.new_empty((endpoints, self.dim), dtype=self.dtype) for _ in range(2))
        memory_time, mail_time = (times.new_empty(endpoints) for _ in range(2))
        event_id = record.event_id.new_empty(endpoints)
        ids = torch.arange(events.first, events.first + times.numel(), device=times.device)
        mean = features.new_empty((endpoints, self.dim_edge)) if self._mean else None
        aggregate_messages(
            memory, memory_time, partner, event_id, mail_time, mean, events.src_rows, events.dst_rows, ids, times,
            None if mean is None else features, hidden, record.digested_time, events.src_rows, events.dst_rows,
            self.aggregator,
        )  # fmt: skip
        kept = features.index_select(0, event_id - events.first) if mean is None else mean
        written = LastMail(memory, memory_time, partner, event_id, mail_time, kept)
        return [Rows(events.nodes, written._asdict())]

    def view(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor,
        dtype: torch.dtype,
    ) -> MailRows:  # fmt: skip
        """The nodes' rows where they lie."""
        return MailRows(tables, nodes, count, features, dtype)

    def deliver(
        self, tables: Mapping[str, torch.Tensor], record: Any, hidden: torch.Tensor | None, sent: Deliveries
    ) -> None:
        """Write memory := h of the endpoints and their mail, in one operation."""
        assert hidden is not None
        features = sent.features.index_select(0, sent.events.clamp(min=0)) if self._mean else None
        aggregate_messages(
            tables["memory"], tables["memory_time"], tables["partner"], tables["event_id"], tables["mail_time"],
            tables.get("mail_features"), sent.src, sent.dst, sent.events, sent.times, features, hidden,
            record.digested_time, sent.src_rows, sent.dst_rows, self.aggregator,
        )  # fmt: skip

    @property
    def _mean(self) -> bool:
        return self.aggregator == "mean" and self.dim_edge > 0


class Nothing(NamedTuple):
    """The record of a model without memory."""

    @property
    def digested_time(self) -> torch.Tensor:
        """[0], no times."""
        return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class NoMailbox:
    """Nothing is kept (TGAT)."""

    hears = False

    def tables(self) -> Mapping[str, Table]:
        """None."""
        return {}

    def record(self, rows: dict[str, torch.Tensor]) -> Nothing:
        """The empty record."""
        return Nothing()

    def compose(
        self, record: Nothing, hidden: torch.Tensor | None, events: Interactions, sent: torch.Tensor
    ) -> Written:
        """Nothing is written."""
        return []

    def view(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor,
        dtype: torch.dtype,
    ) -> Nothing:  # fmt: skip
        """The empty record."""
        return Nothing()

    def deliver(
        self, tables: Mapping[str, torch.Tensor], record: Any, hidden: torch.Tensor | None, sent: Deliveries
    ) -> None:
        """Nothing is written."""
