"""Live pair index: tables with spare capacity, to which events are added without a copy of the others."""

from __future__ import annotations

import torch

from mspipe_triton.data.growing import Growing
from mspipe_triton.data.pair_index import PairIndex


class LiveIndex:
    """Pair index of a stream that goes on, with the same bits as `PairIndex.extended`, which copies all tables.

    Args:
        index: of the first events; its tables are copied once.
    """

    def __init__(self, index: PairIndex) -> None:
        self._tables = {name: Growing(table) for name, table in index.tables.items()}
        self._show(index.newer_events, index.newer_pairs)

    @property
    def index(self) -> PairIndex:
        """Pair index of all events, whose tables are views that are valid until the next `append`."""
        return self._index

    def append(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> None:
        """Add M later events.

        The time is that of the M events and of a copy of the newer keys. These are at most an eighth of all or 4,096;
        if there are more, all keys are sorted together.

        Args:
            src, dst: [M] integers from 0 to 2³¹ − 1; nodes may be new.
            t: [M] in the dtype of the index's times, never decreasing, and not below the last event's.

        Raises:
            DataError: lengths differ, a node is out of range, or an event is earlier than the one before it; no event
                is added.
        """
        growth = self._index.growth(src, dst, t)
        for name, (start, rows) in growth.tails.items():
            self._tables[name].replace(start, rows)
        self._show(growth.newer_events, growth.newer_pairs)

    def _show(self, newer_events: int, newer_pairs: int) -> None:
        tables = {name: table.rows for name, table in self._tables.items()}
        self._index = PairIndex(**tables, newer_events=newer_events, newer_pairs=newer_pairs)
