"""Columns of the features of pairs, in torch, from the earlier events that they read (see `PairFeatures`)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

COLUMNS = 36
SPANS = (50.0, 500.0, 5000.0)  # events over which popularity decays to 1/e
TAUS = (1e2, 1e4, 1e6)
POPULARITY, NEW, POPULARITY_IF_NEW = slice(25, 28), 28, slice(29, 32)
OF_DESTINATION = slice(20, 35)  # contains all columns that are not 0 for a destination without a source


class Tables(NamedTuple):
    """Columns of all events that features read: times [E], earlier [E, 3], partners [E, 2] and popularity [E, 3]."""

    times: torch.Tensor
    earlier: torch.Tensor
    partners: torch.Tensor
    popularity: torch.Tensor

    def number(self, events: torch.Tensor, group: int) -> torch.Tensor:
        """Number of events in a group (0 source, 1 destination) up to its last one; 0 for a negative number."""
        if not self.times.numel():
            return torch.zeros_like(events)
        earlier = self.earlier.select(1, group).index_select(0, events.clamp(min=0))
        return (earlier + 1).masked_fill_(events < 0, 0)


class Meetings(NamedTuple):
    """Pairs that have an event in one direction: their places [m] among the n, and the last such event [m]."""

    places: torch.Tensor
    events: torch.Tensor


class Replies(NamedTuple):
    """Pairs (u, v) that have an event from v to u: places, the last such event, and the numbers of all events that v
    has sent and that u has received; all [m]."""

    places: torch.Tensor
    events: torch.Tensor
    sent: torch.Tensor
    received: torch.Tensor


class Reads(NamedTuple):
    """Earlier events of n pairs (u, v).

    dst: [n], v, negative in padding. times, before: [n], the time of each query, and the number of events that it may
    read. last_sent, sent: [n], the last event that u sent, negative without one, and the number of all of them.
    last_received: [n], the last event that v received, negative without one. meetings: from u to v. replies: from v to
    u, or None if there are none.
    """

    dst: torch.Tensor
    times: torch.Tensor
    before: torch.Tensor
    last_sent: torch.Tensor
    sent: torch.Tensor
    last_received: torch.Tensor
    meetings: Meetings
    replies: Replies | None


def columns_of(tables: Tables, reads: Reads, dtype: torch.dtype) -> torch.Tensor:
    """Compute the columns [36, n] of pairs' features."""
    columns = torch.zeros((COLUMNS, reads.dst.numel()), dtype=dtype, device=reads.dst.device)
    if tables.times.numel():  # else there is no event to read
        received = write_destination(columns, tables, reads.times, reads.before, reads.last_received)
        places, events = reads.meetings
        if places.numel():
            numbers = (each.index_select(0, places) for each in (reads.times, reads.sent, received))
            block = meeting_block(tables, events, *numbers)
            columns[:11].index_copy_(1, places, block[:11])
            columns[32].index_copy_(0, places, block[11])
        if reads.replies is not None and reads.replies.places.numel():
            places = reads.replies.places
            block = reply_block(tables, reads.replies, reads.times.index_select(0, places), dtype)
            columns[11:20].index_copy_(1, places, block)
        write_source(columns, tables, reads.times, reads.last_sent.masked_fill(reads.dst < 0, -1), reads.sent)
    columns[NEW].copy_((reads.sent == 0) & (reads.dst >= 0))
    torch.mul(columns[POPULARITY], columns[NEW], out=columns[POPULARITY_IF_NEW])
    return columns


