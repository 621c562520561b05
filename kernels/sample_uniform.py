"""Uniformly drawn temporal neighbours of each root, strictly before its time."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.philox import philox_integers
from mspipe_triton.kernels.sample_recent import first_not_before, gather_entries, sample_recent


def sample_uniform(
    indptr: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    draws: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every root, `fanout` T-CSR entries with time < root time, drawn uniformly with replacement (as TGL does).

    A root with n > 0 earlier entries gets min(n, fanout) slots, so that a short history is not weighed more than
    once per entry on average. The draw of root r, slot j depends on `draws` and on r·fanout + j alone.

    Args:
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration).
        others: as in `sample_recent`.

    Returns:
        As `sample_recent`, in the order of the draws.
    """
    if times.numel() == 0:
        return sample_recent(indptr, neighbours, event_ids, times, roots, root_times, fanout, dtype)
    start = indptr[roots]
    available = first_not_before(times, start, indptr[roots + 1], root_times) - start
    slots = torch.arange(roots.numel() * fanout, device=roots.device).view(-1, fanout)
    positions = start.unsqueeze(1) + philox_integers(draws, slots, available.unsqueeze(1))
    counts = available.clamp(max=fanout)
    return (*gather_entries(positions, counts, root_times, neighbours, event_ids, times, dtype), counts)
