"""Negatives that the source met before, mixed with random ones, and the weights that correct a softmax over them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.philox import philox_below, philox_block, philox_integers
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, device_function, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "historical_negatives"
_EVENT = (1 << 32) - 1  # the bits of an event in a key
Weighted = tuple[torch.Tensor, torch.Tensor]


class Historical(NamedTuple):
    """Replace the last H of each query's K random negatives by destinations that its source met before.

    Events are numbered in the order of time, and src_i met a node before if an event numbered below before_i goes from
    src_i to it. Let n_i be the number of these nodes other than dst_i. Historical negative h of query i is number
    ⌊w · n_i / 2³²⌋ of them in the order of first meeting, where w is the first Philox word (Salmon et al., SC 2011) of
    position i·H + h. The random negative stays if n_i = 0, or if src_i meets the drawn node now: in an event of its
    pair numbered before_i or above, at the query's time.

    The log weight of a negative c is −log q_i(c), where q_i(c) is the expected number of draws of c:

        q_i(c) = [c met before, c ≠ dst_i] · H / n_i + (K − H + [n_i = 0] · H) / (destinations − 1)

    So Σ exp(score_c + log weight_c) over the negatives estimates Σ exp(score_c) over all destinations but dst_i: the
    correction of sampled softmax (Bengio and Senécal 2008; Jean et al. 2015), with the balance heuristic for several
    proposals (Veach and Guibas 1995). The estimate has no bias if src_i meets no other node of its history now and
    some negatives are random (H < K or n_i = 0). q is at least 1 / (destinations − 1), since with H = K a random
    negative stays only because of a meeting now, which the formula does not count.

    Args:
        meeting_keys: [P] int64, src · 2³² + number of the pair's first event, of every distinct pair, ascending.
        pairs: [P] int64, the distinct src · 2³² + dst, ascending.
        pair_keys: [E] int64, E ≥ 1, place in `pairs` · 2³² + number of every event, ascending.
        event_dst: [E] integer nodes, the destinations of the events.
        times: [E] int64 or float64, the times of the events, never decreasing.
        src, dst: [B] integer nodes. A negative src is padding: its negatives stay, with log weights 0.
        query_times: [B] in the dtype of `times`.
        before: [B] int64, the number of events strictly before the query.
        negatives: [B, K] integer nodes, uniform among the destinations other than dst, as `draw_batch` draws them.
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration), other than those of `negatives`.
        historical: H, from 0 to K.
        destinations: number of distinct destinations of all events, from 2 to 2³¹.
        dtype: float32 or float64, of the log weights.

    Returns:
        negatives [B, K] int64; log weights [B, K] in `dtype`. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device, H or number of destinations; no events; with debugging on,
            keys that are not ascending, or numbers in `before` outside [0, E].
    """

    meeting_keys: torch.Tensor
    pairs: torch.Tensor
    pair_keys: torch.Tensor
    event_dst: torch.Tensor
    times: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    query_times: torch.Tensor
    before: torch.Tensor
    negatives: torch.Tensor
    draws: torch.Tensor
    historical: int
    destinations: int
    dtype: torch.dtype = torch.float32


def _reference(args: Historical) -> Weighted:
    src, before = args.src.long().unsqueeze(1), args.before.unsqueeze(1)
    (size, number), historical, source = args.negatives.shape, args.historical, src << 32
    nodes = torch.cat([args.negatives, args.dst.unsqueeze(1)], 1).long()
    first = _pair_event(args, source + nodes, 0)
    met, first_dst = first[:, :number] < before, first[:, number:]
    start, end, place_dst = (torch.searchsorted(args.meeting_keys, source + part) for part in (0, before, first_dst))
    met_dst = first_dst < before
    count = end - start - met_dst.long()

    positions = torch.arange(size * historical, device=src.device).view(size, historical)
    place = start + philox_integers(args.draws, positions, count)
    place += met_dst & (place >= place_dst)
    node = _at(args.event_dst, _at(args.meeting_keys, place) & _EVENT).long()
    event = _pair_event(args, source + node, before)
    meets = (event < args.times.numel()) & (_at(args.times, event) == args.query_times.unsqueeze(1))
    replaced = (count > 0) & ~meets

    negatives, dst = nodes[:, :number], nodes[:, number:]
    met[:, number - historical :] |= replaced
    met &= negatives != dst
    random, last = negatives.split([number - historical, historical], 1)
    negatives = torch.cat([random, torch.where(replaced, node, last)], 1)
    unmet_weight, met_weight = _log_weights(count, number, historical, args.destinations, args.dtype)
    return negatives, torch.where(src < 0, 0, torch.where(met, met_weight, unmet_weight))


def _pair_event(args: Historical, pair: torch.Tensor, least: torch.Tensor | int) -> torch.Tensor:
    """Number of the first event of each pair src · 2³² + dst that is numbered `least` or above; E if there is none."""
    place = torch.searchsorted(args.pairs, pair)
    place = torch.where(_at(args.pairs, place) == pair, place, -1)
    bound = (place << 32) + least
    key = _at(args.pair_keys, torch.searchsorted(args.pair_keys, bound))
    return torch.where((key >= bound) & (key >> 32 == place), key & _EVENT, args.times.numel())


def _at(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values at places [...] of a table, the last one at places after its end."""
    return table.index_select(0, places.flatten().clamp_(max=table.numel() - 1)).view(places.shape)


