"""Entries of a T-CSR from before each root's time: their search, and the copy of those that a sampler chooses."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import device_function, tl


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
