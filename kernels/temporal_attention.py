"""Attention of each root over its temporal neighbours, with the key and value projections absorbed into the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels.attention import (
    NEGATIVE_SLOPE,
    Attended,
    attend,
    attended,
    check_attention,
    empty_attended,
    setup_attended,
    whole_gradients,
)
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
)
from mspipe_triton.kernels.eager import differentiable, eager, eager_backward
from mspipe_triton.kernels.launch import Config, kernel, on_triton, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    check_slots,
    filled_rows,
    filled_slots,
    gathered,
    held_blocks,
    inner_contiguous,
    slots_of,
)
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.temporal_attention_backward import (
    neighbour_shapes,
    slots_config,
    temporal_attention_backward,
    temporal_attention_backward_reference,
)
from mspipe_triton.kernels.time_encoding import fused_encode_time

_NAME = "temporal_attention"


def temporal_attention_reference(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`temporal_attention` in torch, and what its backward reads, which is empty unless `save`:

    the weights a before dropout and LeakyReLU's slope, negated where dropout drops the weight, both [R, K, F]; edge
    rows and φ [R, F, E + T], which the kernels leave empty, for they read and encode again.
    """
    dtype = query.dtype
    if features.shape[1] == 0:
        edges = features.new_zeros((*rows.shape, 0))
    elif feature_rows is None:
        edges = features.view(*rows.shape, features.shape[1])
    else:
        edges = gathered(features, filled_rows(feature_rows, counts).clamp_(min=0))
    encoded = fused_encode_time(deltas.contiguous().to(dtype), frequency, phase)
    others = torch.cat([edges.to(dtype), encoded], 2) if edges.shape[2] else encoded
    if query_rows is not None:
        query, bias = query.index_select(0, query_rows), bias.index_select(0, query_rows)
    slots = Slots(table.to(dtype), filled_rows(rows, counts), None, others)
    return attended(query, bias, slots, counts, dropout, draws, save)