def meeting_block(
    tables: Tables, events: torch.Tensor, times: torch.Tensor, sent: torch.Tensor, received: torch.Tensor
) -> torch.Tensor:
    """Compute columns 0 to 10 and 32 of pairs with an event from u to v, as a block [12, m] in the dtype of `received`.

    Args:
        events: the last event of each. times: of the queries. sent: numbers of all events that u sent. received: of all
            that v received. All are [m].
    """
    earlier = tables.earlier.index_select(0, events).t()
    whole = sent - earlier[0]
    order, number, sent = (each.to(received.dtype) for each in (whole, earlier[2] + 1, sent))
    block = received.new_empty((12, events.numel()))
    block[0].fill_(1)
    block[1].copy_(whole == 1)
    block[2].copy_(whole == 2)
    torch.reciprocal(order, out=block[3])
    torch.log(order, out=block[4]).div_(5)
    _recency(block[5:9], tables, times, events)
    torch.log1p(number, out=block[9]).div_(3)
    torch.div(number, sent, out=block[10])
    torch.div(number, received, out=block[11])
    return block


def reply_block(tables: Tables, replies: Replies, times: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute columns 11 to 19 of pairs with an event from v to u, as a block [9, m]; `times` [m] are the queries'."""
    _, events, *counts = replies
    earlier = tables.earlier.index_select(0, events).t()
    block = torch.empty((9, events.numel()), dtype=dtype, device=events.device)
    block[0].fill_(1)
    _recency(block[1:5], tables, times, events)
    torch.log1p((earlier[2] + 1).to(dtype), out=block[5]).div_(3)
    for group, count in enumerate(counts):
        block[6 + group].copy_(count - earlier[group])
    torch.log(block[7], out=block[8]).div_(5)
    block[6:8].reciprocal_()
    return block


def write_destination(
    columns: torch.Tensor, tables: Tables, times: torch.Tensor, before: torch.Tensor, last_received: torch.Tensor
) -> torch.Tensor:
    """Write columns 20 to 27 and 34, and return the numbers [n] of all events that v received, 1 for none.

    Args:
        columns: [36, n]. times, before, last_received: [n], see `Reads`; the first two may be [1], one for all.
    """
    block, dtype = columns[20:28], columns.dtype
    missing, events = last_received < 0, last_received.clamp(min=0)
    block[0].fill_(1)
    _recency(block[1:5], tables, times, events)
    gap = (events + 1 - before).to(dtype)
    torch.div(gap, _constants(SPANS, dtype, gap.device), out=block[5:])
    sums = tables.popularity.index_select(0, events).t().to(dtype)
    block[5:].exp_().mul_(sums).log1p_().div_(3)
    block.masked_fill_(missing, 0)
    received = (tables.earlier.select(1, 1).index_select(0, events) + 1).to(dtype)
    partners = tables.partners.select(1, 1).index_select(0, events).to(dtype)
    torch.div(partners, received, out=columns[34]).masked_fill_(missing, 0)
    return received


def write_source(
    columns: torch.Tensor, tables: Tables, times: torch.Tensor, last_sent: torch.Tensor, sent: torch.Tensor
) -> None:
    """Write columns 33 and 35.

    Args:
        columns: [36, n]. times, last_sent, sent: [n], see `Reads`; times may be [1], one for all.
    """
    dtype = columns.dtype
    missing, events = last_sent < 0, last_sent.clamp(min=0)
    partners = tables.partners.select(1, 0).index_select(0, events).to(dtype)
    torch.div(partners, sent.to(dtype), out=columns[33]).masked_fill_(missing, 0)
    delta = (times - tables.times.index_select(0, events)).to(dtype).clamp_(min=0)
    torch.log1p(delta, out=columns[35]).div_(10).masked_fill_(missing, 0)


def _recency(columns: torch.Tensor, tables: Tables, times: torch.Tensor, events: torch.Tensor) -> None:
    """Write L(Δ)/10 and 1/(1 + Δ/τ) to columns [4, n]."""
    delta = (times - tables.times.index_select(0, events)).to(columns.dtype).clamp_(min=0)
    torch.log1p(delta, out=columns[0]).div_(10)
    torch.div(delta, _constants(TAUS, columns.dtype, delta.device), out=columns[1:])
    columns[1:].add_(1).reciprocal_()


@lru_cache
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Constants [K, 1] of a formula, made once."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)
