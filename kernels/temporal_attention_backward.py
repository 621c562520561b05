"""Gradients of `temporal_attention`, as an operation of its own."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import Config, device_function, kernel, on_triton, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    filled_rows,
    held_blocks,
    inner_contiguous,
    load_columns,
    mail_slots,
    mixed,
    products,
    row_products,
    slots_config,
    slots_of,
    slots_shapes,
    write_block,
    write_mixed,
)
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.time_encoding import encode_time_backward, sin_turns, turns_block

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def temporal_attention_backward_reference(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None,
    weights: torch.Tensor, slope: torch.Tensor, others: torch.Tensor,
    dropout: float, needs_table: bool, needs_time: bool,
) -> Gradients:  # fmt: skip
    """Gradients in table, frequency, phase, query and bias; those that are not needed are empty.

    Edge rows and φ come from `others` [R, F, E + T]; node rows are read again.
    """
    if rows is None or table.dim() == 3:
        slots = mail_slots(table, rows, features, feature_rows, counts, others)
    else:
        slots = Slots(table.to(query.dtype), filled_rows(rows, counts), None, others)
    d_logits, dropped = _logits_backward(products(d_context, *slots), d_total, weights, slope, 1.0 - dropout)
    d_query, d_bias = torch.cat(mixed(d_logits, *slots), 2), d_logits.sum(2)
    d_table, d_frequency, d_phase = table.new_empty(0), frequency.new_empty(0), phase.new_empty(0)
    if needs_table and slots.rows is not None:
        dim = table.shape[1]
        d_rows = scattered(d_logits, dropped, _by_root(query[..., :dim], query_rows), d_context[..., :dim])
        d_table = torch.zeros_like(slots.table).index_add_(0, slots.rows.view(-1), d_rows.view(-1, dim))
        d_table = d_table.to(table.dtype)
    if needs_time:
        times = slice(query.shape[2] - frequency.numel(), None)
        d_time = scattered(d_logits, dropped, _by_root(query[..., times], query_rows), d_context[..., times])
        d_frequency, d_phase = encode_time_backward(d_time, deltas.contiguous().to(d_time.dtype), frequency, phase)
    if query_rows is not None:
        d_query = d_query.new_zeros(query.shape).index_add_(0, query_rows, d_query)
        d_bias = d_bias.new_zeros(query.shape[:2]).index_add_(0, query_rows, d_bias)
    return d_table, d_frequency, d_phase, d_query, d_bias


def _by_root(query: torch.Tensor, query_rows: torch.Tensor | None) -> torch.Tensor:
    return query if query_rows is None else query.index_select(0, query_rows)


@fused()
def _logits_backward(
    d_weights: torch.Tensor, d_total: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, keep: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the logits before LeakyReLU, and the weights after dropout, both [R, K, F].

    From x·d_context [R, K, F], d_total [R, K] and what the forward pass saved; `keep` is the share that dropout keeps.
    """
    dropped = weights * ((slope > 0).to(slope.dtype) / keep)
    weighted = dropped * (d_weights + d_total.unsqueeze(2))
    return (weighted - weights * weighted.sum(2, keepdim=True)) * slope.abs(), dropped


@fused()
def scattered(
    d_logits: torch.Tensor, weights: torch.Tensor, query: torch.Tensor, d_context: torch.Tensor
) -> torch.Tensor:
    """Gradient of columns of x [R, F, ·], of which query and d_context are those: Σ_k d_logits_k ⊗ query_k +
    weights_k ⊗ d_context_k."""
    if torch.compiler.is_compiling():
        by_query = (d_logits.unsqueeze(3) * query.unsqueeze(2)).sum(1)
        return by_query + (weights.unsqueeze(3) * d_context.unsqueeze(2)).sum(1)
    return torch.baddbmm(torch.bmm(d_logits.mT, query), weights.mT, d_context)


