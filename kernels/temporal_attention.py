"""Attention of each root over its temporal neighbours, with the key and value projections absorbed into the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels.checks import (
    COMPUTED,
    FLOATS,
    INTEGERS,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_same_dtype,
    check_shape,
    debugging,
)
from mspipe_triton.kernels.eager import differentiable, eager, eager_backward
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import Config, kernel, on_triton, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    check_slots,
    edge_rows,
    filled_rows,
    held_blocks,
    inner_contiguous,
    mail_slots,
    mixed,
    products,
    row_products,
    slots_config,
    slots_of,
    slots_shapes,
    write_mixed,
)
from mspipe_triton.kernels.philox import dropout_scale, keep_scale, philox_kept
from mspipe_triton.kernels.temporal_attention_backward import (
    temporal_attention_backward,
    temporal_attention_backward_reference,
)
from mspipe_triton.kernels.time_encoding import fused_encode_time

_NAME = "temporal_attention"
NEGATIVE_SLOPE = 0.2
Attended = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def temporal_attention_reference(
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`temporal_attention` in torch, and what its backward reads, which is empty unless `save`:

    the weights a before dropout and LeakyReLU's slope, negated where dropout drops the weight, both [R, K, F]; edge
    rows and φ [R, F, E + T], which the kernels leave empty, for they read and encode again.
    """
    encoded = fused_encode_time(deltas.contiguous().to(query.dtype), frequency, phase)
    if rows is None or table.dim() == 3:
        slots = mail_slots(table, rows, features, feature_rows, counts, encoded)
    else:
        edges = edge_rows(features, feature_rows, counts, encoded)
        others = encoded if edges is None else torch.cat([edges, encoded], 2)
        slots = Slots(table.to(query.dtype), filled_rows(rows, counts), None, others)
    if query_rows is not None:
        query, bias = query.index_select(0, query_rows), bias.index_select(0, query_rows)
    scale = None
    if dropout > 0 and draws is not None:
        scale = dropout_scale(draws, (*query.shape[:2], deltas.shape[1]), dropout, query.dtype)
    slope, weights, dropped = _weights(products(query, *slots), bias, counts, scale)
    context, total = torch.cat(mixed(dropped, *slots), 2), dropped.sum(2)
    if not save:
        return context, total, query.new_empty(0), query.new_empty(0), query.new_empty(0)
    return context, total, weights, slope, slots.others


