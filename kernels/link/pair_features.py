"""Features of pairs of nodes from their earlier events: recency, repetition, replies, popularity."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.link.last_events import last_event, last_of_pair
from mspipe_triton.kernels.link.pair_kernel import pair_features_kernel
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.runtime.launch import cdiv
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "pair_features"
COLUMNS = 36
SPANS = (50.0, 500.0, 5000.0)  # events over which popularity decays to 1/e
_TAUS = (1e2, 1e4, 1e6)
_PAIRS = 32768  # pairs that the reference computes at a time, so that their numbers stay in the cache


class PairFeatures(NamedTuple):
    """Compute features [B, C, 36] of the pairs of B sources with C destinations each, from earlier events.

    Events (src, dst, t) are numbered in the order of time, and query i reads those with numbers below before_i. A node
    sends the events whose source it is, and receives those whose destination it is. Let Δ(j) = time_i − t_j,
    L(x) = log(1 + x), and [·] be 1 or 0. Columns 0 to 10 are, with the last event j from u to v, the number n of events
    from u to v, and the number o of events that u has sent since j, j included:

        1, [o = 1], [o = 2], 1/o, log(o)/5, L(Δ(j))/10, 1/(1 + Δ(j)/τ) for τ = 10², 10⁴, 10⁶, L(n)/3, n / (all u sent)

    Columns 11 to 19 are the reverse, with j, n and o of events from v to u, and the number p of events that u has
    received since j:

        1, L(Δ(j))/10, 1/(1 + Δ(j)/τ) for the same τ, L(n)/3, 1/o, 1/p, log(p)/5

    Columns 20 to 27 are, with the last event j that v received:

        1, L(Δ(j))/10, 1/(1 + Δ(j)/τ) for the same τ, L(S_K)/3 for K = 50, 500, 5000

    where S_K = Σ exp((k + 1 − before_i)/K) over all events k that v received, its popularity over K events. Columns of
    a group are 0 where there is no j. Columns 28 to 31 are [u has sent nothing], and columns 25 to 27 times that.
    Columns 32 to 35 are, with the numbers m of destinations that u has sent to, and w of sources that v has received
    from, and the last event j that u sent, 0 where a divisor is 0 or there is no j:

        n / (all v received), m / (all u sent), w / (all v received), L(Δ(j))/10

    Args:
        source_keys: [E] int64, src · 2³² + number of every event, ascending; destination_keys: with dst for src.
        pairs: [P] int64, the distinct src · 2³² + dst, ascending.
        pair_keys: [E] int64, place in `pairs` · 2³² + number of every event, ascending.
        times: [E] int64 or float64, times of the events, never decreasing.
        earlier: [E, 3] integers, the numbers of earlier events with the event's source, destination, and pair.
        partners: [E, 2] integers, the numbers of distinct destinations of the event's source, and of distinct sources
            of its destination, up to the event.
        popularity: [E, 3] float32 or float64, S_K of each event's destination just after it.
        src: [B], dst: [B, C] integer nodes below 2³¹. Negative nodes are padding, and their pairs have features 0.
        query_times: [B] in the dtype of `times`. before: [B] int64, from 0 to E.
        newer_events, newer_pairs: numbers of keys and of pairs at the ends of their tensors, for events added later,
            which are sorted apart; places in `pairs` count from its start. Not all events are newer.
        dtype: float32 or float64, of the features and of the computation.

    Returns:
        Features [B, C, 36]. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout or device.
    """

    source_keys: torch.Tensor
    destination_keys: torch.Tensor
    pairs: torch.Tensor
    pair_keys: torch.Tensor
    times: torch.Tensor
    earlier: torch.Tensor
    partners: torch.Tensor
    popularity: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    query_times: torch.Tensor
    before: torch.Tensor
    newer_events: int = 0
    newer_pairs: int = 0
    dtype: torch.dtype = torch.float32


def _reference(args: PairFeatures) -> torch.Tensor:
    out = _empty(args)
    queries, candidates = args.dst.shape
    rows = max(_PAIRS // max(candidates, 1), 1)
    for start in range(0, queries, rows):
        part = slice(start, start + rows)
        pairs = _Pairs.of(args, part)
        columns = out.new_zeros((COLUMNS, pairs.dst.numel()))
        if args.times.numel():  # else there is no event to read
            received = _destination(columns, args, pairs)
            _forward(columns, args, pairs, received)
            _reverse(columns[11:20], args, pairs)
            _source(columns, args, pairs)
        columns[28].copy_((pairs.sent == 0) & (pairs.dst >= 0))
        torch.mul(columns[25:28], columns[28], out=columns[29:32])
        out[part].view(-1, COLUMNS).copy_(columns.t())
    return out


class _Pairs(NamedTuple):
    """Pairs of some queries, all [n]: nodes, times, and the numbers of events that they read, of the last event that
    their sources sent (negative if there is none), and of all events that these sent."""

    src: torch.Tensor
    dst: torch.Tensor
    times: torch.Tensor
    before: torch.Tensor
    last_sent: torch.Tensor
    sent: torch.Tensor

    @staticmethod
    def of(args: PairFeatures, part: slice) -> _Pairs:
        """Repeat the columns of queries for their destinations, which are padding if the source is."""
        src, dst, times, before = (each[part] for each in (args.src, args.dst, args.query_times, args.before))
        src, dst = src.long(), dst.long()
        last_sent = last_event(args.source_keys, src, before, args.newer_events)
        queries = (src, times, before, last_sent, _count(args, last_sent, 0))
        src, *others = (each.unsqueeze(1).expand_as(dst).reshape(-1) for each in queries)
        return _Pairs(src, dst.reshape(-1).masked_fill(src < 0, -1), *others)

    def last(self, args: PairFeatures, src: torch.Tensor, dst: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places among the pairs of those with an event from src to dst, and its number."""
        number = (src << 32) + dst  # no pair's if a node is negative
        return last_of_pair(args.pairs, args.pair_keys, number, self.before, args.newer_pairs, args.newer_events)


