"""Memory after digestion: h of nodes, kept until their records change."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.models.model import TemporalModel
from mspipe_triton.nodes.state import NodeState, with_rows
from mspipe_triton.placement import RowTable


class Hidden:
    """Rows h of nodes, and the times of their memory.

    Args:
        model: of the session. state: the nodes' records. `keeps` is False for a model whose h depends on the time of
            the question, or that has no memory: nothing is kept then.
    """

    def __init__(self, model: TemporalModel, state: NodeState[Any]) -> None:
        self.model, self.state = model, state
        updater = model.updater
        self.reads_now = updater is not None and getattr(updater, "reads_now", True)
        self.keeps = updater is not None and not self.reads_now
        self.table, self.times = model.time.frequency.new_empty((0, model.dim)), state.start.new_empty(0)
        self.fresh = torch.empty(0, dtype=torch.bool)

    def grow(self, nodes: int) -> None:
        """Make room for nodes, whose rows are not known yet."""
        if self.keeps:
            self.table, self.times = with_rows(self.table, nodes, 0), with_rows(self.times, nodes, 0)
            self.fresh = with_rows(self.fresh, nodes, False)

    def forget(self, nodes: torch.Tensor) -> None:
        """Note that the records of nodes have changed."""
        if self.keeps:
            self.fresh.index_fill_(0, nodes, False)

    def rows(
        self, nodes: torch.Tensor, edges: RowTable, now: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return h [U, D] of nodes, None in a model without memory, and the times [U] of their memory.

        Args:
            edges: the stream's edge table. now: [], the time of the question, if h depends on it.
        """
        if self.model.updater is None:
            return None, self.times
        if not self.keeps:
            assert now is not None
            return self.compute(nodes, edges, now)
        stale = nodes.masked_select(~self.fresh.index_select(0, nodes))
        if stale.numel():
            stale = torch.unique(stale)
            rows, times = self.compute(stale, edges, self.state.start)  # h does not depend on the time
            self.table.index_copy_(0, stale, rows)
            self.times.index_copy_(0, stale, times)
            self.fresh.index_fill_(0, stale, True)
        return self.table.index_select(0, nodes), self.times.index_select(0, nodes)

    def compute(self, nodes: torch.Tensor, edges: RowTable, now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute h [U, D] of nodes together, and return it with the times [U] of their memory; keep nothing.

        The last bits of a row depend on the rows beside it, but not on what is kept.
        """
        record = self.state.fetch(nodes, edges)
        rows = self.model.update_memory(record, now)
        assert rows is not None
        return rows, record.digested_time
