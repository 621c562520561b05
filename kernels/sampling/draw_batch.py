"""The next batch of a stream, drawn on the device: events, negatives, and roots and times for neighbour sampling."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.philox import philox_below, philox_block, philox_integers
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "draw_batch"
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Draw(NamedTuple):
    """A batch of B consecutive events and random candidate destinations, as roots: src ‖ dst ‖ candidates.

    Event i of the batch is e = span[0] + i, which is real if e < span[1]. The real events come first, and padding gives
    the last batch of a stream the shape of the others. Candidate n of event i is root 2B + i·each + n, and is uniform
    among the K − 1 destinations other than the event's own: with r = ⌊w · (K − 1) / 2³²⌋, where w is the first Philox
    word (Salmon et al., SC 2011) of position i·each + n, it is destinations[r] if that is less than dst[e], else
    destinations[r + 1]. It depends only on `draws`, on this position and on the event's own destination.

    Args:
        src, dst: [E] integer nodes, E ≥ 1, the endpoints of all events.
        times: [E] int64 or float64.
        destinations: [K] integer nodes, 2 ≤ K ≤ 2³¹, distinct and ascending, with all of `dst` among them.
        span: [2] int64, the batch's first event and the end of the events, clipped to [0, E].
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration).
        size: B ≥ 0.
        each: candidates per event, at least 1.

    Returns:
        roots [(2 + each)·B] int64, −1 if the event is not real; root_times [(2 + each)·B], the time of the root's
        event, or if it is not real, of the last event before the span's end (of event 0 if there is none); events [B]
        int64, e or −1; count [1] int64, the number of real events. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device, size or number of candidates; no events; fewer than two
            destinations; with debugging on, destinations that are not ascending, or lack a dst.
    """

    src: torch.Tensor
    dst: torch.Tensor
    times: torch.Tensor
    destinations: torch.Tensor
    span: torch.Tensor
    draws: torch.Tensor
    size: int
    each: int = 1


def draw_others(
    draws: torch.Tensor, positions: torch.Tensor, dst: torch.Tensor, destinations: torch.Tensor
) -> torch.Tensor:
    """Draw candidates [...] other than the events' own destinations, as `Draw` defines them.

    Args:
        draws: [4, ...] int64, the Philox words; positions: [...] int64; dst: [...] integer nodes, the events' own
            destinations. These three broadcast.
        destinations: [K] integer nodes, 2 ≤ K ≤ 2³¹, distinct and ascending, with all of `dst` among them.
    """
    choice = philox_integers(draws, positions, destinations.numel() - 1)
    place = choice.flatten()  # index_select is faster than an index of several dimensions
    lower, upper = (nodes.index_select(0, place).view_as(choice) for nodes in (destinations[:-1], destinations[1:]))
    return torch.where(lower < dst, lower, upper)


def _reference(args: Draw) -> Batch:
    span, destinations, times = args.span, args.destinations, args.times
    first, end = span.clamp(0, times.numel())
    row, candidate = (torch.arange(count, device=span.device) for count in (args.size, args.size * args.each))
    event = first + row
    place = torch.minimum(event, end - 1).clamp_(min=0)
    src, dst = args.src.index_select(0, place), args.dst.index_select(0, place)
    event_of = candidate // args.each
    others = draw_others(args.draws, candidate, dst.index_select(0, event_of), destinations)
    nodes = torch.cat([src.long(), dst.long(), others.long()])
    owner = torch.cat([row, row, event_of])
    real, moments = event < end, times.index_select(0, place)
    roots = torch.where(real.index_select(0, owner), nodes, -1)
    return roots, moments.index_select(0, owner), torch.where(real, event, -1), real.sum(0, keepdim=True)


@kernel(
    Config({"BLOCK": 128}, num_warps=4),
    Config({"BLOCK": 64}, num_warps=2),
    Config({"BLOCK": 256}, num_warps=4),
    space=spaces.FLAT,
)
def batch_kernel(
    p_src, p_dst, p_times, p_destinations, p_span, p_draws, p_roots, p_root_times, p_events, p_count,
    size, num_events, num_destinations, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For roots r < (2 + EACH)·B, where [first, end) is the span clipped to the stream of E events:

        i = r, r − B or ⌊(r − 2B) / EACH⌋          e = first + i          time_r = times[max(min(e, end − 1), 0)]
        c = ⌊philox(r − 2B)₀ · (K − 1) / 2³²⌋
        root_r = src_e, dst_e, or destinations[c] if that is less than dst_e, else destinations[c + 1]; −1 if e ≥ end

    and events_i = e where e < end, else −1; count = min(end − first, B), at least 0.
    """
    o_root = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_root = o_root < (2 + EACH) * size
    i_drawn = o_root - 2 * size
    m_drawn = i_drawn >= 0
    m_src = o_root < size
    i_event = tl.where(m_drawn, i_drawn // EACH, tl.where(m_src, o_root, o_root - size))
    first = tl.minimum(tl.maximum(tl.load(p_span), 0), num_events)
    end = tl.minimum(tl.maximum(tl.load(p_span + 1), 0), num_events)
    b_event = first + i_event
    m_real = m_root & (b_event < end)
    b_word, _, _, _ = philox_block(p_draws, i_drawn)
    b_choice = philox_below(b_word, tl.full([BLOCK], num_destinations - 1, tl.int64))
    b_src = tl.load(p_src + b_event, mask=m_real & m_src, other=-1).to(tl.int64)
    b_dst = tl.load(p_dst + b_event, mask=m_real & ~m_src, other=-1).to(tl.int64)
    b_lower = tl.load(p_destinations + b_choice, mask=m_real & m_drawn, other=-1).to(tl.int64)
    b_upper = tl.load(p_destinations + b_choice + 1, mask=m_real & m_drawn, other=-1).to(tl.int64)
    b_drawn = tl.where(b_lower < b_dst, b_lower, b_upper)
    tl.store(p_roots + o_root, tl.where(m_drawn, b_drawn, tl.where(m_src, b_src, b_dst)), mask=m_root)
    b_time = tl.load(p_times + tl.maximum(tl.minimum(b_event, end - 1), 0), mask=m_root)
    tl.store(p_root_times + o_root, b_time, mask=m_root)
    tl.store(p_events + o_root, tl.where(m_real, b_event, -1), mask=m_src)
    tl.store(p_count, tl.minimum(tl.maximum(end - first, 0), size), mask=tl.program_id(0) == 0)


def _launch(args: Draw) -> Batch:
    """Launch programs for BLOCK roots each, at least one, which writes the count of an empty batch."""
    out, config = _empty(args), batch_kernel.config()
    batch_kernel.launch(
        (max(cdiv(out[0].numel(), config["BLOCK"]), 1),), config,
        *args[:6], *out, args.size, args.times.numel(), args.destinations.numel(), EACH=args.each,
    )  # fmt: skip
    return out


def _empty(args: Draw) -> Batch:
    """Allocate the outputs."""
    roots = args.span.new_empty((2 + args.each) * args.size)
    times = torch.empty_like(roots, dtype=args.times.dtype)
    return roots, times, args.span.new_empty(args.size), args.span.new_empty(1)


def _check(args: Draw) -> None:
    device, ends, words = args.span.device, {"src": args.src, "dst": args.dst}, {"span": args.span, "draws": args.draws}
    checks.dtype(_NAME, checks.INTEGERS, **ends, destinations=args.destinations)
    checks.dtype(_NAME, checks.TIMES, times=args.times)
    checks.dtype(_NAME, (torch.int64,), **words)
    checks.dims(_NAME, 1, times=args.times, destinations=args.destinations)
    checks.shape(_NAME, **{name: (part, tuple(args.times.shape)) for name, part in ends.items()})
    checks.shape(_NAME, span=(args.span, (2,)), draws=(args.draws, (4,)))
    if args.times.numel() == 0:
        raise ValueError(f"{_NAME}: times has shape (0,); give at least one event")
    if args.destinations.numel() < 2:
        raise ValueError(
            f"{_NAME}: destinations has shape {tuple(args.destinations.shape)}; give at least two, "
            "because a candidate is never the event's own destination"
        )
    for name, number, least in (("size", args.size, 0), ("each", args.each, 1)):
        if not isinstance(number, (int, torch.SymInt)) or number < least:
            raise ValueError(f"{_NAME}: {name} must be an integer of at least {least}, not {number!r}")
    checks.layout(_NAME, **ends, times=args.times, destinations=args.destinations, **words)
    checks.device(_NAME, device, (), **ends, times=args.times, destinations=args.destinations, draws=args.draws)
    if checks.debugging():
        ascending, within = args.destinations.diff() > 0, torch.isin(args.dst, args.destinations)
        if not bool(ascending.all()) or not bool(within.all()):
            raise ValueError(
                f"{_NAME}: destinations are not the distinct dst in ascending order; give torch.unique(dst)"
            )


draw_batch = operation(_NAME, Draw, reference=_reference, launch=_launch, fake=_empty, check=_check, on="span")
