"""Node memory and mailbox: where they live, how rows are read and written beside one another, patched, saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mspipe_triton.kernels import aggregate_messages, patch_rows
from mspipe_triton.placement import Placement


class Record(NamedTuple):
    """The rows of U nodes, all read at one version; `mail_features` are the features of the mail's event(s).

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


class Written(NamedTuple):
    """What an iteration writes: the whole records of its E distinct endpoints.

    nodes [E] beside the record, on its device; the node tables get the same rows at `rows` [E], on the tables' device.
    """

    nodes: torch.Tensor
    rows: torch.Tensor
    record: Record


@dataclass
class NodeState:
    """One record a node: memory row, its time, and the compact mailbox (partner row, event id, mail time).

    A mail's own half is the node's memory row, so it is not stored; its features are read from the stream's table by
    event id, except under the "mean" aggregator, which stores the mean row in `mail_features`.

    One thread may write while another reads. Writes are published before they begin and counted when they begin and
    when they end, so a read knows which of them it may have met half done, and lays those whole over what it got: a
    record is always that of one version, the number of writes it contains.

    Args:
        memory, partner: [N, D]; memory_time, mail_time: [N]; event_id: [N] int64; mail_features: [N, E] or None.
        start: the stream's first time, which all times are reset to.
        placement: where rows go when they are read.
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    partner: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    mail_features: torch.Tensor | None
    start: torch.Tensor
    placement: Placement
    begun: int = 0
    ended: int = 0
    published: dict[int, Written] = field(default_factory=dict)

    @staticmethod
    def create(
        num_nodes: int, dim: int, start: torch.Tensor, dtype: torch.dtype, dim_mail_features: int = 0,
        placement: Placement | None = None,
    ) -> NodeState:  # fmt: skip
        """An empty state of N nodes; `start` [] is the stream's first time, `dim_mail_features` is for "mean"."""
        placement = placement or Placement()
        state = NodeState(
            placement.pin(torch.empty(num_nodes, dim, dtype=dtype)),
            placement.pin(start.new_empty(num_nodes)),
            placement.pin(torch.empty(num_nodes, dim, dtype=dtype)),
            placement.pin(torch.empty(num_nodes, dtype=torch.int64)),
            placement.pin(start.new_empty(num_nodes)),
            placement.pin(torch.empty(num_nodes, dim_mail_features, dtype=dtype)) if dim_mail_features else None,
            start,
            placement,
        )
        state.reset()
        return state

    def reset(self) -> None:
        """Forget everything: memory and mail 0, no event, all times the stream's first. Nothing may be under way."""
        for table in self._tables().values():
            table.zero_()
        self.memory_time.fill_(self.start)
        self.mail_time.fill_(self.start)
        self.event_id.fill_(-1)
        self.settle()

    def settle(self) -> None:
        """Count writes from 0 again; nothing may be under way."""
        self.begun = self.ended = 0
        self.published.clear()

    def fetch(self, nodes: torch.Tensor, features: torch.Tensor) -> Record:
        """Read the records of `nodes` [U]; `features` [·, E] is the stream's edge table (E may be 0).

        Beside writes of another thread, `read` is what gives whole records.
        """
        events = self.event_id.index_select(0, nodes)
        if self.mail_features is not None:
            mail_features = self.placement.gather(self.mail_features, nodes)
        elif features.shape[1]:
            mail_features = self.placement.gather(features, events.clamp(min=0))
        else:
            mail_features = self.placement.load(features.new_zeros((nodes.numel(), 0)))
        return Record(
            self.placement.gather(self.memory, nodes),
            self.placement.gather(self.memory_time, nodes),
            self.placement.gather(self.partner, nodes),
            self.placement.load(events),
            self.placement.gather(self.mail_time, nodes),
            mail_features,
        )

    def read(self, nodes: torch.Tensor, on_device: torch.Tensor, features: torch.Tensor) -> tuple[Record, int]:
        """The records of `nodes` [U] at one version, and that version: the number of writes that they contain.

        Args:
            nodes: on the tables' device; `on_device` are the same beside the record that is returned.
            features: [·, E], the stream's edge table.
        """
        whole = self.ended
        record = self.fetch(nodes, features)
        version = self.begun
        self.patch(record, on_device, whole, version)
        return record, version

    def read_memory(self, nodes: torch.Tensor) -> torch.Tensor:
        """The memory rows [M, D] of `nodes` [M] alone, whole as in `read`, on the tables' device."""
        whole = self.ended
        rows = self.memory.index_select(0, nodes)
        for write in range(whole, self.begun):
            fresh = self.published[write]
            patch_rows([rows], nodes, [self.placement.store(fresh.record.memory)], fresh.rows)
        return rows

    def patch(self, record: Record, nodes: torch.Tensor, version: int, upto: int) -> None:
        """Bring records of `nodes` [U] from a version to a later one, in place, from what was published."""
        for write in range(version, upto):
            fresh = self.published[write]
            patch_rows(list(record), nodes, list(fresh.record), fresh.nodes)

    def compose(
        self, record: Record, hidden: torch.Tensor, nodes: torch.Tensor, rows: torch.Tensor,
        src_rows: torch.Tensor, dst_rows: torch.Tensor, first_event: int, times: torch.Tensor,
        features: torch.Tensor, aggregator: str,
    ) -> Written:  # fmt: skip
        """What a batch of B consecutive events writes: memory := h, mail from its events (see `aggregate_messages`).

        Args:
            record: of U nodes, the E distinct endpoints first; hidden: their h [U, D].
            nodes, rows: [E] the endpoints, on the record's device and on the tables'.
            src_rows, dst_rows: [B] the events' endpoints among the E; first_event: id of the first.
            times: [B]; features: [B, E] the events' feature rows.
        """
        endpoints = nodes.numel()
        memory, partner = (hidden.new_empty((endpoints, hidden.shape[1])) for _ in range(2))
        memory_time, mail_time = (times.new_empty(endpoints) for _ in range(2))
        event_id = record.event_id.new_empty(endpoints)
        event_ids = torch.arange(first_event, first_event + times.numel(), device=times.device)
        mean = None if self.mail_features is None else features.new_empty((endpoints, features.shape[1]))
        aggregate_messages(
            memory, memory_time, partner, event_id, mail_time, mean, src_rows, dst_rows, event_ids, times,
            None if mean is None else features, hidden, record.digested_time, src_rows, dst_rows, aggregator,
        )  # fmt: skip
        kept = features.index_select(0, event_id - first_event) if mean is None else mean
        return Written(nodes, rows, Record(memory, memory_time, partner, event_id, mail_time, kept))

    def publish(self, number: int, written: Written) -> None:
        """Make the write with this number known to readers, before it begins."""
        self.published[number] = written

    def write(self, number: int) -> None:
        """Carry a published write out; writes come one after the other, by number from 0."""
        written = self.published[number]
        tables = self._tables().values()
        parts = [self.placement.store(part) for part, _ in zip(written.record, tables, strict=False)]
        self.begun = number + 1
        for table, part in zip(tables, parts, strict=True):
            table.index_copy_(0, written.rows, part)
        self.ended = number + 1

    def forget(self, version: int) -> None:
        """Drop what was published below a version, which no patch will start from any more."""
        for number in [number for number in list(self.published) if number < version]:
            del self.published[number]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tables by name, for a checkpoint."""
        return self._tables()

    def load_state_dict(self, tables: dict[str, torch.Tensor]) -> None:
        """Copy saved tables into these, in place."""
        for name, table in self._tables().items():
            table.copy_(tables[name])

    def _tables(self) -> dict[str, torch.Tensor]:
        tables = {
            "memory": self.memory,
            "memory_time": self.memory_time,
            "partner": self.partner,
            "event_id": self.event_id,
            "mail_time": self.mail_time,
        }
        return tables if self.mail_features is None else {**tables, "mail_features": self.mail_features}
