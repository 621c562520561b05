"""The most recent temporal neighbours of each root, strictly before its time."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import FLOATS, INTEGERS, TIMES, check_device, check_dtype, check_layout, check_range
from mspipe_triton.kernels.eager import eager
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import Config, cdiv, device_function, kernel, on_triton, pow2, tl

Sampled = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def sample_recent_reference(
    indptr: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    dtype: torch.dtype = torch.float32,
) -> Sampled:
    """`sample_recent` in torch."""
    if times.numel() == 0:
        return nothing_sampled(roots, fanout, dtype)
    start, segment_end = segments(indptr, roots)
    end = first_not_before(times, start, segment_end, root_times)
    positions = end.unsqueeze(1) - torch.arange(1, fanout + 1, device=roots.device)
    counts = (end - start).clamp_(max=fanout)
    return (*gather_entries(positions, counts, root_times, neighbours, event_ids, times, dtype), counts)


def segments(indptr: torch.Tensor, roots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end [R] of the entries of each root; an empty segment for a negative one."""
    node = roots.clamp(min=0)
    start = indptr.index_select(0, node)
    return start, torch.where(roots < 0, start, indptr.index_select(0, node + 1))


def nothing_sampled(roots: torch.Tensor, fanout: int, dtype: torch.dtype) -> Sampled:
    """The result where the graph has no entry."""
    nothing = torch.full((roots.numel(), fanout), -1, dtype=torch.int64, device=roots.device)
    none = torch.zeros_like(roots, dtype=torch.int64)
    return nothing, nothing.clone(), torch.zeros_like(nothing, dtype=dtype), none


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


