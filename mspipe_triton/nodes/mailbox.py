"""Mailboxes: the records of nodes and the writes of a batch of events; a mailbox of one mail, and one for no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from mspipe_triton.kernels import aggregate_messages, unique_nodes
from mspipe_triton.nodes.views import MailRows, Sources
from mspipe_triton.placement import Placement


class Record(Protocol):
    """Rows of U nodes, all read at one version: a named tuple with a field [U, …] for every table."""

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the memory's time after it digests this record's mail; unchanged without mail."""


R = TypeVar("R", bound=Any)
R_co = TypeVar("R_co", bound=Any, covariant=True)
Tables = Mapping[str, torch.Tensor]


class Table(NamedTuple):
    """A table [N, *shape] of a dtype, filled with `empty` at first; dtype None is for times, filled with the first."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    empty: int = 0


class Rows(NamedTuple):
    """Whole rows to write: distinct `nodes` [M], and for every table, by name, the part [M, …].

    With `each` S > 0 the tables [N, S, …] are viewed as [N·S, …], and `nodes` are numbers node·S + slot.
    """

    nodes: torch.Tensor
    parts: dict[str, torch.Tensor]
    each: int = 0


Writes = list[Rows]


@dataclass(frozen=True)
class Receivers:
    """Receivers of a batch's mail: V distinct nodes [V], in order of first occurrence, the endpoints' first.

    Event i of the batch sends mail 2i from its source and mail 2i + 1 from its destination. `last` [V] is the latest
    mail of each receiver; `owners`, `mails` [M] are all deliveries, as positions among the receivers and mail numbers.
    """

    nodes: torch.Tensor
    last: torch.Tensor
    owners: torch.Tensor
    mails: torch.Tensor

    @staticmethod
    def of(ends: torch.Tensor, neighbours: torch.Tensor, padded: bool = False) -> Receivers:
        """Build from the ends [2B], sources before destinations, and their neighbours [2B, F], −1 in empty slots.

        The padded form has a static shape: V and M are 2B·(1 + F), −1 fills `nodes`, and mail −1 has no receiver.
        """
        grid = torch.cat([ends.unsqueeze(1), neighbours], 1)
        number = torch.arange(ends.numel(), device=ends.device).view(-1, 2).t().reshape(-1, 1)
        targets, mails = grid.view(-1), torch.where(grid >= 0, number, -1).view(-1)
        if not padded:
            places = (targets >= 0).nonzero().squeeze(1)
            targets, mails = targets.index_select(0, places), mails.index_select(0, places)
        nodes, owners, count = unique_nodes(targets, targets.numel())
        nodes = nodes if padded else nodes[: int(count)]
        last = torch.zeros_like(nodes).scatter_reduce_(0, owners, mails, "amax")
        return Receivers(nodes, last, owners, mails)

    def on(self, placement: Placement) -> Receivers:
        """Copy the receivers to the device of a placement."""
        return Receivers(*(placement.load(part) for part in (self.nodes, self.last, self.owners, self.mails)))


@dataclass(frozen=True)
class Interactions:
    """A batch of B consecutive events, in the form that `Mailbox.compose` reads, on the device.

    Args:
        first: id of the first event; times: [B]; features: [B, E], the events' feature rows.
        nodes: [E] the distinct endpoints, the first of the batch's nodes.
        src_rows, dst_rows: [B] positions of the events' ends among the endpoints.
        receivers: the receivers of mail, if not only the endpoints.
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
    """A batch of B events at a static shape, in the form that `Mailbox.deliver` reads; padding has event −1.

    Args:
        events: [B] ids; times: [B]; src, dst: [B] nodes, −1 in padding; src_rows, dst_rows: [B], their rows in h.
        features: [·, E], the stream's edge table.
        receivers: the receivers of mail, padded, if not only the events' ends.
    """

    events: torch.Tensor
    times: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    features: torch.Tensor
    receivers: Receivers | None = None


class Mailbox(Protocol[R_co]):
    """Layout and writes of the nodes' records; `hears` is True if sampled neighbours of the endpoints get mail too."""

    hears: bool

    def tables(self) -> Mapping[str, Table]:
        """Tables by name."""

    def record(self, rows: dict[str, torch.Tensor]) -> R_co:
        """Make the record from rows by name of the table; `mail_features` are included if there is an `event_id`."""

    def compose(
        self, digested: torch.Tensor, hidden: torch.Tensor | None, events: Interactions, mail_counts: torch.Tensor
    ) -> Writes:
        """Compute the writes of a batch.

        Args:
            digested: [U], the `digested_time` of the records of U nodes, the distinct endpoints first.
            hidden: their h [U, D], if there is memory.
            mail_counts: [N] mails sent to each node so far, if a table `received` counts them; updated in place.
        """

    def view(
        self, tables: Tables, nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor, dtype: torch.dtype
    ) -> Record:
        """View the records of nodes [C], the first `count` [1] real and the others −1, as rows of the device's tables.

        Args:
            features: [·, E], the stream's edge table. dtype: of time differences.
        """

    def deliver(
        self, tables: Tables, digested: torch.Tensor, hidden: torch.Tensor | None, deliveries: Deliveries
    ) -> None:
        """Write into the tables what `compose` returns; the U nodes are in any order, and nothing waits."""


