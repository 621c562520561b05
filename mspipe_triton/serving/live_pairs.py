"""Features of sources' pairs with destinations after the events so far, in parts that many pairs have in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.pair_keys import EVENT
from mspipe_triton.kernels.link.last_events import last_event, last_of_pair
from mspipe_triton.kernels.link.pair_columns import (
    COLUMNS,
    NEW,
    POPULARITY,
    POPULARITY_IF_NEW,
    Meetings,
    Replies,
    Tables,
    meeting_block,
    reply_block,
    write_destination,
    write_source,
)
from mspipe_triton.nodes.state import with_rows


class Ends(NamedTuple):
    """Nodes [M] at one end of pairs, their part of the features [M, 36], and the numbers [M] of events that they have
    sent, or received."""

    nodes: torch.Tensor
    features: torch.Tensor
    counts: torch.Tensor


class Histories(NamedTuple):
    """Pairs that have an event in either direction, ascending: the places [m] of their sources and destinations among
    those that are ranked, and the pairs' own part of the features [m, 36]."""

    owners: torch.Tensor
    others: torch.Tensor
    features: torch.Tensor


class LivePairs:
    """Last events of all nodes, which make features of pairs quick to compute for rankings.

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


class PastPairs:
    """Features of pairs from the events before a time, in parts whose sum they are.

    A column depends on the source, on the destination, or on the pair's own events, which few pairs have. One group is
    of both ends: for a source that has sent nothing, the destination's popularity counts once more.

    Args:
        index, pairs: of all events so far. time: [1], the last event's or later. dtype: of the features.
    """

    def __init__(self, index: PairIndex, pairs: LivePairs, time: torch.Tensor, dtype: torch.dtype) -> None:
        self.index, self.pairs, self.time, self.dtype = index, pairs, time, dtype
        self.tables = Tables(index.times, index.earlier, index.partners, index.popularity)
        self.before = index.before(time)
        self.count = int(self.before)
        self.all = self.count == len(index)

    def destinations(self, nodes: torch.Tensor) -> Ends:
        """Compute the part of destinations [K > 0], distinct and ascending."""
        columns = torch.zeros((COLUMNS, nodes.numel()), dtype=self.dtype)
        counts = write_destination(columns, self.tables, self.time, self.before, self.last_received(nodes))
        return Ends(nodes, columns.t(), counts)

    def sources(self, nodes: torch.Tensor) -> Ends:
        """Compute the part of sources [M > 0], without the destinations' popularity."""
        columns, last = torch.zeros((COLUMNS, nodes.numel()), dtype=self.dtype), self.last_sent(nodes)
        counts = self.tables.number(last, 0)
        write_source(columns, self.tables, self.time, last, counts)
        columns[NEW].copy_(counts == 0)
        return Ends(nodes, columns.t(), counts)

    def histories(self, src: Ends, dst: Ends) -> Histories:
        """Compute the part of pairs that have an event; that of a new source contains the destination's popularity."""
        width, replies = dst.nodes.numel(), self.replies(src.nodes, dst.nodes)
        places, events = self.meetings(src.nodes, dst.nodes)
        owners, others = places // width, places % width
        counts = src.counts.index_select(0, owners), dst.counts.index_select(0, others)
        block, rows = meeting_block(self.tables, events, self.time, *counts), torch.arange(places.numel())
        if replies is not None:
            met, places = places, torch.cat([places, replies.places]).unique()
            owners, others, rows = places // width, places % width, torch.searchsorted(places, met)
        columns = torch.zeros((COLUMNS, places.numel()), dtype=self.dtype)
        columns[:11].index_copy_(1, rows, block[:11])
        columns[32].index_copy_(0, rows, block[11])
        if replies is not None:
            rows = torch.searchsorted(places, replies.places)
            columns[11:20].index_copy_(1, rows, reply_block(self.tables, replies, self.time, self.dtype))
            popularity = dst.features[:, POPULARITY].index_select(0, others).t()
            torch.mul(popularity, src.counts.index_select(0, owners) == 0, out=columns[POPULARITY_IF_NEW])
        return Histories(owners, others, columns.t())

    def last_sent(self, nodes: torch.Tensor) -> torch.Tensor:
        """Find the last event [M] that each node sent, negative without one."""
        if self.all:
            return self.pairs.sent.index_select(0, nodes)
        return last_event(self.index.source_keys, nodes, self.before, self.index.newer_events)

    def last_received(self, nodes: torch.Tensor) -> torch.Tensor:
        """Find the last event [M] that each node received, negative without one."""
        if self.all:
            return self.pairs.received.index_select(0, nodes)
        return last_event(self.index.destination_keys, nodes, self.before, self.index.newer_events)

    def meetings(self, src: torch.Tensor, dst: torch.Tensor) -> Meetings:
        """Find the pairs that have an event, as source · K + destination; their order is ascending.

        A source's pairs follow one another in each part of the index.
        """
        index, nodes, sources = self.index, dst.numpy(), src.numpy()
        pairs, keys, last = index.pairs.numpy(), index.pair_keys.numpy(), np.full(sources.size * nodes.size, -1)
        border, keys_border = pairs.size - index.newer_pairs, keys.size - index.newer_events
        older, newer = (0, pairs[:border], keys[:keys_border]), (border, pairs[border:], keys[keys_border:])
        for first, part, part_keys in (older, newer):
            if not part.size:
                continue
            low, high = part.searchsorted(sources << 32), part.searchsorted((sources + 1) << 32)
            counts = high - low
            owners = np.arange(sources.size).repeat(counts)
            numbers = (low + counts - counts.cumsum())[owners] + np.arange(owners.size)
            partners = part[numbers] & EVENT
            columns = nodes.searchsorted(partners)
            columns[columns == nodes.size] = 0
            ranked = nodes[columns] == partners
            places, start = (owners * nodes.size + columns)[ranked], (numbers[ranked] + first) << 32
            events = part_keys[part_keys.searchsorted(start + self.count) - 1] - start
            # The key ahead is another pair's, or the very last one, if the pair has no event among those that count.
            valid = (events >= 0) & (events < self.count)
            last[places] = np.where(valid, events, last[places])  # newer events come last
        places = (last >= 0).nonzero()[0]
        return Meetings(torch.from_numpy(places), torch.from_numpy(last[places]))

    def replies(self, src: torch.Tensor, dst: torch.Tensor) -> Replies | None:
        """Find the pairs whose destination has sent to the source, as source · K + destination; None if none can be."""
        index, received = self.index, self.last_received(src)
        if int(received.max()) < 0:
            return None  # as with two kinds of nodes
        heard = (received >= 0).nonzero().squeeze(1)
        numbers = ((dst << 32) + src.index_select(0, heard).unsqueeze(1)).view(-1)
        before, newer = self.before.expand_as(numbers), (index.newer_pairs, index.newer_events)
        places, events = last_of_pair(index.pairs, index.pair_keys, numbers, before, *newer)
        owners, others = heard.index_select(0, places // dst.numel()), places % dst.numel()
        sent = self.tables.number(self.last_sent(dst.index_select(0, others)), 0)
        counts = self.tables.number(received.index_select(0, owners), 1)
        return Replies(owners * dst.numel() + others, events, sent, counts)
