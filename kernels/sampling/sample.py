"""Temporal neighbours of each root from before its time: the most recent ones, or a uniform sample."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.philox import philox_below, philox_block, philox_integers
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import Config, cdiv, device_function, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

CONFIGS = Config({"BLOCK": 32}, num_warps=2), Config({"BLOCK": 16}, num_warps=1), Config({"BLOCK": 64}, num_warps=4)
Sampled = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Recent(NamedTuple):
    """The `fanout` latest T-CSR entries of each root with time < root time, the latest first.

    Args:
        indptr: [N + 1] int64; node v owns the entries indptr[v] to indptr[v + 1].
        neighbours: [M] integer, the other endpoint of each entry, sorted by node, then time, then file order.
        event_ids: [M] integer, the event of each entry.
        times: [M] int64 or float64, the time of each entry. These four may be in pinned host memory.
        roots: [R] integer nodes; a negative one is padding and has no neighbours.
        root_times: [R], in the dtype of `times`.
        fanout: F ≥ 1.
        dtype: floating type of the returned differences.

    Returns:
        neighbours [R, F] int64 and event ids [R, F] int64, −1 in slots without a neighbour; Δt = root time − entry
        time [R, F] in `dtype`, subtracted before it is rounded, 0 in empty slots; counts [R] int64 of filled slots,
        which come first. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device or fanout; with debugging on, a root outside the graph.
    """

    indptr: torch.Tensor
    neighbours: torch.Tensor
    event_ids: torch.Tensor
    times: torch.Tensor
    roots: torch.Tensor
    root_times: torch.Tensor
    fanout: int
    dtype: torch.dtype = torch.float32


class Uniform(NamedTuple):
    """Sample `fanout` T-CSR entries of each root with time < root time uniformly with replacement (as in TGL).

    A root with n > 0 earlier entries gets min(n, fanout) slots, so on average no entry of a short history counts more
    than once. The draw for slot j of root r depends only on `draws` and r·fanout + j.

    Args:
        indptr: [N + 1] int64; node v owns the entries indptr[v] to indptr[v + 1].
        neighbours: [M] integer, the other endpoint of each entry, sorted by node, then time, then file order.
        event_ids: [M] integer, the event of each entry.
        times: [M] int64 or float64, the time of each entry. These four may be in pinned host memory.
        roots: [R] integer nodes; a negative one is padding and has no neighbours.
        root_times: [R], in the dtype of `times`.
        fanout: F ≥ 1.
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration).
        dtype: floating type of the returned differences.

    Returns:
        As for `sample_recent`, in order of the draws: neighbours [R, F] int64 and event ids [R, F] int64, −1 in empty
        slots; Δt [R, F] in `dtype`, 0 in empty slots; counts [R] int64 of filled slots, which come first. Nothing is
        mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device or fanout; with debugging on, a root outside the graph.
    """

    indptr: torch.Tensor
    neighbours: torch.Tensor
    event_ids: torch.Tensor
    times: torch.Tensor
    roots: torch.Tensor
    root_times: torch.Tensor
    fanout: int
    draws: torch.Tensor
    dtype: torch.dtype = torch.float32


def _draws(args: Recent | Uniform) -> torch.Tensor | None:
    """Philox words of the draws, or None for the most recent neighbours."""
    return args.draws if isinstance(args, Uniform) else None


def _reference(args: Recent | Uniform) -> Sampled:
    roots, device, draws = args.roots, args.roots.device, _draws(args)
    if args.times.numel() == 0:
        padding = torch.full((roots.numel(), args.fanout), -1, dtype=torch.int64, device=device)
        counts = torch.zeros_like(roots, dtype=torch.int64)
        return padding, padding.clone(), torch.zeros_like(padding, dtype=args.dtype), counts
    start, segment_end = segments(args.indptr, roots)
    end = first_not_before(args.times, start, segment_end, args.root_times)
    if draws is None:
        positions = end.unsqueeze(1) - torch.arange(1, args.fanout + 1, device=device)
    else:
        slots = torch.arange(roots.numel() * args.fanout, device=device).view(-1, args.fanout)
        positions = start.unsqueeze(1) + philox_integers(draws, slots, (end - start).unsqueeze(1))
    counts = (end - start).clamp_(max=args.fanout)
    entries = args.neighbours, args.event_ids, args.times
    return (*gather_entries(positions, counts, args.root_times, *entries, args.dtype), counts)


def segments(indptr: torch.Tensor, roots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end [R] of each root's entries; an empty segment for a negative root."""
    node = roots.clamp(min=0)
    start = indptr.index_select(0, node)
    return start, torch.where(roots < 0, start, indptr.index_select(0, node + 1))


