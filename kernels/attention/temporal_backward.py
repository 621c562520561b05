"""The backward pass of `temporal_attention`: gradients of table, time encoder, query and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.attention.slots import (
    Slots,
    filled_rows,
    held_blocks,
    inner_contiguous,
    load_columns,
    mail_slots,
    products,
    row_products,
    slots_arguments,
    slots_config,
    slots_of,
    slots_shapes,
    weighted_sums,
    write_block,
    write_mixed,
)
from mspipe_triton.kernels.numbers.philox import keep_scale
from mspipe_triton.kernels.numbers.time_encoding import encode_time_backward, sin_turns, turns_block
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import Config, device_function, kernel, tl
from mspipe_triton.kernels.runtime.operation import Gradients

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.temporal import Attended, Attention

TIMES = ("frequency", "phase")


def attend_backward(args: Attention, out: Attended, grad: Attended, needs: frozenset[str]) -> Gradients:
    """Compute the gradients in torch. Edge rows and φ come from `out.others`; node rows are read again."""
    (d_context, d_total), query_rows = _output_gradients(args, grad), args.query_rows
    if args.table.dim() == 3:
        slots = mail_slots(args.table, args.rows, args.features, args.feature_rows, args.counts, out.others)
    else:
        slots = Slots(args.table.to(args.query.dtype), filled_rows(args.rows, args.counts), None, out.others)
    d_weights, keep = products(d_context, None, *slots), 1.0 - args.dropout
    d_logits, dropped = _logits_backward(d_weights, d_total, out.weights, out.slope, keep)

    def d_columns(columns: slice) -> torch.Tensor:
        query = args.query[..., columns]
        query = query if query_rows is None else query.index_select(0, query_rows)
        return _scatter(d_logits, dropped, query, d_context[..., columns])

    gradients = {"query": weighted_sums(d_logits, *slots), "bias": d_logits.sum(2)}
    if "table" in needs and slots.rows is not None:
        nodes, dim = slots.table, args.table.shape[1]
        d_table = torch.zeros_like(nodes).index_add_(0, slots.rows.view(-1), d_columns(slice(dim)).view(-1, dim))
        gradients["table"] = d_table.to(args.table.dtype)
    if needs.intersection(TIMES):
        d_time = d_columns(slice(args.query.shape[2] - args.frequency.numel(), None))
        deltas = args.deltas.contiguous().to(d_time.dtype)
        gradients |= zip(TIMES, encode_time_backward(d_time, deltas, args.frequency, args.phase), strict=True)
    return gradients if query_rows is None else _sum_by_query(args, query_rows, gradients)


def _output_gradients(args: Attention, grad: Attended) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of context and total, zeros where one is missing."""
    roots, (_, heads, width) = args.deltas.shape[0], args.query.shape
    d_context = args.query.new_zeros((roots, heads, width)) if grad.context is None else grad.context
    return d_context, args.query.new_zeros((roots, heads)) if grad.total is None else grad.total


def _sum_by_query(args: Attention, rows: torch.Tensor, gradients: Gradients) -> Gradients:
    """Gradients in which those of the roots' queries and biases are summed by query row."""
    for name, shape in (("query", args.query.shape), ("bias", args.query.shape[:2])):
        gradients[name] = args.query.new_zeros(shape).index_add_(0, rows, gradients[name])
    return gradients