def _forward(columns: torch.Tensor, args: PairFeatures, pairs: _Pairs, received: torch.Tensor) -> None:
    """Write columns 0 to 10 and 32 of the pairs with an event from u to v; v has received `received` [n] events."""
    places, events = pairs.last(args, pairs.src, pairs.dst)
    if not places.numel():
        return
    sent, earlier = pairs.sent.index_select(0, places), args.earlier.index_select(0, events).t()
    whole = sent - earlier[0]
    order, number, sent = (each.to(args.dtype) for each in (whole, earlier[2] + 1, sent))
    block = columns.new_empty((12, places.numel()))
    block[0].fill_(1)
    block[1].copy_(whole == 1)
    block[2].copy_(whole == 2)
    torch.reciprocal(order, out=block[3])
    torch.log(order, out=block[4]).div_(5)
    _recency(block[5:9], args, pairs.times.index_select(0, places), events)
    torch.log1p(number, out=block[9]).div_(3)
    torch.div(number, sent, out=block[10])
    torch.div(number, received.index_select(0, places), out=block[11])
    columns[:11].index_copy_(1, places, block[:11])
    columns[32].index_copy_(0, places, block[11])


def _reverse(columns: torch.Tensor, args: PairFeatures, pairs: _Pairs) -> None:
    """Write columns 11 to 19 of the pairs with an event from v to u."""
    places, events = pairs.last(args, pairs.dst, pairs.src)
    if not places.numel():
        return
    src, dst, times, before = (each.index_select(0, places) for each in pairs[:4])
    earlier = args.earlier.index_select(0, events).t()
    block = columns.new_empty((9, places.numel()))
    block[0].fill_(1)
    _recency(block[1:5], args, times, events)
    torch.log1p((earlier[2] + 1).to(args.dtype), out=block[5]).div_(3)
    for group, (keys, nodes) in enumerate(((args.source_keys, dst), (args.destination_keys, src))):
        count = _count(args, last_event(keys, nodes, before, args.newer_events), group)
        block[6 + group].copy_(count - earlier[group])
    torch.log(block[7], out=block[8]).div_(5)
    block[6:8].reciprocal_()
    columns.index_copy_(1, places, block)


def _destination(columns: torch.Tensor, args: PairFeatures, pairs: _Pairs) -> torch.Tensor:
    """Write columns 20 to 27 and 34, and return the numbers [n] of all events that v received, 1 for none."""
    block = columns[20:28]
    events = last_event(args.destination_keys, pairs.dst, pairs.before, args.newer_events)
    missing = events < 0
    events.clamp_(min=0)
    block[0].fill_(1)
    _recency(block[1:5], args, pairs.times, events)
    gap = (events + 1 - pairs.before).to(args.dtype)
    for column, span in zip(block[5:], SPANS, strict=True):
        torch.div(gap, span, out=column)
    sums = args.popularity.index_select(0, events).t().to(args.dtype)
    block[5:].exp_().mul_(sums).log1p_().div_(3)
    block.masked_fill_(missing, 0)
    received = (args.earlier.select(1, 1).index_select(0, events) + 1).to(args.dtype)
    partners = args.partners.select(1, 1).index_select(0, events).to(args.dtype)
    torch.div(partners, received, out=columns[34]).masked_fill_(missing, 0)
    return received