class LastMail(NamedTuple):
    """Records of U nodes with one mail each; `mail_features` are the features of the mail's event(s).

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
        """[U] bool: the node has mail that it has not digested yet."""
        return self.event_id >= 0

    @property
    def digested_time(self) -> torch.Tensor:
        """[U] the memory's time after it digests this record's mail; unchanged without mail."""
        return torch.where(self.has_mail, self.mail_time, self.memory_time)

    def sources(self, dtype: torch.dtype) -> Sources:
        """Input of a memory updater, with one row per node."""
        deltas = (self.mail_time - self.memory_time).to(dtype)
        return Sources(self.memory, self.partner, None, self.mail_features, None, deltas, self.has_mail, None)


@dataclass(frozen=True)
class CompactMailbox:
    """Mailbox with memory and one mail per node: the partner's row, the event's id and its time (TGN, JODIE).

    The other half of a mail is the node's own memory row, so it is not stored. A mail's features are read from the
    stream's table by event id, except with aggregator "mean", which stores the mean row in `mail_features`.
    """

    dim: int
    dim_edge: int
    dtype: torch.dtype
    aggregator: str = "last"
    hears = False

    def tables(self) -> Mapping[str, Table]:
        """Tables memory, partner [N, D]; memory_time, mail_time [N]; event_id [N], −1 without mail; mail_features."""
        row, time = Table((self.dim,), self.dtype), Table((), None)
        tables = {"memory": row, "memory_time": time, "partner": row, "event_id": Table((), torch.int64, -1)}
        tables["mail_time"] = time
        return {**tables, "mail_features": Table((self.dim_edge,), self.dtype)} if self._mean else tables

    def record(self, rows: dict[str, torch.Tensor]) -> LastMail:
        """Make the record from rows by name."""
        return LastMail(**rows)

    def compose(
        self, digested: torch.Tensor, hidden: torch.Tensor | None, events: Interactions, mail_counts: torch.Tensor
    ) -> Writes:
        """Compute the writes: memory := h of the endpoints, and mail of their events (see `aggregate_messages`)."""
        assert hidden is not None
        endpoints, times, features = events.nodes.numel(), events.times, events.features
        memory, partner = (hidden.new_empty((endpoints, self.dim), dtype=self.dtype) for _ in range(2))
        memory_time, mail_time = (times.new_empty(endpoints) for _ in range(2))
        event_id = events.src_rows.new_empty(endpoints)
        ids = torch.arange(events.first, events.first + times.numel(), device=times.device)
        mean = features.new_empty((endpoints, self.dim_edge)) if self._mean else None
        aggregate_messages(
            memory, memory_time, partner, event_id, mail_time, mean, events.src_rows, events.dst_rows, ids, times,
            None if mean is None else features, hidden, digested, events.src_rows, events.dst_rows,
            self.aggregator,
        )  # fmt: skip
        mail_features = features.index_select(0, event_id - events.first) if mean is None else mean
        parts = LastMail(memory, memory_time, partner, event_id, mail_time, mail_features)
        return [Rows(events.nodes, parts._asdict())]

    def view(
        self, tables: Tables, nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor, dtype: torch.dtype
    ) -> MailRows:
        """View the nodes' rows in place."""
        return MailRows(tables, nodes, count, features, dtype)

    def deliver(
        self, tables: Tables, digested: torch.Tensor, hidden: torch.Tensor | None, deliveries: Deliveries
    ) -> None:
        """Write memory := h of the endpoints and their mail, in one operation."""
        assert hidden is not None
        batch = deliveries
        features = batch.features.index_select(0, batch.events.clamp(min=0)) if self._mean else None
        aggregate_messages(
            tables["memory"], tables["memory_time"], tables["partner"], tables["event_id"], tables["mail_time"],
            tables.get("mail_features"), batch.src, batch.dst, batch.events, batch.times, features, hidden,
            digested, batch.src_rows, batch.dst_rows, self.aggregator,
        )  # fmt: skip

    @property
    def _mean(self) -> bool:
        return self.aggregator == "mean" and self.dim_edge > 0


class Nothing(NamedTuple):
    """Record of a model without memory."""

    @property
    def digested_time(self) -> torch.Tensor:
        """Empty tensor [0]."""
        return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class NoMailbox:
    """Mailbox of a model without memory (TGAT)."""

    hears = False

    def tables(self) -> Mapping[str, Table]:
        """Return no tables."""
        return {}

    def record(self, rows: dict[str, torch.Tensor]) -> Nothing:
        """Return the empty record."""
        return Nothing()

    def compose(
        self, digested: torch.Tensor, hidden: torch.Tensor | None, events: Interactions, mail_counts: torch.Tensor
    ) -> Writes:
        """Return no writes."""
        return []

    def view(
        self, tables: Tables, nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor, dtype: torch.dtype
    ) -> Nothing:
        """Return the empty record."""
        return Nothing()

    def deliver(
        self, tables: Tables, digested: torch.Tensor, hidden: torch.Tensor | None, deliveries: Deliveries
    ) -> None:
        """Write nothing."""
