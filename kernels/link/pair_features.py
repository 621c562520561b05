"""Features of pairs of nodes from their earlier events: recency, repetition, replies, popularity."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.link.last_events import last_event, last_of_pair
from mspipe_triton.kernels.link.pair_columns import COLUMNS, SPANS, TAUS, Meetings, Reads, Replies, Tables, columns_of
from mspipe_triton.kernels.link.pair_kernel import pair_features_kernel
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.runtime.launch import cdiv
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "pair_features"
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
    tables = Tables(args.times, args.earlier, args.partners, args.popularity)
    for start in range(0, queries, rows):
        part = slice(start, start + rows)
        out[part].view(-1, COLUMNS).copy_(columns_of(tables, _reads(args, tables, part), args.dtype).t())
    return out


def _reads(args: PairFeatures, tables: Tables, part: slice) -> Reads:
    """Find what the pairs of some queries read; pairs are padding if their source is."""
    src, dst, times, before = (each[part] for each in (args.src, args.dst, args.query_times, args.before))
    src, dst, newer = src.long(), dst.long(), args.newer_events
    last_sent, received = (last_event(keys, src, before, newer) for keys in (args.source_keys, args.destination_keys))
    queries = (src, times, before, last_sent, tables.number(last_sent, 0))
    src, times, before, last_sent, sent = (each.unsqueeze(1).expand_as(dst).reshape(-1) for each in queries)
    pairs = dst.reshape(-1).masked_fill(src < 0, -1)

    def last(src: torch.Tensor, dst: torch.Tensor) -> Meetings:
        number = (src << 32) + dst  # no pair's if a node is negative
        return Meetings(*last_of_pair(args.pairs, args.pair_keys, number, before, args.newer_pairs, newer))

    replies = None
    if bool((received >= 0).any()):  # never in a stream of two kinds of nodes
        places, events = last(pairs, src)
        limits = before.index_select(0, places)
        groups = ((args.source_keys, pairs), (args.destination_keys, src))
        lasts = (last_event(keys, nodes.index_select(0, places), limits, newer) for keys, nodes in groups)
        replies = Replies(places, events, *(tables.number(each, group) for group, each in enumerate(lasts)))
    last_received = last_event(args.destination_keys, pairs, before, newer)
    return Reads(pairs, times, before, last_sent, sent, last_received, last(src, pairs), replies)


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
        args.newer_pairs, number, args.dst.shape[1], *TAUS, *SPANS,
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