@device_function
def scattered_block(
    b_d_logits, b_droppeds, p_query, stride_query_head, p_d_context, stride_context_head,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns FIRST to FIRST + BLOCK of dx_j = Σ_k dl_kj query_k + m_kj a_kj dcontext_k [SLOTS, BLOCK], those from
    WIDTH on 0; the tuples hold a block a head, the pointers a root's rows."""
    b_d_x = tl.zeros([SLOTS, BLOCK], p_query.dtype.element_ty)
    for head in tl.static_range(len(b_d_logits)):
        b_query = load_columns(p_query + head * stride_query_head, FIRST, WIDTH, BLOCK)
        b_context = load_columns(p_d_context + head * stride_context_head, FIRST, WIDTH, BLOCK)
        b_d_x += b_d_logits[head][:, None] * b_query[None, :] + b_droppeds[head][:, None] * b_context[None, :]
    return b_d_x


@kernel(
    Config({"BLOCK": 64, "HELD": 6144}, num_warps=1), Config({"BLOCK": 128, "HELD": 10240}, num_warps=2),
    float64=[Config({"BLOCK": 64, "HELD": 10240}, num_warps=8)],
    mails_float32=[
        Config({"BLOCK": 128, "HELD": 10240}, num_warps=4), Config({"BLOCK": 64, "HELD": 20480}, num_warps=8),
    ],
    mails_float64=[Config({"BLOCK": 128, "HELD": 1280}, num_warps=8)],
)  # fmt: skip
def attention_backward_kernel(
    p_d_context, p_d_total, p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_query_rows, p_weights, p_slope, p_d_table, p_d_frequency, p_d_phase, p_d_query, p_d_bias,
    stride_context, stride_context_head, stride_query, stride_query_head,
    HEADS: tl.constexpr, MAILBOX: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, FANOUT: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, SCALE: tl.constexpr, TABLE: tl.constexpr, TIMES: tl.constexpr,
    ADD_QUERY: tl.constexpr, ADD_TABLE: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """With m_kj the dropout multiplier and s_kj LeakyReLU's slope, for a root, its heads k and slots j:

        da_kj = m_kj (x_j · dcontext_k + dtotal_k)          dl_kj = s_kj a_kj (da_kj − Σ_i a_ki da_ki)
        dquery_k = Σ_j dl_kj x_j                            dbias_k = Σ_j dl_kj
        dx_j = Σ_k dl_kj query_k + m_kj a_kj dcontext_k
        dw = −Σ_j sin(w Δt_j + b) Δt_j dφ_j                 db = −Σ_j sin(w Δt_j + b) dφ_j

    where h_j and φ_j are parts of x_j. With ADD_QUERY, dquery and dbias are added atomically to the root's query row,
    and with ADD_TABLE dh_j to the slot's table row; else each root and slot has a row of its own. dw and db are one
    partial sum a root. x_j is read as in the forward pass; its gradient is made block by block, after the heads.
    """
    root = tl.program_id(0).to(tl.int64)
    row = root
    if p_query_rows is not None:
        row = tl.load(p_query_rows + root).to(tl.int64)
    target = row if ADD_QUERY else root
    p_context, p_query = p_d_context + root * stride_context, p_query + row * stride_query
    source = slots_of(
        p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase, root,
        MAILBOX, DIM, STRIDE_TABLE, STRIDE_FEATURES, FANOUT, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    i_slot, m_slot, b_delta = tl.arange(0, SLOTS), source[0], source[1]
    b_d_logits, b_droppeds = (), ()
    for head in tl.static_range(HEADS):
        b_d_weight = tl.load(p_d_total + root * HEADS + head) + row_products(
            p_context + head * stride_context_head, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK
        )
        o_weight = (root * HEADS + head) * FANOUT + i_slot
        b_weight = tl.load(p_weights + o_weight, mask=m_slot, other=0)
        b_slope = tl.load(p_slope + o_weight, mask=m_slot, other=1)
        b_dropped = b_weight
        if DROPOUT:
            b_dropped = tl.where(b_slope > 0, b_weight * SCALE, 0)
        # a·da, with the multiplier of da taken to the weight.
        b_weighted = b_dropped * b_d_weight
        b_d_logit = (b_weighted - b_weight * tl.sum(b_weighted, 0)) * tl.abs(b_slope)
        p_row = p_d_query + (target * HEADS + head) * (DIM + EDGE + TIME)
        write_mixed(p_row, b_d_logit, ADD_QUERY, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK)
        write_block(p_d_bias + target * HEADS + head, tl.sum(b_d_logit, 0), None, ADD_QUERY)
        b_d_logits += (b_d_logit,)  # type: ignore[assignment]  # the loop is unrolled
        b_droppeds += (b_dropped,)  # type: ignore[assignment]  # the loop is unrolled
    if TABLE:
        b_row = source[2] if ADD_TABLE else root * FANOUT + i_slot
        m_row = m_slot if ADD_TABLE else i_slot < FANOUT
        for first in tl.static_range(0, DIM, BLOCK):
            b_d_node = scattered_block(
                b_d_logits, b_droppeds, p_query, stride_query_head, p_context, stride_context_head,
                first, DIM, SLOTS, BLOCK,
            )  # fmt: skip
            i_node = first + tl.arange(0, BLOCK)
            m_node = m_row[:, None] & (i_node < DIM)[None, :]
            write_block(p_d_table + b_row[:, None] * DIM + i_node[None, :], b_d_node, m_node, ADD_TABLE)
    if TIMES:
        p_query, p_context = p_query + DIM + EDGE, p_context + DIM + EDGE
        for first in tl.static_range(0, TIME, BLOCK):
            b_d_time = scattered_block(
                b_d_logits, b_droppeds, p_query, stride_query_head, p_context, stride_context_head,
                first, TIME, SLOTS, BLOCK,
            )  # fmt: skip
            i_time = first + tl.arange(0, BLOCK)
            m_time = i_time < TIME
            b_by_phase = -sin_turns(turns_block(b_delta, p_frequency, p_phase, i_time, m_time)) * b_d_time
            tl.store(p_d_frequency + root * TIME + i_time, tl.sum(b_by_phase * b_delta[:, None], 0), mask=m_time)
            tl.store(p_d_phase + root * TIME + i_time, tl.sum(b_by_phase, 0), mask=m_time)


def launch_attention_gradients(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None, weights: torch.Tensor, slope: torch.Tensor,
    dropout: float, d_table: torch.Tensor | None, needs_time: bool, add_table: bool, add_query: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The kernel of `temporal_attention_backward`: a program takes a root.

    Args:
        d_table: where the slots' gradients go, or None where they are not needed: a table [U, D] to which they are
            added with `add_table`, else a row for every slot [R·F, D].
        add_query: whether the roots' gradients are added to their rows of the query, else each has a row of its own.

    Returns:
        Gradients of frequency and phase by root [R, T], which are empty unless `needs_time`, of query and of bias.
    """
    (roots, fanout), (_, heads, width) = deltas.shape, query.shape
    d_context, query = inner_contiguous(d_context), inner_contiguous(query)
    d_frequency = query.new_empty((roots if needs_time else 0, frequency.numel()))
    d_phase = torch.empty_like(d_frequency)
    d_query = query.new_zeros(query.shape) if add_query else query.new_empty((roots, heads, width))
    d_bias = query.new_zeros(query.shape[:2]) if add_query else query.new_empty((roots, heads))
    attention_backward_kernel.launch(
        (roots,), slots_config(attention_backward_kernel, query.dtype, table, fanout),
        d_context, d_total.contiguous(), table, None if rows is None else rows.contiguous(), features,
        None if feature_rows is None else feature_rows.contiguous(), deltas.contiguous(), counts, frequency, phase,
        query, query_rows, weights, slope, d_table, d_frequency, d_phase, d_query, d_bias,
        d_context.stride(0), d_context.stride(1), query.stride(0), query.stride(1),
        HEADS=heads, **slots_shapes(table, features, deltas, frequency),
        DROPOUT=dropout > 0, SCALE=keep_scale(dropout, query.dtype), TABLE=d_table is not None, TIMES=needs_time,
        ADD_QUERY=add_query, ADD_TABLE=add_table,
    )  # fmt: skip
    return d_frequency, d_phase, d_query, d_bias


def launch_temporal_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None,
    weights: torch.Tensor, slope: torch.Tensor, others: torch.Tensor,
    dropout: float, needs_table: bool, needs_time: bool,
) -> Gradients:  # fmt: skip
    """`temporal_attention_backward` by its kernel.

    Sums over roots and slots are atomic, in no fixed order; where torch is asked for deterministic algorithms, their
    terms are written out and `index_add_`, which then orders them, sums them.
    """
    add = not torch.are_deterministic_algorithms_enabled()
    d_table = None
    if needs_table:
        d_table = query.new_zeros(table.shape) if add else query.new_empty(deltas.numel(), table.shape[1])
    d_frequency, d_phase, d_query, d_bias = launch_attention_gradients(
        d_context, d_total, table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows,
        weights, slope, dropout, d_table, needs_time, add, add and query_rows is not None,
    )  # fmt: skip
    if query_rows is not None and not add:
        d_query = query.new_zeros(query.shape).index_add_(0, query_rows, d_query)
        d_bias = query.new_zeros(query.shape[:2]).index_add_(0, query_rows, d_bias)
    if d_table is not None and rows is not None and not add:
        d_table = query.new_zeros(table.shape).index_add_(0, filled_rows(rows, counts).view(-1), d_table)
    d_table = table.new_empty(0) if d_table is None else d_table.to(table.dtype)
    if not needs_time:
        return d_table, frequency.new_empty(0), phase.new_empty(0), d_query, d_bias
    return d_table, d_frequency.sum(0), d_phase.sum(0), d_query, d_bias


@torch.library.custom_op("mspipe_triton::temporal_attention_backward", mutates_args=())
def temporal_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None,
    weights: torch.Tensor, slope: torch.Tensor, others: torch.Tensor,
    dropout: float, needs_table: bool, needs_time: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `temporal_attention` in table, frequency, phase, query and bias; empty where not needed."""
    run = launch_temporal_attention_backward if on_triton(query) else temporal_attention_backward_reference
    return run(
        d_context, d_total, table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows,
        weights, slope, others, dropout, needs_table, needs_time,
    )  # fmt: skip


@temporal_attention_backward.register_fake
def _(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None,
    weights: torch.Tensor, slope: torch.Tensor, others: torch.Tensor,
    dropout: float, needs_table: bool, needs_time: bool,
) -> Gradients:  # fmt: skip
    return (
        table.new_empty(table.shape if needs_table else 0),
        frequency.new_empty(frequency.shape if needs_time else 0),
        phase.new_empty(phase.shape if needs_time else 0),
        query.new_empty(query.shape),
        query.new_empty(query.shape[:2]),
    )


refuse_second_derivative(temporal_attention_backward)
