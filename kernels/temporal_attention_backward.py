"""Gradients of `temporal_attention`, as an operation of its own."""

from __future__ import annotations

from dataclasses import replace

import torch

from mspipe_triton.kernels.attention import (
    attend_backward,
    attended_backward,
    scattered,
    scattered_block,
    write_time_gradients,
)
from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.launch import Config, Kernel, kernel, on_triton, pow2, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    filled_rows,
    filled_slots,
    held_blocks,
    inner_contiguous,
    slots_of,
    write_block,
)
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.time_encoding import encode_time_backward

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def temporal_attention_backward_reference(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, query_rows: torch.Tensor | None,
    weights: torch.Tensor, slope: torch.Tensor, others: torch.Tensor,
    dropout: float, needs_table: bool, needs_time: bool,
) -> Gradients:  # fmt: skip
    """Gradients in table, frequency, phase, query and bias; those that are not needed are empty.

    Edge rows and φ come from `others` [R, F, E + T]; node rows are read again.
    """
    nodes, dim = table.to(query.dtype), table.shape[1]
    rows = filled_rows(rows, counts)
    slots = Slots(nodes, rows, None, others)
    d_logits, dropped, d_query, d_bias = attended_backward(d_context, d_total, slots, weights, slope, dropout)
    d_table, d_frequency, d_phase = table.new_empty(0), frequency.new_empty(0), phase.new_empty(0)
    if needs_table:
        d_rows = scattered(d_logits, dropped, _by_root(query[..., :dim], query_rows), d_context[..., :dim])
        d_table = torch.zeros_like(nodes).index_add_(0, rows.view(-1), d_rows.view(rows.numel(), dim)).to(table.dtype)
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


