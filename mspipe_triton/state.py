"""Node memory and mailbox: where they live, how rows are read, written, saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from mspipe_triton.kernels import aggregate_messages


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


@dataclass
class NodeState:
    """One record a node: memory row, its time, and the compact mailbox (partner row, event id, mail time).

    A mail's own half is the node's memory row, so it is not stored; its features are read from the stream's table by
    event id, except under the "mean" aggregator, which stores the mean row in `mail_features`.

    Args:
        memory, partner: [N, D]; memory_time, mail_time: [N]; event_id: [N] int64; mail_features: [N, E] or None.
        start: the stream's first time, which all times are reset to.
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    partner: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    mail_features: torch.Tensor | None
    start: torch.Tensor

    @staticmethod
    def create(
        num_nodes: int, dim: int, start: torch.Tensor, dtype: torch.dtype, dim_mail_features: int = 0
    ) -> NodeState:
        """An empty state of N nodes; `start` [] is the stream's first time, `dim_mail_features` is for "mean"."""
        state = NodeState(
            torch.empty(num_nodes, dim, dtype=dtype),
            start.new_empty(num_nodes),
            torch.empty(num_nodes, dim, dtype=dtype),
            torch.empty(num_nodes, dtype=torch.int64),
            start.new_empty(num_nodes),
            torch.empty(num_nodes, dim_mail_features, dtype=dtype) if dim_mail_features else None,
            start,
        )
        state.reset()
        return state

    def reset(self) -> None:
        """Forget everything: memory and mail 0, no event, all times the stream's first."""
        for table in self._tables().values():
            table.zero_()
        self.memory_time.fill_(self.start)
        self.mail_time.fill_(self.start)
        self.event_id.fill_(-1)

    def fetch(self, nodes: torch.Tensor, features: torch.Tensor) -> Record:
        """Read the records of `nodes` [U]; `features` [·, E] is the stream's edge table (E may be 0)."""
        events = self.event_id.index_select(0, nodes)
        if self.mail_features is not None:
            mail_features = self.mail_features.index_select(0, nodes)
        elif features.shape[1]:
            mail_features = features.index_select(0, events.clamp(min=0))
        else:
            mail_features = features.new_zeros((nodes.numel(), 0))
        return Record(
            self.memory.index_select(0, nodes),
            self.memory_time.index_select(0, nodes),
            self.partner.index_select(0, nodes),
            events,
            self.mail_time.index_select(0, nodes),
            mail_features,
        )

    def write(
        self, src: torch.Tensor, dst: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
        features: torch.Tensor, hidden: torch.Tensor, record: Record, src_rows: torch.Tensor, dst_rows: torch.Tensor,
        mode: str,
    ) -> None:  # fmt: skip
        """Write a batch's endpoints: memory := h, mail from the batch's events (see `aggregate_messages`)."""
        batch_features = features.index_select(0, event_ids) if self.mail_features is not None else None
        aggregate_messages(
            self.memory, self.memory_time, self.partner, self.event_id, self.mail_time, self.mail_features,
            src, dst, event_ids, times, batch_features, hidden, record.digested_time, src_rows, dst_rows, mode,
        )  # fmt: skip

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