def _source(columns: torch.Tensor, args: PairFeatures, pairs: _Pairs) -> None:
    """Write columns 33 and 35."""
    missing = (pairs.last_sent < 0) | (pairs.dst < 0)
    events = pairs.last_sent.clamp(min=0)
    partners, sent = args.partners.select(1, 0).index_select(0, events).to(args.dtype), pairs.sent.to(args.dtype)
    torch.div(partners, sent, out=columns[33]).masked_fill_(missing, 0)
    delta = (pairs.times - args.times.index_select(0, events)).to(args.dtype).clamp_(min=0)
    torch.log1p(delta, out=columns[35]).div_(10).masked_fill_(missing, 0)


def _recency(columns: torch.Tensor, args: PairFeatures, times: torch.Tensor, events: torch.Tensor) -> None:
    """Write L(Δ)/10 and 1/(1 + Δ/τ) to columns [4, n]."""
    delta = (times - args.times.index_select(0, events)).to(args.dtype).clamp_(min=0)
    torch.log1p(delta, out=columns[0]).div_(10)
    for column, tau in zip(columns[1:], _TAUS, strict=True):
        torch.div(delta, tau, out=column)
    columns[1:].add_(1).reciprocal_()


def _count(args: PairFeatures, events: torch.Tensor, group: int) -> torch.Tensor:
    """Number of events in a group (0 source, 1 destination) up to its last one; 0 for a negative number."""
    if not args.times.numel():
        return torch.zeros_like(events)
    earlier = args.earlier.select(1, group).index_select(0, events.clamp(min=0))
    return (earlier + 1).masked_fill_(events < 0, 0)


def _launch(args: PairFeatures) -> torch.Tensor:
    """Launch programs that search for BLOCK pairs and write their rows."""
    out, config = _empty(args), pair_features_kernel.config()
    number = args.dst.numel()
    pair_features_kernel.launch(
        (cdiv(number, config["BLOCK"]),), config,
        args.source_keys, args.destination_keys, args.pairs, args.pair_keys, args.times,
        args.earlier.contiguous(), args.partners.contiguous(), args.popularity.contiguous(), args.src,
        args.dst.contiguous(), args.query_times, args.before, out,
        args.times.numel() - args.newer_events, args.newer_events, args.pairs.numel() - args.newer_pairs,
        args.newer_pairs, number, args.dst.shape[1], *_TAUS, *SPANS,
    )  # fmt: skip
    return out


def _empty(args: PairFeatures) -> torch.Tensor:
    """Allocate the features."""
    return args.dst.new_empty((*args.dst.shape, COLUMNS), dtype=args.dtype)


def _check(args: PairFeatures) -> None:
    keys = checks.named(args, "source_keys", "destination_keys", "pair_keys")
    columns = checks.named(args, "earlier", "partners", "popularity")
    queries = checks.named(args, "src", "query_times", "before")
    checks.dims(_NAME, 1, times=args.times, pairs=args.pairs, src=args.src)
    checks.dims(_NAME, 2, dst=args.dst)
    events, rows = args.times.numel(), args.dst.shape[0]
    checks.shape(
        _NAME,
        **{name: (each, (events,)) for name, each in keys.items()},
        **{name: (each, (events, 2 if name == "partners" else 3)) for name, each in columns.items()},
        **{name: (each, (rows,)) for name, each in queries.items()},
    )
    checks.dtype(_NAME, (torch.int64,), **keys, pairs=args.pairs, before=args.before)
    checks.dtype(_NAME, checks.TIMES, times=args.times)
    checks.dtype(_NAME, (args.times.dtype,), query_times=args.query_times)
    checks.dtype(_NAME, checks.INTEGERS, earlier=args.earlier, partners=args.partners, src=args.src, dst=args.dst)
    checks.dtype(_NAME, checks.COMPUTED, popularity=args.popularity)
    if args.dtype not in checks.COMPUTED:
        raise ValueError(f"{_NAME}: dtype must be torch.float32 or torch.float64, not {args.dtype}")
    for name, newer, total in (
        ("newer_events", args.newer_events, events), ("newer_pairs", args.newer_pairs, args.pairs.numel()),
    ):  # fmt: skip
        if not 0 <= newer < max(total, 1):
            raise ValueError(f"{_NAME}: {name} is {newer}; give a number from 0 to {max(total - 1, 0)}")
    if (args.newer_events > 0) != (args.newer_pairs > 0):
        raise ValueError(
            f"{_NAME}: newer_events is {args.newer_events} beside newer_pairs {args.newer_pairs}; newer events have "
            "pairs of their own, so give both or none"
        )
    others = {"pairs": args.pairs, "times": args.times, "dst": args.dst}
    checks.layout(_NAME, **keys, **columns, **queries, **others)
    checks.device(_NAME, args.dst.device, (), **keys, **columns, **queries, **others)
    checks.within(_NAME, "before", args.before, events + 1)


pair_features = operation(
    _NAME, PairFeatures, reference=_reference, launch=_launch, fake=_empty, check=_check, on="dst"
)