@device_function
def block_segments(p_indptr, p_roots, p_times, p_root_times, o_root, m_root):
    """Of a block of roots [BLOCK]: where the entries start, where those before the root's time end, and that time.

    A binary search, all roots in step; a negative root and one beyond the mask have no entries.
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
    """Write slots i_slot [SLOTS] of a block of roots: the entries at b_position [BLOCK, SLOTS] where m_filled, else
    −1 and 0."""
    o_slot = o_root.to(tl.int64)[:, None] * FANOUT + i_slot[None, :]
    m_slot = m_root[:, None] & (i_slot < FANOUT)[None, :]
    b_node = tl.load(p_neighbours + b_position, mask=m_filled, other=-1).to(tl.int64)
    b_event = tl.load(p_event_ids + b_position, mask=m_filled, other=-1).to(tl.int64)
    b_delta = b_time[:, None] - tl.load(p_times + b_position, mask=m_filled, other=0)
    tl.store(p_out_nodes + o_slot, b_node, mask=m_slot)
    tl.store(p_out_events + o_slot, b_event, mask=m_slot)
    b_delta = tl.where(m_filled, b_delta, 0)
    if p_out_deltas.dtype.element_ty == tl.bfloat16:
        b_delta = b_delta.to(tl.float32)  # as torch goes; the interpreter, which then truncates, knows no other way
    tl.store(p_out_deltas + o_slot, b_delta.to(p_out_deltas.dtype.element_ty), mask=m_slot)


@kernel(Config({"BLOCK": 32}, num_warps=2), Config({"BLOCK": 16}, num_warps=1), Config({"BLOCK": 64}, num_warps=4))
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


def slot_block(fanout: int) -> int:
    """Slots a program handles at a time: all of a usual fanout; a large one at once would spill its registers."""
    return min(pow2(fanout, 1), 16)


def launch_sample_recent(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, dtype: torch.dtype,
) -> Sampled:  # fmt: skip
    """`sample_recent` by its kernel: a program searches for BLOCK roots and copies their entries."""
    out = empty_sampled(roots, fanout, dtype)
    config = recent_kernel.config()
    recent_kernel.launch(
        (cdiv(roots.numel(), config["BLOCK"]),), config,
        indptr, neighbours, event_ids, times, roots, root_times, *out, roots.numel(),
        FANOUT=fanout, SLOTS=slot_block(fanout),
    )  # fmt: skip
    return out


def empty_sampled(roots: torch.Tensor, fanout: int, dtype: torch.dtype) -> Sampled:
    """The outputs of a sampler, unwritten."""
    nodes = roots.new_empty((roots.numel(), fanout), dtype=torch.int64)
    return (
        nodes,
        torch.empty_like(nodes),
        torch.empty_like(nodes, dtype=dtype),
        torch.empty_like(roots, dtype=torch.int64),
    )


@torch.library.custom_op("mspipe_triton::sample_recent", mutates_args=())
def _operation(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = launch_sample_recent if on_triton(roots) else sample_recent_reference
    return run(indptr, neighbours, event_ids, times, roots, root_times, fanout, dtype)


@_operation.register_fake
def _(
    indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, dtype: torch.dtype,
) -> Sampled:  # fmt: skip
    return empty_sampled(roots, fanout, dtype)


def _check_lengths(operation: str, **vectors: torch.Tensor) -> None:
    shapes = [tuple(vector.shape) for vector in vectors.values()]
    if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"{operation}: {', '.join(vectors)} are {shapes}; give vectors of one length")


def check_sampling(
    operation: str, indptr: torch.Tensor, neighbours: torch.Tensor, event_ids: torch.Tensor, times: torch.Tensor,
    roots: torch.Tensor, root_times: torch.Tensor, fanout: int, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Refuse what a sampler cannot take."""
    if not isinstance(fanout, int) or fanout < 1:
        raise ValueError(f"{operation}: fanout must be an integer of at least 1, not {fanout!r}")
    if indptr.dim() != 1 or indptr.numel() == 0:
        raise ValueError(f"{operation}: indptr has shape {tuple(indptr.shape)}; give [N + 1] for N nodes")
    if dtype not in FLOATS:
        raise ValueError(f"{operation}: dtype must be a floating type, not {dtype}; torch.float32 is the default")
    if root_times.dtype != times.dtype:
        raise ValueError(f"{operation}: root_times is {root_times.dtype}, times are {times.dtype}; give both one dtype")
    _check_lengths(operation, roots=roots, root_times=root_times)
    _check_lengths(operation, neighbours=neighbours, event_ids=event_ids, times=times)
    check_dtype(operation, (torch.int64,), indptr=indptr)
    check_dtype(operation, INTEGERS, neighbours=neighbours, event_ids=event_ids, roots=roots)
    check_dtype(operation, TIMES, times=times)
    check_layout(
        operation, indptr=indptr, neighbours=neighbours, event_ids=event_ids, times=times, roots=roots,
        root_times=root_times,
    )  # fmt: skip
    check_device(
        operation, roots.device, ("indptr", "neighbours", "event_ids", "times"),
        indptr=indptr, neighbours=neighbours, event_ids=event_ids, times=times, root_times=root_times,
    )  # fmt: skip
    check_range(operation, "roots", roots, indptr.numel() - 1, None)
    check_range(operation, "indptr", indptr, times.numel() + 1)


def sample_recent(
    indptr: torch.Tensor,
    neighbours: torch.Tensor,
    event_ids: torch.Tensor,
    times: torch.Tensor,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    dtype: torch.dtype = torch.float32,
) -> Sampled:
    """For every root, the `fanout` latest T-CSR entries with time < root time, the latest first.

    Args:
        indptr: [N + 1] int64; node v owns the entries indptr[v] to indptr[v + 1].
        neighbours: [M] integer, the other endpoint of each entry, sorted by node, then time, then file order.
        event_ids: [M] integer, the event of each entry.
        times: [M] int64 or float64, the time of each entry. These four may lie in pinned host memory.
        roots: [R] integer nodes; a negative one is padding and has no neighbours.
        root_times: [R], in the dtype of `times`.
        fanout: F ≥ 1.
        dtype: floating type of the returned differences.

    Returns:
        neighbours [R, F] int64 and event ids [R, F] int64, −1 in slots without a neighbour; Δt = root time − entry
        time [R, F] in `dtype`, subtracted before it is rounded, 0 in empty slots; counts [R] int64 of filled slots
        (the filled ones come first). Nothing is mutated, nothing is differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout, device or fanout; with debugging on, a root outside the graph.
    """
    check_sampling("sample_recent", indptr, neighbours, event_ids, times, roots, root_times, fanout, dtype)
    run = sample_recent_reference if eager(roots) else _operation
    sampled: Sampled = run(indptr, neighbours, event_ids, times, roots, root_times, fanout, dtype)
    return sampled