def _log_weights(
    count: torch.Tensor, number: int, historical: int, destinations: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log weights of negatives that the source has not met, and of those that it has, from its numbers n of these."""
    random = torch.where(count == 0, number, number - historical)
    unmet, met = random.clamp(min=1).to(dtype), random.to(dtype)
    history = historical / count.clamp(min=1).to(dtype)
    return -(unmet / (destinations - 1)).log(), -(history + met / (destinations - 1)).log()


@device_function
def lower_bound(p_keys, b_key, low, high):
    """First place in [low, high) of ascending int64 keys with a key of at least b_key, `high` if there is none.

    A binary search runs on all elements of the block in step; an empty range reads nothing.
    """
    while tl.max(high - low) > 0:
        middle = low + (high - low) // 2
        m_open = low < high
        m_below = m_open & (tl.load(p_keys + middle, mask=m_open, other=0) < b_key)
        low, high = tl.where(m_below, middle + 1, low), tl.where(m_open & ~m_below, middle, high)
    return low


@device_function
def pair_event(p_pairs, p_pair_keys, b_pair, b_least, low, high, num_events):
    """Number of the first event of each pair numbered b_least or above, E if there is none; the pair is looked up in
    places [low, high) of the pairs."""
    b_place = lower_bound(p_pairs, b_pair, low, high)
    m_pair = (b_place < high) & (tl.load(p_pairs + b_place, mask=b_place < high, other=-1) == b_pair)
    b_events = tl.zeros_like(b_place) + num_events
    b_entry = lower_bound(p_pair_keys, (b_place << 32) + b_least, tl.zeros_like(b_place), tl.where(m_pair, b_events, 0))
    m_event = m_pair & (b_entry < num_events)
    b_key = tl.load(p_pair_keys + b_entry, mask=m_event, other=-1)
    return tl.where(m_event & (b_key >> 32 == b_place), b_key & 0xFFFFFFFF, b_events)


@kernel(
    Config({"BLOCK": 4}, num_warps=4),
    Config({"BLOCK": 16}, num_warps=4),
    space={"BLOCK": (4, 8, 16, 32, 64), **spaces.PLAIN},
)
def historical_kernel(
    p_meeting_keys, p_pairs, p_pair_keys, p_event_dst, p_times, p_src, p_dst, p_query_times, p_before, p_negatives,
    p_draws, p_out_negatives, p_log_weights, stride, size, num_events, num_pairs, destinations,
    COUNT: tl.constexpr, HISTORICAL: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For queries i < B and columns k < K, with h = k − (K − H), n_i nodes that src_i met before, other than dst_i, and
    d = destinations − 1:

        j = ⌊philox(iH + h)₀ · n_i / 2³²⌋               v = node j of these, in the order of first meeting
        c_ik = v if h ≥ 0, n_i > 0, and no event of (src_i, v) numbered before_i or above is at the query's time,
               else the random negative
        r_i = K if n_i = 0, else K − H
        log weight_ik = −log(H / n_i + r_i / d) if src_i met c_ik ≠ dst_i before, else −log(max(r_i, 1) / d);
               0 where src_i < 0
    """
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_row < size
    b_src = tl.load(p_src + o_row, mask=m_row, other=-1).to(tl.int64)
    b_dst = tl.load(p_dst + o_row, mask=m_row, other=-1).to(tl.int64)
    b_before = tl.load(p_before + o_row, mask=m_row, other=0)
    b_time = tl.load(p_query_times + o_row, mask=m_row, other=0)
    m_real = b_src >= 0
    b_source = b_src << 32
    # Both lists of pairs hold those of a source at the same places.
    b_zero = tl.zeros([BLOCK], tl.int64)
    b_start = lower_bound(p_meeting_keys, b_source, b_zero, tl.where(m_real, num_pairs + b_zero, 0))
    b_stop = lower_bound(p_meeting_keys, b_source + (1 << 32), b_start, tl.where(m_real, num_pairs + b_zero, b_start))
    b_end = lower_bound(p_meeting_keys, b_source + b_before, b_start, b_stop)
    b_first = pair_event(p_pairs, p_pair_keys, b_source + b_dst, b_zero, b_start, b_stop, num_events)
    m_met = b_first < b_before
    b_place = lower_bound(p_meeting_keys, b_source + b_first, b_start, b_end)
    b_count = b_end - b_start - m_met.to(tl.int64)

    dtype: tl.constexpr = p_log_weights.dtype.element_ty
    b_random = tl.where(b_count == 0, COUNT, COUNT - HISTORICAL)
    b_others = (destinations - 1 + b_zero).to(dtype)
    b_history = (HISTORICAL + b_zero).to(dtype) / tl.maximum(b_count, 1).to(dtype)
    b_unmet = tl.where(m_real, -tl.log(tl.maximum(b_random, 1).to(dtype) / b_others), 0)
    b_met = tl.where(m_real, -tl.log(b_history + b_random.to(dtype) / b_others), 0)

    for i_first in range(0, COUNT, COLUMNS):
        i_column = i_first + tl.arange(0, COLUMNS)
        i_drawn = i_column - (COUNT - HISTORICAL)
        m_slot = m_row[:, None] & (i_column < COUNT)[None, :]
        low = b_start[:, None] + tl.zeros([BLOCK, COLUMNS], tl.int64)
        high = b_stop[:, None] + tl.zeros([BLOCK, COLUMNS], tl.int64)
        m_drawn = m_slot & (i_drawn >= 0)[None, :] & (b_count > 0)[:, None]
        b_word, _, _, _ = philox_block(p_draws, o_row[:, None] * HISTORICAL + i_drawn[None, :])
        b_order = b_start[:, None] + philox_below(b_word, b_count[:, None])
        b_order += (m_met[:, None] & (b_order >= b_place[:, None])).to(tl.int64)
        b_event = tl.load(p_meeting_keys + b_order, mask=m_drawn, other=0) & 0xFFFFFFFF
        b_node = tl.load(p_event_dst + b_event, mask=m_drawn, other=-1).to(tl.int64)
        b_pair = b_source[:, None] + b_node
        b_now = pair_event(
            p_pairs, p_pair_keys, b_pair, b_before[:, None], low, tl.where(m_drawn, high, low), num_events
        )
        m_event = b_now < num_events
        m_drawn &= ~m_event | (tl.load(p_times + b_now, mask=m_event, other=0) != b_time[:, None])

        o_slot = o_row[:, None] * stride + i_column[None, :]
        m_random = m_slot & ~m_drawn
        b_node = tl.where(m_drawn, b_node, tl.load(p_negatives + o_slot, mask=m_random, other=-1).to(tl.int64))
        b_pair = b_source[:, None] + b_node
        b_event = pair_event(p_pairs, p_pair_keys, b_pair, 0, low, tl.where(m_random, high, low), num_events)
        m_met_node = (m_drawn | (b_event < b_before[:, None])) & (b_node != b_dst[:, None])
        o_out = o_row[:, None] * COUNT + i_column[None, :]
        tl.store(p_out_negatives + o_out, b_node, mask=m_slot)
        tl.store(p_log_weights + o_out, tl.where(m_met_node, b_met[:, None], b_unmet[:, None]), mask=m_slot)


def _launch(args: Historical) -> Weighted:
    """Launch programs for BLOCK queries each, which handle COLUMNS negatives of each at a time."""
    out, config, (size, count) = _empty(args), historical_kernel.config(), args.negatives.shape
    historical_kernel.launch(
        (cdiv(size, config["BLOCK"]),), config,
        *args[:11], *out, args.negatives.stride(0), size, args.times.numel(), args.pairs.numel(), args.destinations,
        COUNT=count, HISTORICAL=args.historical, COLUMNS=min(pow2(count, 1), 32),
    )  # fmt: skip
    return out


def _empty(args: Historical) -> Weighted:
    """Allocate the outputs."""
    shape = args.negatives.shape
    return args.negatives.new_empty(shape, dtype=torch.int64), args.negatives.new_empty(shape, dtype=args.dtype)


def _check(args: Historical) -> None:
    keys = checks.named(args, "meeting_keys", "pairs", "pair_keys")
    events, query = checks.named(args, "event_dst", "times"), checks.named(args, "dst", "query_times", "before")
    tensors = {**keys, **events, **query, **checks.named(args, "src", "negatives", "draws")}
    checks.dtype(_NAME, (torch.int64,), **keys, before=args.before, draws=args.draws)
    checks.dtype(_NAME, checks.INTEGERS, **checks.named(args, "event_dst", "src", "dst", "negatives"))
    checks.dtype(_NAME, checks.TIMES, times=args.times)
    checks.same_dtype(_NAME, times=args.times, query_times=args.query_times)
    if args.dtype not in checks.COMPUTED:
        raise ValueError(f"{_NAME}: dtype must be torch.float32 or torch.float64, not {args.dtype}")
    checks.dims(_NAME, 1, pairs=args.pairs, times=args.times, src=args.src)
    checks.dims(_NAME, 2, negatives=args.negatives)
    if args.times.numel() == 0:
        raise ValueError(f"{_NAME}: times has shape (0,); give at least one event")
    stream, size = tuple(args.times.shape), tuple(args.src.shape)
    checks.shape(_NAME, meeting_keys=(args.meeting_keys, tuple(args.pairs.shape)))
    checks.shape(
        _NAME, pair_keys=(args.pair_keys, stream), event_dst=(args.event_dst, stream), draws=(args.draws, (4,))
    )
    checks.shape(_NAME, **{name: (part, size) for name, part in query.items()})
    count = args.negatives.shape[1]
    checks.shape(_NAME, negatives=(args.negatives, (*size, count)))
    if not isinstance(args.historical, (int, torch.SymInt)) or not 0 <= args.historical <= count:
        raise ValueError(
            f"{_NAME}: historical must be an integer from 0 to {count}, the negatives of a query, "
            f"not {args.historical!r}"
        )
    if not isinstance(args.destinations, (int, torch.SymInt)) or args.destinations < 2:
        raise ValueError(f"{_NAME}: destinations must be an integer of at least 2, not {args.destinations!r}")
    checks.layout(_NAME, **tensors)
    checks.device(_NAME, args.src.device, (), **tensors)
    checks.within(_NAME, "before", args.before, args.times.numel() + 1)
    if checks.debugging():
        for name, part in keys.items():
            if not bool((part.diff() > 0).all()):
                raise ValueError(f"{_NAME}: {name} are not in ascending order; give {name}.sort().values")


historical_negatives = operation(
    _NAME, Historical, reference=_reference, launch=_launch, fake=_empty, check=_check, on="src"
)
