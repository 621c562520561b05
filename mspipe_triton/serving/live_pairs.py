"""Features of one source's pairs after all events so far, from the last events of nodes, without a search for each."""

from __future__ import annotations

import numpy as np
import torch

from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.pair_keys import EVENT
from mspipe_triton.kernels.link.last_events import last_of_pair
from mspipe_triton.kernels.link.pair_columns import Meetings, Reads, Replies, Tables, columns_of
from mspipe_triton.nodes.state import with_rows


class LivePairs:
    """Last events of all nodes, which make features of pairs quick to compute for a ranking.

    Args:
        src, dst: [E] of the events so far.
    """

    def __init__(self, src: torch.Tensor, dst: torch.Tensor) -> None:
        self.sent = self.received = torch.empty(0, dtype=torch.int64)
        self.grow(int(max(src.max(), dst.max())) + 1 if src.numel() else 0)
        self.append(src, dst, 0)

    def grow(self, nodes: int) -> None:
        """Make room for nodes without events."""
        self.sent, self.received = (with_rows(each, nodes, -1) for each in (self.sent, self.received))

    def append(self, src: torch.Tensor, dst: torch.Tensor, first: int) -> None:
        """Note events [M] from number `first` on."""
        numbers = torch.arange(first, first + src.numel())
        for table, nodes in ((self.sent, src), (self.received, dst)):
            table.scatter_reduce_(0, nodes, numbers, "amax")

    def features(
        self, index: PairIndex, src: torch.Tensor, dst: torch.Tensor, time: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Compute features [K, 36] of a source [1] with distinct destinations [K], ascending, at a time [1] after all.

        They are those of `PairIndex.features`, to the bit.
        """
        tables = Tables(index.times, index.earlier, index.partners, index.popularity)
        before, last_sent = torch.full_like(src, len(index)), self.sent.index_select(0, src)
        times, befores, lasts, sent = (
            each.expand(dst.numel()) for each in (time, before, last_sent, tables.number(last_sent, 0))
        )
        received = self.received.index_select(0, dst)
        meetings, replies = _meetings(index, int(src), dst), self._replies(index, tables, src, dst, befores)
        reads = Reads(dst, times, befores, lasts, sent, received, meetings, replies)
        return columns_of(tables, reads, dtype).t()

    def _replies(
        self, index: PairIndex, tables: Tables, src: torch.Tensor, dst: torch.Tensor, before: torch.Tensor
    ) -> Replies | None:
        """Find the pairs whose destination has sent to the source."""
        received = self.received.index_select(0, src)
        if int(received) < 0:
            return None
        numbers = (dst << 32) + src
        places, events = last_of_pair(
            index.pairs, index.pair_keys, numbers, before, index.newer_pairs, index.newer_events
        )
        sent = self.sent.index_select(0, dst.index_select(0, places))
        return Replies(places, events, tables.number(sent, 0), tables.number(received, 1).expand(places.numel()))


def _meetings(index: PairIndex, src: int, dst: torch.Tensor) -> Meetings:
    """Find the destinations that the source has sent to; its pairs follow one another in each part of the index."""
    pairs, keys, nodes = index.pairs.numpy(), index.pair_keys.numpy(), dst.numpy()
    older, older_keys = pairs.size - index.newer_pairs, keys.size - index.newer_events
    last = np.full(nodes.size, -1)
    for first, stop, part in ((0, older, keys[:older_keys]), (older, pairs.size, keys[older_keys:])):
        low, high = pairs[first:stop].searchsorted(np.array([src << 32, (src + 1) << 32])) + first
        if low == high:
            continue
        partners = pairs[low:high] & EVENT
        places = nodes.searchsorted(partners)
        places[places == nodes.size] = 0
        ranked = nodes[places] == partners
        ends = part.searchsorted(np.arange(low + 1, high + 1)[ranked] << 32) - 1
        last[places[ranked]] = part[ends] & EVENT  # newer events come last
    places = (last >= 0).nonzero()[0]
    return Meetings(torch.from_numpy(places), torch.from_numpy(last[places]))
