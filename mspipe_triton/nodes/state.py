"""Tables of node state: concurrent reads and writes of their rows, patches, and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

import torch

from mspipe_triton.kernels import patch_rows
from mspipe_triton.nodes.mailbox import Interactions, Mailbox, R, Rows, Writes
from mspipe_triton.placement import Placement, RowTable


@dataclass
class NodeState(Generic[R]):
    """Tables of a mailbox, with one record per node.

    One thread may write while another reads. Writes are published before they begin, and counted when they begin and
    when they end. A read therefore knows which writes it may have seen in part, and patches its rows with them whole: a
    record is always of one version, which is the number of writes it contains.

    Args:
        mailbox: defines the tables and the writes of a batch.
        tables: by name, [N, …] each; `sent` [N] int64 counts every node's mails as soon as they are composed.
        start: the stream's first time, to which all times are reset.
        placement: place of the tables and of the rows that are read.
        base: nodes [M] and their rows of every table, to which `reset` returns; None for an empty state.
    """

    mailbox: Mailbox[R]
    tables: dict[str, torch.Tensor]
    sent: torch.Tensor
    start: torch.Tensor
    placement: Placement
    base: tuple[torch.Tensor, Mapping[str, torch.Tensor]] | None = None
    begun: int = 0
    ended: int = 0
    published: dict[int, Writes] = field(default_factory=dict)

    @staticmethod
    def create(
        mailbox: Mailbox[R], num_nodes: int, start: torch.Tensor, placement: Placement | None = None,
        base: tuple[torch.Tensor, Mapping[str, torch.Tensor]] | None = None,
    ) -> NodeState[R]:  # fmt: skip
        """Create a state of N nodes, empty or with a base; `start` [] is the stream's first time."""
        placement = placement or Placement()
        tables = {
            name: placement.home(torch.empty((num_nodes, *table.shape), dtype=table.dtype or start.dtype))
            for name, table in mailbox.tables().items()
        }
        sent = torch.zeros(num_nodes if "received" in tables else 0, dtype=torch.int64, device=placement.device)
        state = NodeState(mailbox, tables, sent, start, placement, base)
        state.reset()
        return state

    def reset(self) -> None:
        """Reset to the base; other nodes to memory and mail 0, no events, and all times the stream's first.

        No read or write may be running.
        """
        nodes, rows = self.base or (None, {})
        for name, table in self.mailbox.tables().items():
            self.tables[name].fill_(self.start if table.dtype is None else table.empty)
            if nodes is not None:
                values = self.tables[name]
                values.index_copy_(0, nodes.to(values.device), rows[name].to(values.device, values.dtype))
        self._count_sent()
        self.settle()

    def grow(self, num_nodes: int) -> None:
        """Add rows of nodes without events, up to `num_nodes` at least; no read or write may be running."""
        for name, table in self.mailbox.tables().items():
            self.tables[name] = with_rows(
                self.tables[name], num_nodes, self.start if table.dtype is None else table.empty
            )
        if "received" in self.tables:
            self.sent = with_rows(self.sent, num_nodes, 0)

    def settle(self) -> None:
        """Count writes from 0 again; no read or write may be running."""
        self.begun = self.ended = 0
        self.published.clear()

    def fetch(self, nodes: torch.Tensor, features: RowTable) -> R:
        """Read the records of `nodes` [U]; `features` [·, E] is the stream's edge table (E may be 0).

        While another thread writes, only `read` returns whole records.
        """
        numbers, gather = self.placement.numbers(nodes), self.placement.gather
        rows = {name: gather(table, numbers) for name, table in self.tables.items() if name != "event_id"}
        if "event_id" not in self.tables:
            return self.mailbox.record(rows)
        events = self.tables["event_id"].index_select(0, nodes)
        rows["event_id"] = self.placement.load(events)
        if "mail_features" not in rows and features.shape[1]:
            mail_features = gather(features, events.view(-1).clamp(min=0))
            rows["mail_features"] = mail_features.view(*events.shape, -1)
        elif "mail_features" not in rows:
            rows["mail_features"] = self.placement.load(features.new_zeros((*events.shape, 0)))
        return self.mailbox.record(rows)

    def read(self, nodes: torch.Tensor, on_device: torch.Tensor, features: RowTable) -> tuple[R, int]:
        """Read the records of `nodes` [U] at one version; also returns that version, the number of writes they contain.

        Args:
            nodes: on the tables' device; `on_device` has the same nodes on the record's device.
            features: [·, E], the stream's edge table.
        """
        whole = self.ended
        record = self.fetch(nodes, features)
        self.placement.settle()  # the rows are read, so a write that begins later cannot be in them
        version = self.begun
        self.patch(record, on_device, whole, version)
        return record, version

    def read_memory(self, nodes: torch.Tensor) -> torch.Tensor:
        """Read only the memory rows [M, D] of `nodes` [M], whole as in `read`, on the tables' device."""
        whole = self.ended
        memory = self.tables["memory"].index_select(0, nodes)
        for write in range(whole, self.begun):
            for rows in self.published[write]:
                if "memory" in rows.parts:
                    patch_rows(
                        [memory], nodes, [self.placement.store(rows.parts["memory"])], self.placement.store(rows.nodes)
                    )
        return memory

    def patch(self, record: R, nodes: torch.Tensor, version: int, upto: int) -> None:
        """Update records of `nodes` [U] in place from `version` to the later version `upto`, with published writes."""
        for write in range(version, upto):
            for rows in self.published[write]:
                ids = nodes
                if rows.each:
                    ids = (nodes.unsqueeze(1) * rows.each + torch.arange(rows.each, device=nodes.device)).view(-1)
                stale = [_by_row(getattr(record, name), rows) for name in rows.parts]
                patch_rows(stale, ids, list(rows.parts.values()), rows.nodes)

    def compose(self, digested: torch.Tensor, hidden: torch.Tensor | None, events: Interactions) -> Writes:
        """Compute the writes of a batch (see `Mailbox`); batches must be composed one at a time, in order."""
        return self.mailbox.compose(digested, hidden, events, self.sent)

    def publish(self, number: int, writes: Writes) -> None:
        """Publish write `number` to readers, before it begins."""
        self.published[number] = writes

    def write(self, number: int) -> None:
        """Perform a published write; writes follow one another, by number from 0."""
        store = self.placement.store
        copies = [
            (_by_row(self.tables[name], rows), store(rows.nodes), store(part))
            for rows in self.published[number]
            for name, part in rows.parts.items()
            if name in self.tables
        ]
        self.begun = number + 1
        for table, nodes, part in copies:
            table.index_copy_(0, nodes, part)
        self.ended = number + 1

    def forget(self, version: int) -> None:
        """Drop the published writes below `version`; no later patch may start below it."""
        for number in [number for number in list(self.published) if number < version]:
            del self.published[number]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tables by name, for a checkpoint."""
        return self.tables

    def load_state_dict(self, tables: dict[str, torch.Tensor]) -> None:
        """Copy saved tables into the tables of this state."""
        for name, table in self.tables.items():
            table.copy_(tables[name])
        self._count_sent()

    def _count_sent(self) -> None:
        """Count the mails that the tables hold as all that were sent."""
        if "received" in self.tables:
            self.sent.copy_(self.tables["received"])


def with_rows(table: torch.Tensor, rows: int, value: int | float | torch.Tensor) -> torch.Tensor:
    """Return a table with at least so many rows [M, …]; new ones hold `value`, and are half as many again if any."""
    if table.shape[0] >= rows:
        return table
    grown = table.new_empty((max(rows, table.shape[0] * 3 // 2), *table.shape[1:]))
    grown[: table.shape[0]] = table
    grown[table.shape[0] :] = value
    return grown


def _by_row(table: torch.Tensor, rows: Rows) -> torch.Tensor:
    """View a table by the row numbers of a write: nodes, or slots of nodes."""
    return table.flatten(0, 1) if rows.each else table