@kernel(
    Config({"BLOCK": 64, "HELD": 6144}, num_warps=1), Config({"BLOCK": 128, "HELD": 10240}, num_warps=2),
    float64=[Config({"BLOCK": 64, "HELD": 10240}, num_warps=8)],
)  # fmt: skip
def attention_backward_kernel(
    p_d_context, p_d_total, p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_query_rows, p_weights, p_slope, p_d_table, p_d_frequency, p_d_phase, p_d_query, p_d_bias,
    stride_context, stride_context_head, stride_query, stride_query_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr, FANOUT: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, SCALE: tl.constexpr, TABLE: tl.constexpr, TIMES: tl.constexpr,
    ADD_QUERY: tl.constexpr, ADD_TABLE: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """`attend_backward`'s equations for a root, and with Σ over its heads k

        dx_j = Σ_k dl_kj query_k + m_kj a_kj dcontext_k
        dw = −Σ_j sin(w Δt_j + b) Δt_j dφ_j          db = −Σ_j sin(w Δt_j + b) dφ_j

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
    i_slot, m_slot = tl.arange(0, SLOTS), filled_slots(p_counts, root, FANOUT, SLOTS)
    b_row = tl.load(p_rows + (root * FANOUT + i_slot), mask=m_slot, other=0).to(tl.int64)
    source = slots_of(
        p_table + b_row[:, None] * STRIDE_TABLE, m_slot,
        p_features, p_feature_rows, p_deltas, p_frequency, p_phase, root, STRIDE_FEATURES, FANOUT, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    b_d_logits, b_droppeds = attend_backward(
        source, b_held, p_context, stride_context_head, p_d_total, p_weights, p_slope, p_d_query, p_d_bias, root,
        target, ADD_QUERY, HEADS, DIM, EDGE, TIME, FANOUT, SLOTS, DROPOUT, SCALE, BLOCK,
    )  # fmt: skip
    if TABLE:
        b_row = b_row if ADD_TABLE else root * FANOUT + i_slot
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
        write_time_gradients(
            source, b_d_logits, b_droppeds, p_query + DIM + EDGE, stride_query_head,
            p_context + DIM + EDGE, stride_context_head, p_d_frequency, p_d_phase, root, TIME, SLOTS, BLOCK,
        )  # fmt: skip


def neighbour_shapes(
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, frequency: torch.Tensor
) -> dict[str, int]:
    """Both kernels' widths, distances between rows, fanout and block of slots."""
    return {
        "DIM": table.shape[1], "EDGE": features.shape[1], "TIME": frequency.numel(),
        "STRIDE_TABLE": table.stride(0), "STRIDE_FEATURES": features.stride(0),
        "FANOUT": rows.shape[1], "SLOTS": pow2(rows.shape[1], 1),
    }  # fmt: skip


def slots_config(kernel: Kernel, dtype: torch.dtype, fanout: int) -> Config:
    """Either kernel's configuration, which is for 16 slots; a root with more takes as many times the warps, up to 8."""
    config = kernel.config("float64" if dtype == torch.float64 else "float32")
    if fanout <= 16:
        return config
    warps = max(min(config.num_warps * pow2(fanout) // 16, 8), config.num_warps)
    held = config["HELD"] * warps // config.num_warps
    return replace(config, blocks={**config.blocks, "HELD": held}, num_warps=warps)


def launch_attention_gradients(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
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
    (roots, _), (_, heads, width) = rows.shape, query.shape
    d_context, query = inner_contiguous(d_context), inner_contiguous(query)
    d_frequency = query.new_empty((roots if needs_time else 0, frequency.numel()))
    d_phase = torch.empty_like(d_frequency)
    d_query = query.new_zeros(query.shape) if add_query else query.new_empty((roots, heads, width))
    d_bias = query.new_zeros(query.shape[:2]) if add_query else query.new_empty((roots, heads))
    attention_backward_kernel.launch(
        (roots,), slots_config(attention_backward_kernel, query.dtype, rows.shape[1]),
        d_context, d_total.contiguous(), table, rows.contiguous(), features,
        None if feature_rows is None else feature_rows.contiguous(), deltas.contiguous(), counts.contiguous(),
        frequency, phase, query, query_rows, weights, slope, d_table, d_frequency, d_phase, d_query, d_bias,
        d_context.stride(0), d_context.stride(1), query.stride(0), query.stride(1),
        HEADS=heads, **neighbour_shapes(table, rows, features, frequency),
        DROPOUT=dropout > 0, SCALE=keep_scale(dropout, query.dtype), TABLE=d_table is not None, TIMES=needs_time,
        ADD_QUERY=add_query, ADD_TABLE=add_table,
    )  # fmt: skip
    return d_frequency, d_phase, d_query, d_bias


def launch_temporal_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
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
        d_table = query.new_zeros(table.shape) if add else query.new_empty(rows.numel(), table.shape[1])
    d_frequency, d_phase, d_query, d_bias = launch_attention_gradients(
        d_context, d_total, table, rows, features, feature_rows, deltas, counts, frequency, phase, query, query_rows,
        weights, slope, dropout, d_table, needs_time, add, add and query_rows is not None,
    )  # fmt: skip
    if query_rows is not None and not add:
        d_query = query.new_zeros(query.shape).index_add_(0, query_rows, d_query)
        d_bias = query.new_zeros(query.shape[:2]).index_add_(0, query_rows, d_bias)
    if d_table is not None and not add:
        d_table = query.new_zeros(table.shape).index_add_(0, filled_rows(rows, counts).view(-1), d_table)
    d_table = table.new_empty(0) if d_table is None else d_table.to(table.dtype)
    if not needs_time:
        return d_table, frequency.new_empty(0), phase.new_empty(0), d_query, d_bias
    return d_table, d_frequency.sum(0), d_phase.sum(0), d_query, d_bias


@torch.library.custom_op("mspipe_triton::temporal_attention_backward", mutates_args=())
def temporal_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
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
    table: torch.Tensor, rows: torch.Tensor, features: torch.Tensor, feature_rows: torch.Tensor | None,
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