@fused()
def _logits_backward(
    d_weights: torch.Tensor, d_total: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, keep: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the logits before LeakyReLU, and the weights after dropout, both [R, K, F].

    `d_weights` is x·d_context [R, K, F], d_total is [R, K], weights and slope are saved by the forward pass; `keep` is
    1 − dropout.
    """
    dropped = weights * ((slope > 0).to(slope.dtype) / keep)
    weighted = dropped * (d_weights + d_total.unsqueeze(2))
    return (weighted - weights * weighted.sum(2, keepdim=True)) * slope.abs(), dropped


@fused()
def _scatter(
    d_logits: torch.Tensor, weights: torch.Tensor, query: torch.Tensor, d_context: torch.Tensor
) -> torch.Tensor:
    """Gradient Σ_k d_logits_k ⊗ query_k + weights_k ⊗ d_context_k of some columns of x [R, F, ·], for the same columns
    of query and d_context."""
    if torch.compiler.is_compiling():
        by_query = (d_logits.unsqueeze(3) * query.unsqueeze(2)).sum(1)
        return by_query + (weights.unsqueeze(3) * d_context.unsqueeze(2)).sum(1)
    return torch.baddbmm(torch.bmm(d_logits.mT, query), weights.mT, d_context)


@device_function
def _scatter_block(
    b_d_logits, b_droppeds, p_query, stride_query_head, p_d_context, stride_context_head,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns FIRST to FIRST + BLOCK of dx_j = Σ_k dl_kj query_k + m_kj a_kj dcontext_k [SLOTS, BLOCK], 0 from WIDTH
    on. The tuples have one block per head; the pointers are to the root's rows."""
    b_d_x = tl.zeros([SLOTS, BLOCK], p_query.dtype.element_ty)
    for head in tl.static_range(len(b_d_logits)):
        b_query = load_columns(p_query + head * stride_query_head, FIRST, WIDTH, BLOCK)
        b_context = load_columns(p_d_context + head * stride_context_head, FIRST, WIDTH, BLOCK)
        b_d_x += b_d_logits[head][:, None] * b_query[None, :] + b_droppeds[head][:, None] * b_context[None, :]
    return b_d_x


@kernel(
    Config({"BLOCK": 64, "HELD": 6144}, num_warps=1), Config({"BLOCK": 128, "HELD": 10240}, num_warps=2),
    space=spaces.SLOTS,
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
    and with ADD_TABLE dh_j to the slot's table row; otherwise every root and every slot has a row of its own. dw and db
    are partial sums per root. x_j is read as in the forward pass; its gradient is computed in blocks, after all heads.
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
        # a·da, with the multiplier of da applied to the weight.
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
            b_d_node = _scatter_block(
                b_d_logits, b_droppeds, p_query, stride_query_head, p_context, stride_context_head,
                first, DIM, SLOTS, BLOCK,
            )  # fmt: skip
            i_node = first + tl.arange(0, BLOCK)
            m_node = m_row[:, None] & (i_node < DIM)[None, :]
            write_block(p_d_table + b_row[:, None] * DIM + i_node[None, :], b_d_node, m_node, ADD_TABLE)
    if TIMES:
        p_query, p_context = p_query + DIM + EDGE, p_context + DIM + EDGE
        for first in tl.static_range(0, TIME, BLOCK):
            b_d_time = _scatter_block(
                b_d_logits, b_droppeds, p_query, stride_query_head, p_context, stride_context_head,
                first, TIME, SLOTS, BLOCK,
            )  # fmt: skip
            i_time = first + tl.arange(0, BLOCK)
            m_time = i_time < TIME
            b_by_phase = -sin_turns(turns_block(b_delta, p_frequency, p_phase, i_time, m_time)) * b_d_time
            tl.store(p_d_frequency + root * TIME + i_time, tl.sum(b_by_phase * b_delta[:, None], 0), mask=m_time)
            tl.store(p_d_phase + root * TIME + i_time, tl.sum(b_by_phase, 0), mask=m_time)


def launch_attention_gradients(
    args: Attention, out: Attended, d_context: torch.Tensor, d_total: torch.Tensor, d_table: torch.Tensor | None,
    times: bool, add_table: bool, add_query: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Launch the backward pass, one program per root.

    Args:
        d_table: output for the slots' gradients, or None if they are not needed: with `add_table` a table [U, D] to
            which they are added, else one row per slot [R·F, D].
        add_query: add the roots' gradients to their rows of the query; else each root has a row of its own.

    Returns:
        Gradients of frequency and phase per root [R, T], which are empty unless `times`, of query and of bias.
    """
    roots, (_, heads, width) = args.deltas.shape[0], args.query.shape
    d_context, query = inner_contiguous(d_context), inner_contiguous(args.query)
    d_frequency = query.new_empty((roots if times else 0, args.frequency.numel()))
    d_phase = torch.empty_like(d_frequency)
    d_query = query.new_zeros(query.shape) if add_query else query.new_empty((roots, heads, width))
    d_bias = query.new_zeros(query.shape[:2]) if add_query else query.new_empty((roots, heads))
    attention_backward_kernel.launch(
        (roots,), slots_config(attention_backward_kernel, args),
        d_context, d_total.contiguous(), *slots_arguments(args), query, args.query_rows, out.weights, out.slope,
        d_table, d_frequency, d_phase, d_query, d_bias,
        d_context.stride(0), d_context.stride(1), query.stride(0), query.stride(1), HEADS=heads, **slots_shapes(args),
        DROPOUT=args.dropout > 0, SCALE=keep_scale(args.dropout, query.dtype), TABLE=d_table is not None, TIMES=times,
        ADD_QUERY=add_query, ADD_TABLE=add_table,
    )  # fmt: skip
    return d_frequency, d_phase, d_query, d_bias


def launch_attention_backward(args: Attention, out: Attended, grad: Attended, needs: frozenset[str]) -> Gradients:
    """Compute the gradients by a kernel.

    Sums over roots and slots are atomic, in no fixed order. With torch's deterministic algorithms, the kernel writes
    the terms instead and `index_add_` sums them in order.
    """
    add, times, d_table = not torch.are_deterministic_algorithms_enabled(), bool(needs.intersection(TIMES)), None
    if "table" in needs:
        slots, dim = args.rows.numel(), args.table.shape[1]
        d_table = args.query.new_zeros(args.table.shape) if add else args.query.new_empty(slots, dim)
    d_frequency, d_phase, d_query, d_bias = launch_attention_gradients(
        args, out, *_output_gradients(args, grad), d_table, times, add, add and args.query_rows is not None
    )
    gradients = {"query": d_query, "bias": d_bias}
    if args.query_rows is not None and not add:
        gradients = _sum_by_query(args, args.query_rows, gradients)
    if d_table is not None:
        if not add:
            rows = filled_rows(args.rows, args.counts).view(-1)
            d_table = args.query.new_zeros(args.table.shape).index_add_(0, rows, d_table)
        gradients["table"] = d_table.to(args.table.dtype)
    return gradients | {"frequency": d_frequency.sum(0), "phase": d_phase.sum(0)} if times else gradients