def first_not_before(times: torch.Tensor, start: torch.Tensor, end: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """First position with a time ≥ the bound in each segment [start, end) of sorted `times` [M > 0]; all [R]."""
    ahead = times.index_select(0, (end - 1).clamp_(min=0)) < bounds
    if bool((ahead | (end == start)).all()):  # as after the last event
        return end
    position = start
    for bit in reversed(range(int((end - start).max()).bit_length())):
        # A step beyond the segment stops at its end; a step is accepted if all earlier entries are before the bound.
        candidate = torch.minimum(position + (1 << bit), end)
        probe = times.index_select(0, (candidate - 1).clamp_(min=0))
        position = torch.where(probe < bounds, candidate, position)
    return torch.maximum(position, start)


@fused()
def gather_entries(
    positions: torch.Tensor,
    counts: torch.Tensor,
    root_times: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T-CSR entries at the first `counts` [R] of each row of `positions` [R, F]: neighbours, event ids and Δt."""
    filled = torch.arange(positions.shape[1], device=positions.device) < counts.unsqueeze(1)
    positions = torch.where(filled, positions, 0)
    deltas = torch.where(filled, root_times.unsqueeze(1) - times[positions], 0).to(dtype)
    nodes = torch.where(filled, neighbours[positions].long(), -1)
    return nodes, torch.where(filled, event_ids[positions].long(), -1), deltas


@device_function
def block_segments(p_indptr, p_roots, p_times, p_root_times, o_root, m_root):
    """Start of the entries, end of those before the root's time, and that time, for a block of roots [BLOCK].

    A binary search runs on all roots in step; a negative root and one outside the mask have no entries.
    """
    b_root = tl.load(p_roots + o_root, mask=m_root, other=-1).to(tl.int64)
    m_real = b_root >= 0
    b_time = tl.load(p_root_times + o_root, mask=m_root, other=0)
    b_start = tl.load(p_indptr + b_root, mask=m_real, other=0)
    low, high = b_start, tl.load(p_indptr + b_root + 1, mask=m_real, other=0)
    while tl.max(high - low, 0) > 0:
        middle = low + (high - low) // 2
        m_open = low < high
        early = m_open & (tl.load(p_times + middle, mask=m_open, other=0) < b_time)
        low, high = tl.where(early, middle + 1, low), tl.where(m_open & ~early, middle, high)
    return b_start, low, b_time


@device_function
def write_entries(
    p_neighbours, p_event_ids, p_times, p_out_nodes, p_out_events, p_out_deltas,
    o_root, m_root, i_slot, b_time, b_position, m_filled, FANOUT: tl.constexpr,
):  # fmt: skip
    """Write slots i_slot [SLOTS] of a block of roots: the entries at b_position [BLOCK, SLOTS] under m_filled, else −1
    and 0."""
    o_slot = o_root.to(tl.int64)[:, None] * FANOUT + i_slot[None, :]
    m_slot = m_root[:, None] & (i_slot < FANOUT)[None, :]
    b_node = tl.load(p_neighbours + b_position, mask=m_filled, other=-1).to(tl.int64)
    b_event = tl.load(p_event_ids + b_position, mask=m_filled, other=-1).to(tl.int64)
    b_delta = b_time[:, None] - tl.load(p_times + b_position, mask=m_filled, other=0)
    tl.store(p_out_nodes + o_slot, b_node, mask=m_slot)
    tl.store(p_out_events + o_slot, b_event, mask=m_slot)
    b_delta = tl.where(m_filled, b_delta, 0)
    if p_out_deltas.dtype.element_ty == tl.bfloat16:
        b_delta = b_delta.to(tl.float32)  # as in torch; the interpreter converts no other way, and truncates
    tl.store(p_out_deltas + o_slot, b_delta.to(p_out_deltas.dtype.element_ty), mask=m_slot)


@kernel(*CONFIGS, space=spaces.SAMPLE)
def recent_kernel(
    p_indptr, p_neighbours, p_event_ids, p_times, p_roots, p_root_times,
    p_out_nodes, p_out_events, p_out_deltas, p_out_counts, num_roots,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slot j of root r: the entry at end_r − 1 − j, where end_r is the first of r's entries with time ≥ time_r."""
    o_root = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_root = o_root < num_roots
    b_start, b_end, b_time = block_segments(p_indptr, p_roots, p_times, p_root_times, o_root, m_root)
    b_count = tl.minimum(b_end - b_start, FANOUT)
    tl.store(p_out_counts + o_root, b_count, mask=m_root)
    for i_first in range(0, FANOUT, SLOTS):
        i_slot = i_first + tl.arange(0, SLOTS)
        m_filled = i_slot[None, :] < b_count[:, None]
        b_position = tl.where(m_filled, b_end[:, None] - 1 - i_slot[None, :], 0)
        write_entries(
            p_neighbours, p_event_ids, p_times, p_out_nodes, p_out_events, p_out_deltas,
            o_root, m_root, i_slot, b_time, b_position, m_filled, FANOUT,
        )  # fmt: skip


@kernel(*CONFIGS, space=spaces.SAMPLE)
def uniform_kernel(
    p_indptr, p_neighbours, p_event_ids, p_times, p_roots, p_root_times, p_draws,
    p_out_nodes, p_out_events, p_out_deltas, p_out_counts, num_roots,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slot j < min(n_r, F) of root r: the entry at start_r + ⌊philox(rF + j)₀ · n_r / 2³²⌋ of its n_r earlier ones."""
    o_root = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_root = o_root < num_roots
    b_start, b_end, b_time = block_segments(p_indptr, p_roots, p_times, p_root_times, o_root, m_root)
    b_available = b_end - b_start
    b_count = tl.minimum(b_available, FANOUT)
    tl.store(p_out_counts + o_root, b_count, mask=m_root)
    for i_first in range(0, FANOUT, SLOTS):
        i_slot = i_first + tl.arange(0, SLOTS)
        m_filled = i_slot[None, :] < b_count[:, None]
        b_word, _, _, _ = philox_block(p_draws, o_root.to(tl.int64)[:, None] * FANOUT + i_slot[None, :])
        b_position = tl.where(m_filled, b_start[:, None] + philox_below(b_word, b_available[:, None]), 0)
        write_entries(
            p_neighbours, p_event_ids, p_times, p_out_nodes, p_out_events, p_out_deltas,
            o_root, m_root, i_slot, b_time, b_position, m_filled, FANOUT,
        )  # fmt: skip


def _launch(args: Recent | Uniform) -> Sampled:
    """Launch programs that search for BLOCK roots, draw if needed, and copy their entries.

    A program handles all slots of a typical fanout at once, but splits a large one, which would spill registers.
    """
    out, (sampler, draws) = (
        _empty(args),
        (uniform_kernel, (args.draws,)) if isinstance(args, Uniform) else (recent_kernel, ()),
    )
    config = sampler.config()
    sampler.launch(
        (cdiv(args.roots.numel(), config["BLOCK"]),), config,
        args.indptr, args.neighbours, args.event_ids, args.times, args.roots, args.root_times, *draws, *out,
        args.roots.numel(), FANOUT=args.fanout, SLOTS=min(pow2(args.fanout, 1), 16),
    )  # fmt: skip
    return out


def _empty(args: Recent | Uniform) -> Sampled:
    """Allocate the outputs."""
    nodes = args.roots.new_empty((args.roots.numel(), args.fanout), dtype=torch.int64)
    counts = torch.empty_like(args.roots, dtype=torch.int64)
    return nodes, torch.empty_like(nodes), torch.empty_like(nodes, dtype=args.dtype), counts


def _check(args: Recent | Uniform) -> None:
    draws = _draws(args)
    name = "sample_recent" if draws is None else "sample_uniform"
    entries = {"neighbours": args.neighbours, "event_ids": args.event_ids, "times": args.times}
    starts = {"roots": args.roots, "root_times": args.root_times}
    if not isinstance(args.fanout, int) or args.fanout < 1:
        raise ValueError(f"{name}: fanout must be an integer of at least 1, not {args.fanout!r}")
    if args.indptr.dim() != 1 or args.indptr.numel() == 0:
        raise ValueError(f"{name}: indptr has shape {tuple(args.indptr.shape)}; give [N + 1] for N nodes")
    if args.dtype not in checks.FLOATS:
        raise ValueError(f"{name}: dtype must be a floating type, not {args.dtype}; torch.float32 is the default")
    if args.root_times.dtype != args.times.dtype:
        raise ValueError(
            f"{name}: root_times is {args.root_times.dtype}, times are {args.times.dtype}; give both one dtype"
        )
    for vectors in (starts, entries):
        shapes = [tuple(vector.shape) for vector in vectors.values()]
        if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"{name}: {', '.join(vectors)} are {shapes}; give vectors of one length")
    checks.dtype(name, (torch.int64,), indptr=args.indptr, draws=draws)
    checks.dtype(name, checks.INTEGERS, neighbours=args.neighbours, event_ids=args.event_ids, roots=args.roots)
    checks.dtype(name, checks.TIMES, times=args.times)
    if draws is not None and draws.shape != (4,):
        words = "(seed, purpose, epoch, iteration)"
        raise ValueError(f"{name}: draws has shape {tuple(draws.shape)}; give the four words {words} as [4]")
    checks.layout(name, indptr=args.indptr, **entries, **starts, draws=draws)
    checks.device(
        name, args.roots.device, ("indptr", *entries),
        indptr=args.indptr, **entries, root_times=args.root_times, draws=draws,
    )  # fmt: skip
    checks.within(name, "roots", args.roots, args.indptr.numel() - 1, None)
    checks.within(name, "indptr", args.indptr, args.times.numel() + 1)


sample_recent = operation(
    "sample_recent", Recent, reference=_reference, launch=_launch, fake=_empty, check=_check, on="roots"
)
sample_uniform = operation(
    "sample_uniform", Uniform, reference=_reference, launch=_launch, fake=_empty, check=_check, on="roots"
)
