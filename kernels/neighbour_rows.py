"""A root's neighbours x_j = [h_j ‖ e_j ‖ φ(Δt_j)], as `temporal_attention` and its gradients read them."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import device_function, pow2, tl


def filled_rows(rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`rows` [R, F] with 0 in the slots from each root's count on."""
    return torch.where(torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1), rows, 0)


@fused()
def products(query: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """query · x_j [R, K, F] of queries [R, K, X]; x_j is a table row, by rows [R, F], and others [R, F, X − D]."""
    dim, nodes = table.shape[1], gathered(table, rows)
    if torch.compiler.is_compiling():
        # As sums, these become vectorised loops that read the small table in place; no gathered copy is written.
        by_node = (query[:, :, None, :dim] * nodes.unsqueeze(1)).sum(3)
        return by_node + (query[:, :, None, dim:] * others.unsqueeze(1)).sum(3)
    return torch.baddbmm(torch.bmm(query[..., :dim], nodes.mT), query[..., dim:], others.mT)


@fused()
def mixed(
    weights: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_j w_j x_j for weights [R, K, F], as the node part [R, K, D] and the rest [R, K, X − D]."""
    nodes = gathered(table, rows)
    if torch.compiler.is_compiling():
        spread = weights.unsqueeze(3)
        return (spread * nodes.unsqueeze(1)).sum(2), (spread * others.unsqueeze(1)).sum(2)
    return torch.bmm(weights, nodes), torch.bmm(weights, others)


def gathered(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """table[rows] as [R, F, D]; compiled code fuses the indexing, eager code is fastest with index_select."""
    if torch.compiler.is_compiling():
        return table[rows]
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])


@device_function
def neighbour_blocks(
    p_table, p_rows, p_features, p_feature_rows, p_deltas, p_frequency, p_phase, root, m_slot, ACC: tl.constexpr,
    DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr, FANOUT: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Of one root's slots: h_j [SLOTS, BLOCK_D], e_j [SLOTS, BLOCK_E], 0 outside m_slot; Δt_j [SLOTS]; and the angles
    Δt_j·(w/2π) + b/2π in turns [SLOTS, BLOCK_T], whose cosine is φ."""
    i_node, i_edge, i_time = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_T)
    o_slot = root * FANOUT + tl.arange(0, SLOTS)
    b_row = tl.load(p_rows + o_slot, mask=m_slot, other=0).to(tl.int64)
    m_node = m_slot[:, None] & (i_node < DIM)[None, :]
    b_node = tl.load(p_table + b_row[:, None] * STRIDE_TABLE + i_node[None, :], mask=m_node, other=0).to(ACC)
    b_row = o_slot
    if p_feature_rows is not None:
        b_row = tl.maximum(tl.load(p_feature_rows + o_slot, mask=m_slot, other=0).to(tl.int64), 0)
    m_edge = m_slot[:, None] & (i_edge < EDGE)[None, :]
    b_edge = tl.load(p_features + b_row[:, None] * STRIDE_FEATURES + i_edge[None, :], mask=m_edge, other=0).to(ACC)
    b_delta = tl.load(p_deltas + o_slot, mask=m_slot, other=0).to(ACC)
    b_frequency = _turns(tl.load(p_frequency + i_time, mask=i_time < TIME, other=0))
    b_phase = _turns(tl.load(p_phase + i_time, mask=i_time < TIME, other=0))
    return b_node, b_edge, b_delta, b_delta[:, None] * b_frequency[None, :] + b_phase[None, :]


@device_function
def _turns(b_angle):
    """Radians as turns; the plain division of float32 is rounded loosely, which large time differences would show."""
    if b_angle.dtype == tl.float64:
        return b_angle / 6.283185307179586
    else:
        return tl.div_rn(b_angle, 6.283185307179586)


@device_function
def load_parts(
    p_row, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The node, edge and time parts of one row [D + E + T], each in a block of its own, 0 behind its end."""
    i_node, i_edge, i_time = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_T)
    b_node = tl.load(p_row + i_node, mask=i_node < DIM, other=0)
    b_edge = tl.load(p_row + DIM + i_edge, mask=i_edge < EDGE, other=0)
    return b_node, b_edge, tl.load(p_row + DIM + EDGE + i_time, mask=i_time < TIME, other=0)


@device_function
def write_parts(
    p_row, b_node, b_edge, b_time, ADD: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Store the three parts of one row [D + E + T], or add them to it atomically."""
    i_node, i_edge, i_time = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_T)
    write_block(p_row + i_node, b_node, i_node < DIM, ADD)
    write_block(p_row + DIM + i_edge, b_edge, i_edge < EDGE, ADD)
    write_block(p_row + DIM + EDGE + i_time, b_time, i_time < TIME, ADD)


@device_function
def write_block(p_block, b_block, m_block, ADD: tl.constexpr):
    """Store a block, or add it atomically to what is there."""
    if ADD:
        tl.atomic_add(p_block, b_block, mask=m_block, sem="relaxed")
    else:
        tl.store(p_block, b_block, mask=m_block)


def neighbour_shapes(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, frequency: torch.Tensor
) -> dict[str, int]:
    """The constants of `neighbour_blocks`: widths, fanout, distances between rows, and the blocks that hold them."""
    dim, edge, time, fanout = table.shape[1], features.shape[1], frequency.numel(), rows.shape[1]
    return {
        "DIM": dim, "EDGE": edge, "TIME": time, "FANOUT": fanout,
        "STRIDE_TABLE": table.stride(0), "STRIDE_FEATURES": features.stride(0),
        "SLOTS": pow2(fanout, 1), "BLOCK_D": pow2(dim, 1), "BLOCK_E": pow2(edge, 1), "BLOCK_T": pow2(time, 1),
    }  # fmt: skip


def inner_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself where its last dimension is dense, as kernels want it; else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