@fused()
def _weights(
    product: torch.Tensor, bias: torch.Tensor, counts: torch.Tensor, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LeakyReLU's slope, negated where dropped, and the softmax weights before and after dropout, all [R, K, F].

    Of query·x [R, K, F], bias [R, K], counts [R] and the dropout multipliers [R, K, F].
    """
    logits = product + bias.unsqueeze(2)
    slope = torch.where(logits > 0, torch.ones_like(logits), NEGATIVE_SLOPE)
    filled = (torch.arange(product.shape[2], device=product.device) < counts.unsqueeze(1)).unsqueeze(1)
    logits = torch.where(filled, logits * slope, -torch.inf)
    weights = torch.where(filled, torch.softmax(logits, 2), 0.0)
    if scale is None:
        return slope, weights, weights.clone()
    return torch.where(scale > 0, slope, -slope), weights, weights * scale


@kernel(
    Config({"BLOCK": 64, "HELD": 6144}, num_warps=1), Config({"BLOCK": 64, "HELD": 20480}, num_warps=8),
    float64=[Config({"BLOCK": 128, "HELD": 10240}, num_warps=8)],
    mails_float32=[
        Config({"BLOCK": 64, "HELD": 10240}, num_warps=4), Config({"BLOCK": 128, "HELD": 20480}, num_warps=8),
        Config({"BLOCK": 128, "HELD": 10240}, num_warps=4),
    ],
    mails_float64=[Config({"BLOCK": 64, "HELD": 10240}, num_warps=8)],
)  # fmt: skip
def attention_kernel(
    p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_query_rows, p_bias, p_draws, p_context, p_total, p_weights, p_slope, stride_query, stride_query_head,
    HEADS: tl.constexpr, MAILBOX: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, FANOUT: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, KEEP_FROM: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, SAVE: tl.constexpr,
    BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """With x_j = [h_j ‖ e_j ‖ cos(w Δt_j + b)] and m_kj the dropout multiplier, for a root, its heads k and slots j:

        l_kj = LeakyReLU(query_k · x_j + bias_k)          a_kj = exp(l_kj − max_i l_ki) / Σ_i exp(l_ki − max_i l_ki)
        context_k = Σ_j m_kj a_kj x_j                     total_k = Σ_j m_kj a_kj

    x_j is walked in blocks of BLOCK columns, which are read once, into registers, where they are at most HELD numbers.
    """
    root = tl.program_id(0).to(tl.int64)
    row = root
    if p_query_rows is not None:
        row = tl.load(p_query_rows + root).to(tl.int64)
    source = slots_of(
        p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase, root,
        MAILBOX, DIM, STRIDE_TABLE, STRIDE_FEATURES, FANOUT, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    i_slot, m_slot = tl.arange(0, SLOTS), source[0]
    for head in tl.static_range(HEADS):
        b_logit = tl.load(p_bias + row * HEADS + head) + row_products(
            p_query + row * stride_query + head * stride_query_head, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK
        )
        b_slope = tl.where(b_logit > 0, tl.full([SLOTS], 1, b_logit.dtype), SLOPE)
        b_logit = tl.where(m_slot, b_logit * b_slope, float("-inf"))
        b_weight = tl.where(m_slot, tl.exp(b_logit - tl.max(b_logit, 0)), 0)
        sum_ = tl.sum(b_weight, 0)
        b_weight = b_weight / tl.where(sum_ > 0, sum_, 1)
        o_weight = (root * HEADS + head) * FANOUT + i_slot
        b_dropped = b_weight
        if DROPOUT:
            m_kept = philox_kept(p_draws, o_weight, KEEP_FROM)
            b_dropped = tl.where(m_kept, b_weight * SCALE, 0)
            b_slope = tl.where(m_kept, b_slope, -b_slope)
        if SAVE:
            tl.store(p_weights + o_weight, b_weight, mask=i_slot < FANOUT)
            tl.store(p_slope + o_weight, b_slope, mask=i_slot < FANOUT)
        tl.store(p_total + root * HEADS + head, tl.sum(b_dropped, 0))
        p_row = p_context + (root * HEADS + head) * (DIM + EDGE + TIME)
        write_mixed(p_row, b_dropped, False, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK)


def launch_temporal_attention(
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`temporal_attention` by its kernel: a program takes a root."""
    out = empty_attended(deltas.shape, query, save, 0)
    query = inner_contiguous(query)
    attention_kernel.launch(
        (deltas.shape[0],), slots_config(attention_kernel, query.dtype, table, deltas.shape[1]),
        table, None if rows is None else rows.contiguous(), features,
        None if feature_rows is None else feature_rows.contiguous(), deltas.contiguous(), counts, frequency, phase,
        query, query_rows, bias.contiguous(), draws if dropout > 0 else None, *out[:4],
        query.stride(0), query.stride(1),
        HEADS=query.shape[1], **slots_shapes(table, features, deltas, frequency),
        DROPOUT=dropout > 0, KEEP_FROM=int(dropout * 2**32), SCALE=keep_scale(dropout, query.dtype),
        SLOPE=NEGATIVE_SLOPE, SAVE=save,
    )  # fmt: skip
    return out


def empty_attended(slots: tuple[int, ...], query: torch.Tensor, save: bool, others: int) -> Attended:
    """The reference's results unwritten, for slots [R, F]; `others` is their width where they are saved, else 0."""
    (roots, fanout), (_, heads, width) = slots, query.shape
    weights = query.new_empty((roots, heads, fanout) if save else 0)
    context, total = query.new_empty((roots, heads, width)), query.new_empty((roots, heads))
    saved = query.new_empty((roots, fanout, others) if save and others else 0)
    return context, total, weights, torch.empty_like(weights), saved


@torch.library.custom_op("mspipe_triton::temporal_attention", mutates_args=())
def _operation(
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
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
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    edges = 0 if table.dim() == 3 else features.shape[1]  # those of mails are gathered again
    return empty_attended(deltas.shape, query, save, 0 if on_triton(query) else edges + frequency.numel())


def _backward(ctx: Any, d_context: torch.Tensor | None, d_total: torch.Tensor | None, *_: None) -> tuple[Any, ...]:
    saved, needs = ctx.saved_tensors, ctx.needs_input_grad
    (table, *_), roots, query = saved, saved[4].shape[0], saved[8]
    needs_table = needs[0] and table.dim() == 2  # mails are data
    run: Callable[..., Any] = (
        temporal_attention_backward_reference if eager_backward(query) else temporal_attention_backward
    )
    d_table, d_frequency, d_phase, d_query, d_bias = run(
        query.new_zeros((roots, *query.shape[1:])) if d_context is None else d_context,
        query.new_zeros((roots, query.shape[1])) if d_total is None else d_total,
        *saved, ctx.dropout, needs_table, needs[6] or needs[7],
    )  # fmt: skip
    return (
        d_table if needs_table else None, None, None, None, None, None, d_frequency if needs[6] else None,
        d_phase if needs[7] else None, d_query, None, d_bias, None, None, None,
    )  # fmt: skip


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Attended) -> None:
    *tensors, _, ctx.dropout, _, _ = inputs
    ctx.set_materialize_grads(False)  # else zeros would be made for what is saved, too
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


_operation.register_autograd(_backward, setup_context=_setup)
_direct = differentiable(temporal_attention_reference, _setup, _backward)


def check_attention(
    operation: str, mails: str, table: torch.Tensor, slots: tuple[int, ...], features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what no table and rows of slots [R, F] would go with; `mails` names what has their x_j."""
    device = query.device
    check_slots(operation, device, slots, features, feature_rows, deltas, counts, frequency, phase)
    check_dims(operation, 3, query=query)
    width = table.shape[-1] + features.shape[1] + frequency.numel()
    if query.shape[2] != width:
        raise ValueError(f"{operation}: query has width {query.shape[2]}, {mails} have {width}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{operation}: dropout must be at least 0 and below 1, not {dropout}")
    if dropout > 0 and draws is None:
        raise ValueError(f"{operation}: dropout needs draws, the Philox words [seed, purpose, epoch, iteration]")
    check_shape(operation, bias=(bias, query.shape[:2]), draws=(draws, (4,)))
    check_dtype(operation, COMPUTED, query=query)
    check_same_dtype(operation, query=query, bias=bias, frequency=frequency, phase=phase)
    check_dtype(operation, (torch.int64,), draws=draws)
    check_layout(operation, draws=draws)
    check_device(operation, device, bias=bias, draws=draws)


def _check(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what the operation cannot take."""
    check_dims(_NAME, 2, table=table, rows=rows)
    check_attention(
        _NAME, "neighbour rows", table, rows.shape, features, feature_rows, deltas, counts, frequency, phase,
        query, bias, dropout, draws,
    )  # fmt: skip
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
    return checked_attention(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows, bias, dropout, draws
    )


def checked_attention(
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor,
    dropout: float, draws: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The operation without its checks; `table` may also be mailboxes [N, F, D] with rows [R], or None where N = R."""
    differentiated = (table, frequency, phase, query, bias)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated)
    run = _direct if eager(query) else _operation
    context, total, *_ = run(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows, bias,
        float(dropout), draws, save,
    )  # fmt: skip
    return context, total
