"""Temporal neighbours of each root from before its time: the most recent ones, or a uniform sample."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.philox import philox_below, philox_block, philox_integers
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation
from mspipe_triton.kernels.sampling.entries import (
    block_segments,
    first_not_before,
    gather_entries,
    segments,
    write_entries,
)

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
    than once. The draw for slot j of root r depends only on `draws` and p_r·fanout + j, where p_r is the root's place.

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
        places: [R] int64, at least 0, of the roots in a longer list, so that a part of it has the draws of the whole;
            None for 0, 1, ….

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
    places: torch.Tensor | None = None


def _draws(args: Recent | Uniform) -> torch.Tensor | None:
    """Philox words of the draws, or None for the most recent neighbours."""
    return args.draws if isinstance(args, Uniform) else None


def _places(args: Recent | Uniform) -> torch.Tensor | None:
    """Return the roots' places for the draws, or None if they are their numbers."""
    return args.places if isinstance(args, Uniform) else None


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
        places = _places(args)
        places = torch.arange(roots.numel(), device=device) if places is None else places
        slots = places.unsqueeze(1) * args.fanout + torch.arange(args.fanout, device=device)
        positions = start.unsqueeze(1) + philox_integers(draws, slots, (end - start).unsqueeze(1))
    counts = (end - start).clamp_(max=args.fanout)
    entries = args.neighbours, args.event_ids, args.times
    return (*gather_entries(positions, counts, args.root_times, *entries, args.dtype), counts)


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
    p_indptr, p_neighbours, p_event_ids, p_times, p_roots, p_root_times, p_draws, p_places,
    p_out_nodes, p_out_events, p_out_deltas, p_out_counts, num_roots,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slot j < min(n_r, F) of root r: the entry at start_r + ⌊philox(p_r F + j)₀ · n_r / 2³²⌋ of its n_r earlier ones,
    where p_r is r without places."""
    o_root = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_root = o_root < num_roots
    b_start, b_end, b_time = block_segments(p_indptr, p_roots, p_times, p_root_times, o_root, m_root)
    b_available = b_end - b_start
    b_count = tl.minimum(b_available, FANOUT)
    tl.store(p_out_counts + o_root, b_count, mask=m_root)
    b_place = o_root.to(tl.int64)
    if p_places is not None:
        b_place = tl.load(p_places + o_root, mask=m_root, other=0)
    for i_first in range(0, FANOUT, SLOTS):
        i_slot = i_first + tl.arange(0, SLOTS)
        m_filled = i_slot[None, :] < b_count[:, None]
        b_word, _, _, _ = philox_block(p_draws, b_place[:, None] * FANOUT + i_slot[None, :])
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
        (uniform_kernel, (args.draws, args.places)) if isinstance(args, Uniform) else (recent_kernel, ()),
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
    draws, places = _draws(args), _places(args)
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
    checks.dtype(name, (torch.int64,), indptr=args.indptr, draws=draws, places=places)
    checks.dtype(name, checks.INTEGERS, neighbours=args.neighbours, event_ids=args.event_ids, roots=args.roots)
    checks.dtype(name, checks.TIMES, times=args.times)
    if draws is not None and draws.shape != (4,):
        words = "(seed, purpose, epoch, iteration)"
        raise ValueError(f"{name}: draws has shape {tuple(draws.shape)}; give the four words {words} as [4]")
    if places is not None and places.shape != args.roots.shape:
        ours, theirs = tuple(places.shape), tuple(args.roots.shape)
        raise ValueError(f"{name}: places has shape {ours}, roots has {theirs}; give a place for each root")
    checks.layout(name, indptr=args.indptr, **entries, **starts, draws=draws, places=places)
    checks.device(
        name, args.roots.device, ("indptr", *entries),
        indptr=args.indptr, **entries, root_times=args.root_times, draws=draws, places=places,
    )  # fmt: skip
    checks.within(name, "roots", args.roots, args.indptr.numel() - 1, None)
    checks.within(name, "indptr", args.indptr, args.times.numel() + 1)


sample_recent = operation(
    "sample_recent", Recent, reference=_reference, launch=_launch, fake=_empty, check=_check, on="roots"
)
sample_uniform = operation(
    "sample_uniform", Uniform, reference=_reference, launch=_launch, fake=_empty, check=_check, on="roots"
)
