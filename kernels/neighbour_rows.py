"""A root's neighbours x_j = [h_j ‖ e_j ‖ φ(Δt_j)], as `temporal_attention` and its gradients read them."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import (
    FLOATS,
    INTEGERS,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_shape,
    debugging,
)  # fmt: skip
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import device_function, pow2, tl
from mspipe_triton.kernels.time_encoding import cos_turns, turns_block


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
def neighbours_of(
    p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase, root,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """What `neighbour_block` reads a root's x_j from; its first two are the mask of filled slots and Δt, both [SLOTS].

    An empty slot has row 0 and Δt 0.
    """
    o_slot = root * FANOUT + tl.arange(0, SLOTS)
    m_slot = tl.arange(0, SLOTS) < tl.minimum(tl.load(p_counts + root), FANOUT)
    b_row = tl.load(p_rows + o_slot, mask=m_slot, other=0).to(tl.int64)
    b_feature_row = o_slot
    if p_feature_rows is not None:
        b_feature_row = tl.maximum(tl.load(p_feature_rows + o_slot, mask=m_slot, other=0).to(tl.int64), 0)
    b_delta = tl.load(p_deltas + o_slot, mask=m_slot, other=0).to(p_frequency.dtype.element_ty)
    return m_slot, b_delta, b_row, b_feature_row, p_table, p_features, p_frequency, p_phase


@device_function
def neighbour_block(
    source, FIRST: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns FIRST to FIRST + BLOCK of a root's x_j [SLOTS, BLOCK], 0 behind their end; finite in empty slots."""
    m_slot, b_delta, b_row, b_feature_row, p_table, p_features, p_frequency, p_phase = source
    i_x = FIRST + tl.arange(0, BLOCK)
    b_x = tl.zeros([SLOTS, BLOCK], b_delta.dtype)
    if FIRST < DIM:
        m_node = m_slot[:, None] & (i_x < DIM)[None, :]
        p_node = p_table + b_row[:, None] * STRIDE_TABLE + i_x[None, :]
        b_x = tl.load(p_node, mask=m_node, other=0).to(b_delta.dtype)
    if EDGE > 0 and FIRST < DIM + EDGE and FIRST + BLOCK > DIM:
        i_edge = i_x - DIM
        m_edge = m_slot[:, None] & ((i_edge >= 0) & (i_edge < EDGE))[None, :]
        p_edge = p_features + b_feature_row[:, None] * STRIDE_FEATURES + i_edge[None, :]
        b_x += tl.load(p_edge, mask=m_edge, other=0).to(b_delta.dtype)
    if FIRST + BLOCK > DIM + EDGE:
        i_time = i_x - (DIM + EDGE)
        m_time = (i_time >= 0) & (i_time < TIME)
        b_time = cos_turns(turns_block(b_delta, p_frequency, p_phase, i_time, m_time))
        b_x = tl.where(m_time[None, :], b_time, b_x)
    return b_x


@device_function
def held_blocks(
    source, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """All blocks of a root's x_j, read once; none where they are more than HELD numbers, to be read at each use."""
    b_held = ()
    if SLOTS * (DIM + EDGE + TIME) <= HELD:
        for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
            b_x = neighbour_block(source, first, DIM, EDGE, TIME, STRIDE_TABLE, STRIDE_FEATURES, SLOTS, BLOCK)
            b_held += (b_x,)  # type: ignore[assignment]  # the loop is unrolled
    return b_held


@device_function
def row_products(
    p_row, source, b_held, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """row · x_j [SLOTS], of a row [D + E + T] in memory."""
    b_sum = tl.zeros([SLOTS, BLOCK], source[1].dtype)
    for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
        if len(b_held) > 0:
            b_x = b_held[first // BLOCK]
        else:
            b_x = neighbour_block(source, first, DIM, EDGE, TIME, STRIDE_TABLE, STRIDE_FEATURES, SLOTS, BLOCK)
        b_sum += b_x * load_columns(p_row, first, DIM + EDGE + TIME, BLOCK)[None, :]
    return tl.sum(b_sum, 1)


@device_function
def write_mixed(
    p_row, b_weight, ADD: tl.constexpr, source, b_held, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Σ_j w_j x_j to a row [D + E + T], or add it to what is there."""
    for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
        if len(b_held) > 0:
            b_x = b_held[first // BLOCK]
        else:
            b_x = neighbour_block(source, first, DIM, EDGE, TIME, STRIDE_TABLE, STRIDE_FEATURES, SLOTS, BLOCK)
        i_x = first + tl.arange(0, BLOCK)
        write_block(p_row + i_x, tl.sum(b_weight[:, None] * b_x, 0), i_x < DIM + EDGE + TIME, ADD)


@device_function
def load_columns(p_row, FIRST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns FIRST to FIRST + BLOCK of a row [WIDTH], 0 behind its end."""
    i_column = FIRST + tl.arange(0, BLOCK)
    return tl.load(p_row + i_column, mask=i_column < WIDTH, other=0)


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
    """The constants of `neighbour_block`: widths, distances between rows, fanout and block of slots."""
    return {
        "DIM": table.shape[1], "EDGE": features.shape[1], "TIME": frequency.numel(),
        "STRIDE_TABLE": table.stride(0), "STRIDE_FEATURES": features.stride(0),
        "FANOUT": rows.shape[1], "SLOTS": pow2(rows.shape[1], 1),
    }  # fmt: skip


def inner_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself where its last dimension is dense, as kernels want it; else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def check_neighbours(
    operation: str, device: torch.device, table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor,
) -> None:  # fmt: skip
    """Refuse what x_j cannot be read from by an operation on `device`."""
    check_dims(operation, 2, table=table, rows=rows, features=features)
    check_dims(operation, 1, frequency=frequency)
    check_shape(
        operation, deltas=(deltas, rows.shape), feature_rows=(feature_rows, rows.shape),
        counts=(counts, rows.shape[:1]), phase=(phase, frequency.shape),
    )  # fmt: skip
    if feature_rows is None and features.shape[1] > 0:
        check_shape(operation, features=(features, (rows.numel(), features.shape[1])))
    check_dtype(operation, FLOATS, table=table, features=features, deltas=deltas)
    check_dtype(operation, INTEGERS, rows=rows, feature_rows=feature_rows, counts=counts)
    named = dict(
        table=table, features=features, rows=rows, feature_rows=feature_rows, deltas=deltas, counts=counts,
        frequency=frequency, phase=phase,
    )  # fmt: skip
    check_layout(operation, **named)
    # Rows in pinned host memory are read where they lie; a gradient of them would have to be written there.
    check_device(operation, device, ("features",) if table.requires_grad else ("features", "table"), **named)
    check_range(operation, "counts", counts, rows.shape[1] + 1)
    if debugging():
        filled = torch.arange(rows.shape[1], device=device) < counts.unsqueeze(1)
        check_range(operation, "rows", rows[filled], table.shape[0])
        if feature_rows is not None and features.shape[1] > 0:
            check_range(operation, "feature_rows", feature_rows[filled], features.shape[0], None)
