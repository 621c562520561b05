"""The most recent temporal neighbours of each root, strictly before its time."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.fusion import fused


def sample_recent(
    indptr: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every root, the `fanout` latest T-CSR entries with time < root time, the latest first.

    Args:
        indptr: [N + 1] int64; node v owns the entries indptr[v] to indptr[v + 1].
        neighbours: [M] integer, the other endpoint of each entry, sorted by node, then time, then file order.
        event_ids: [M] integer, the event of each entry.
        times: [M] int64 or float64, the time of each entry.
        roots: [R] integer nodes.
        root_times: [R], in the dtype of `times`.
        fanout: F ≥ 1.
        dtype: floating type of the returned differences.

    Returns:
        neighbours [R, F] int64 and event ids [R, F] int64, −1 in slots without a neighbour; Δt = root time − entry
        time [R, F] in `dtype`, subtracted before it is rounded, 0 in empty slots; counts [R] int64 of filled slots
        (the filled ones come first). Nothing is mutated, nothing is differentiable.
    """
    if times.numel() == 0:
        nothing = torch.full((roots.numel(), fanout), -1, dtype=torch.int64, device=roots.device)
        none = torch.zeros_like(roots, dtype=torch.int64)
        return nothing, nothing.clone(), torch.zeros_like(nothing, dtype=dtype), none
    start, segment_end = indptr.index_select(0, roots), indptr.index_select(0, roots + 1)
    end = first_not_before(times, start, segment_end, root_times)
    positions = end.unsqueeze(1) - torch.arange(1, fanout + 1, device=roots.device)
    counts = (end - start).clamp_(max=fanout)
    return (*gather_entries(positions, counts, root_times, neighbours, event_ids, times, dtype), counts)


def first_not_before(times: torch.Tensor, start: torch.Tensor, end: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Per segment [start, end) of sorted `times` [M > 0], the first position whose time is ≥ its bound; all [R]."""
    position = start
    for bit in reversed(range(int((end - start).max()).bit_length() if start.numel() else 0)):
        # A step that would leave the segment goes to its end, and is taken where all before it is early enough.
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
    """T-CSR entries at `positions` [R, F], the first `counts` [R] a row: neighbours, event ids, time differences."""
    filled = torch.arange(positions.shape[1], device=positions.device) < counts.unsqueeze(1)
    positions = torch.where(filled, positions, 0)
    deltas = torch.where(filled, root_times.unsqueeze(1) - times[positions], 0).to(dtype)
    nodes = torch.where(filled, neighbours[positions].long(), -1)
    return nodes, torch.where(filled, event_ids[positions].long(), -1), deltas