@kernel(
    Config({"BLOCK": 64, "HELD": 6144}, num_warps=1), Config({"BLOCK": 64, "HELD": 20480}, num_warps=8),
    float64=[Config({"BLOCK": 128, "HELD": 10240}, num_warps=8)],
)  # fmt: skip
def attention_kernel(
    p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_query_rows, p_bias, p_draws, p_context, p_total, p_weights, p_slope, stride_query, stride_query_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, FANOUT: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, KEEP_FROM: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, SAVE: tl.constexpr,
    BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """`attend`'s equations for a root, whose slots' h_j are rows of a table.

    x_j is walked in blocks of BLOCK columns, which are read once, into registers, where they are at most HELD numbers.
    """
    root = tl.program_id(0).to(tl.int64)
    row = root
    if p_query_rows is not None:
        row = tl.load(p_query_rows + root).to(tl.int64)
    m_slot = filled_slots(p_counts, root, FANOUT, SLOTS)
    b_row = tl.load(p_rows + (root * FANOUT + tl.arange(0, SLOTS)), mask=m_slot, other=0).to(tl.int64)
    source = slots_of(
        p_table + b_row[:, None] * STRIDE_TABLE, m_slot,
        p_features, p_feature_rows, p_deltas, p_frequency, p_phase, root, STRIDE_FEATURES, FANOUT, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    attend(
        source, b_held, p_query + row * stride_query, stride_query_head, p_bias + row * HEADS, p_draws,
        p_context, p_total, p_weights, p_slope, root,
        HEADS, DIM, EDGE, TIME, FANOUT, SLOTS, DROPOUT, KEEP_FROM, SCALE, SLOPE, SAVE, BLOCK,
    )  # fmt: skip


def launch_temporal_attention(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`temporal_attention` by its kernel: a program takes a root."""
    out = empty_attended(rows.shape, query, save, 0)
    query = inner_contiguous(query)
    attention_kernel.launch(
        (rows.shape[0],), slots_config(attention_kernel, query.dtype, rows.shape[1]),
        table, rows.contiguous(), features, None if feature_rows is None else feature_rows.contiguous(),
        deltas.contiguous(), counts, frequency, phase, query, query_rows, bias.contiguous(),
        draws if dropout > 0 else None, *out[:4], query.stride(0), query.stride(1),
        HEADS=query.shape[1], **neighbour_shapes(table, rows, features, frequency),
        DROPOUT=dropout > 0, KEEP_FROM=int(dropout * 2**32), SCALE=keep_scale(dropout, query.dtype),
        SLOPE=NEGATIVE_SLOPE, SAVE=save,
    )  # fmt: skip
    return out


@torch.library.custom_op("mspipe_triton::temporal_attention", mutates_args=())
def _operation(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = launch_temporal_attention if on_triton(query) else temporal_attention_reference
    return run(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows, bias,
        dropout, draws, save,
    )  # fmt: skip


@_operation.register_fake
def _(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    others = 0 if on_triton(query) else features.shape[1] + frequency.numel()
    return empty_attended(rows.shape, query, save, others)


def _backward(ctx: Any, d_context: torch.Tensor | None, d_total: torch.Tensor | None, *_: None) -> tuple[Any, ...]:
    saved, needs = ctx.saved_tensors, ctx.needs_input_grad
    rows, query = saved[1], saved[8]
    run: Callable[..., Any] = (
        temporal_attention_backward_reference if eager_backward(query) else temporal_attention_backward
    )
    d_table, d_frequency, d_phase, d_query, d_bias = run(
        *whole_gradients(d_context, d_total, query, rows.shape[0]),
        *saved,
        ctx.dropout,
        needs[0],
        needs[6] or needs[7],
    )
    return (
        d_table if needs[0] else None, None, None, None, None, None, d_frequency if needs[6] else None,
        d_phase if needs[7] else None, d_query, None, d_bias, None, None, None,
    )  # fmt: skip


_operation.register_autograd(_backward, setup_context=setup_attended)
_direct = differentiable(temporal_attention_reference, setup_attended, _backward)


def _check(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what the operation cannot take."""
    check_dims(_NAME, 2, table=table, rows=rows, features=features)
    check_slots(_NAME, query.device, rows.shape, features, feature_rows, deltas, counts, frequency, phase)
    width = table.shape[1] + features.shape[1] + frequency.numel()
    check_attention(_NAME, "neighbour rows", width, query, bias, frequency, phase, dropout, draws)
    check_shape(_NAME, query_rows=(query_rows, rows.shape[:1]))
    if query_rows is None:
        check_shape(_NAME, query=(query, (*rows.shape[:1], *query.shape[1:])))
    check_dtype(_NAME, FLOATS, table=table)
    check_dtype(_NAME, INTEGERS, rows=rows, query_rows=query_rows)
    check_layout(_NAME, table=table, rows=rows, query_rows=query_rows)
    # Rows in pinned host memory are read where they lie; a gradient of them would have to be written there.
    pinned = () if table.requires_grad else ("table",)
    check_device(_NAME, query.device, pinned, table=table, rows=rows, query_rows=query_rows)
    check_range(_NAME, "query_rows", query_rows, query.shape[0])
    if debugging():
        filled = torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1)
        check_range(_NAME, "rows", rows[filled], table.shape[0])


def temporal_attention(
    table: torch.Tensor,
    rows: torch.Tensor,
    features: torch.Tensor,
    feature_rows: torch.Tensor | None,
    deltas: torch.Tensor,
    counts: torch.Tensor,
    frequency: torch.Tensor,
    phase: torch.Tensor,
    query: torch.Tensor,
    query_rows: torch.Tensor | None,
    bias: torch.Tensor,
    dropout: float = 0.0,
    draws: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over x_j = [h_j ‖ e_j ‖ φ(Δt_j)] by a query that already carries the key projection.

    For root r with row v = query_rows[r], head k, and its slots j < counts[r]:

        l_rkj = LeakyReLU₀.₂(query_vk · x_rj + bias_vk)          (unscaled, as in TGL)
        a_rk  = dropout(softmax_j(l_rk))
        context_rk = Σ_j a_rkj x_rj          total_rk = Σ_j a_rkj          (both 0 where counts[r] = 0)

    With query = W_kᵀ q and bias = q · b_k per head, W_v·context + b_v·total is the projected attention of TGN and TGAT
    exactly; W_k and W_v run once a root instead of once a slot.

    Args:
        table: node rows h [U, D]; rows [R, F] integer, a slot's row in it (ignored in empty slots).
        features: edge rows [·, E], E may be 0; feature_rows [R, F] integer, or None where `features` is one row a
            slot, [R·F, E] (ignored in empty slots; a row below 0 in a filled one is read as row 0). The rows of both
            may be apart by more than their width; both may be bfloat16, and may lie in pinned host memory as data.
        deltas: [R, F] floating, root time − neighbour time.
        counts: [R] integer, filled slots; they come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are query and bias.
        query: [Q, K, D + E + T] for K heads; query_rows [R] integer, or None where Q = R; bias [Q, K].
        dropout: probability of dropping an attention weight; `draws` [4] int64 keys the draws (Philox seed, purpose,
            epoch, iteration) and is needed when it is above 0.

    Returns:
        context [R, K, D + E + T] and total [R, K]. Nothing is mutated. Differentiable, once, in table, frequency,
        phase, query and bias; edge features are data. On a GPU the gradients' sums over roots and slots have no fixed
        order unless torch.use_deterministic_algorithms(True) asks for one.

    Raises:
        ValueError: a wrong dtype, layout or device, shapes that do not go together, or `dropout` out of range or above
            0 without `draws`.
    """
    _check(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows, bias, dropout, draws
    )
    differentiated = (table, frequency, phase, query, bias)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated)
    run = _direct if eager(query) else _operation
    context, total, *_ = run(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows, bias,
        float(dropout), draws, save,
    )  # fmt: skip
    return context, total
