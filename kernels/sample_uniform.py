"""Uniformly drawn temporal neighbours of each root, strictly before its time."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import check_device, check_dtype, check_layout
from mspipe_triton.kernels.eager import eager
from mspipe_triton.kernels.launch import Config, cdiv, kernel, on_triton, tl
from mspipe_triton.kernels.philox import philox_below, philox_block, philox_integers
from mspipe_triton.kernels.sample_recent import (
    Sampled,
    block_segments,
    check_sampling,
    empty_sampled,
    first_not_before,
    gather_entries,
    nothing_sampled,
    segments,
    slot_block,
    write_entries,
)


def sample_uniform_reference(
    indptr: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    draws: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> Sampled:
    """`sample_uniform` in torch."""
    if times.numel() == 0:
        return nothing_sampled(roots, fanout, dtype)
    start, segment_end = segments(indptr, roots)
    available = first_not_before(times, start, segment_end, root_times) - start
    slots = torch.arange(roots.numel() * fanout, device=roots.device).view(-1, fanout)
    positions = start.unsqueeze(1) + philox_integers(draws, slots, available.unsqueeze(1))
    counts = available.clamp(max=fanout)
    return (*gather_entries(positions, counts, root_times, neighbours, event_ids, times, dtype), counts)


@kernel(Config({"BLOCK": 32}, num_warps=2), Config({"BLOCK": 16}, num_warps=1), Config({"BLOCK": 64}, num_warps=4))
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


def launch_sample_uniform(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, draws: torch.Tensor, dtype: torch.dtype,
) -> Sampled:  # fmt: skip
    """`sample_uniform` by its kernel: a program searches for BLOCK roots, draws and copies their entries."""
    out = empty_sampled(roots, fanout, dtype)
    config = uniform_kernel.config()
    uniform_kernel.launch(
        (cdiv(roots.numel(), config["BLOCK"]),), config,
        indptr, neighbours, event_ids, times, roots, root_times, draws, *out, roots.numel(),
        FANOUT=fanout, SLOTS=slot_block(fanout),
    )  # fmt: skip
    return out


@torch.library.custom_op("mspipe_triton::sample_uniform", mutates_args=())
def _operation(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, draws: torch.Tensor, dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = launch_sample_uniform if on_triton(roots) else sample_uniform_reference
    return run(indptr, neighbours, event_ids, times, roots, root_times, fanout, draws, dtype)


@_operation.register_fake
def _(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, draws: torch.Tensor, dtype: torch.dtype,
) -> Sampled:  # fmt: skip
    return empty_sampled(roots, fanout, dtype)


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
) -> Sampled:
    """For every root, `fanout` T-CSR entries with time < root time, drawn uniformly with replacement (as TGL does).

    A root with n > 0 earlier entries gets min(n, fanout) slots, so that a short history is not weighed more than
    once per entry on average. The draw of root r, slot j depends on `draws` and on r·fanout + j alone.

    Args:
        indptr: [N + 1] int64; node v owns the entries indptr[v] to indptr[v + 1].
        neighbours: [M] integer, the other endpoint of each entry, sorted by node, then time, then file order.
        event_ids: [M] integer, the event of each entry.
        times: [M] int64 or float64, the time of each entry. These four may lie in pinned host memory.
        roots: [R] integer nodes; a negative one is padding and has no neighbours.
        root_times: [R], in the dtype of `times`.
        fanout: F ≥ 1.
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration).
        dtype: floating type of the returned differences.

    Returns:
        As `sample_recent`, in the order of the draws: neighbours [R, F] int64 and event ids [R, F] int64, −1 in empty
        slots; Δt [R, F] in `dtype`, 0 in empty slots; counts [R] int64 of filled slots, which come first. Nothing is
        mutated, nothing is differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device or fanout; with debugging on, a root outside the graph.
    """
    check_sampling("sample_uniform", indptr, neighbours, event_ids, times, roots, root_times, fanout, dtype)
    check_dtype("sample_uniform", (torch.int64,), draws=draws)
    if draws.shape != (4,):
        words = "(seed, purpose, epoch, iteration)"
        raise ValueError(f"sample_uniform: draws is {tuple(draws.shape)}; give the four words {words} as [4]")
    check_layout("sample_uniform", draws=draws)
    check_device("sample_uniform", roots.device, draws=draws)
    run = sample_uniform_reference if eager(roots) else _operation
    sampled: Sampled = run(indptr, neighbours, event_ids, times, roots, root_times, fanout, draws, dtype)
    return sampled
