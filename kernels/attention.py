"""Absorbed attention over the rows x_j of a root's slots, forward and backward, shared by the attention operations."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.kernels.checks import (
    COMPUTED,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_same_dtype,
    check_shape,
)  # fmt: skip
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import device_function, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    load_columns,
    mixed,
    products,
    row_products,
    write_block,
    write_mixed,
)
from mspipe_triton.kernels.philox import dropout_scale, philox_kept
from mspipe_triton.kernels.time_encoding import sin_turns, turns_block

NEGATIVE_SLOPE = 0.2
Attended = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def attended(
    query: torch.Tensor, bias: torch.Tensor, slots: Slots, counts: torch.Tensor,
    dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """context [R, K, X] and total [R, K] in torch, and what the backward pass reads, which is empty unless `save`:

    the weights a before dropout and LeakyReLU's slope, negated where dropout drops the weight, both [R, K, F]; the
    slots' `others`.
    """
    scale = None
    if dropout > 0 and draws is not None:
        shape = (query.shape[0], query.shape[1], slots.others.shape[1])
        scale = dropout_scale(draws, shape, dropout, query.dtype)
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


def attended_backward(
    d_context: torch.Tensor, d_total: torch.Tensor, slots: Slots,
    weights: torch.Tensor, slope: torch.Tensor, dropout: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """In torch: gradients of the logits before LeakyReLU [R, K, F], the weights after dropout, d_query and d_bias."""
    d_logits, dropped = _logits_backward(products(d_context, *slots), d_total, weights, slope, 1.0 - dropout)
    return d_logits, dropped, torch.cat(mixed(d_logits, *slots), 2), d_logits.sum(2)


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
def attend(
    source, b_held, p_query, stride_query_head, p_bias, p_draws, p_context, p_total, p_weights, p_slope, root,
    HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr, DROPOUT: tl.constexpr, KEEP_FROM: tl.constexpr, SCALE: tl.constexpr,
    SLOPE: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With x_j = [h_j ‖ e_j ‖ cos(w Δt_j + b)] and m_kj the dropout multiplier, for a root, its heads k and slots j:

        l_kj = LeakyReLU(query_k · x_j + bias_k)          a_kj = exp(l_kj − max_i l_ki) / Σ_i exp(l_ki − max_i l_ki)
        context_k = Σ_j m_kj a_kj x_j                     total_k = Σ_j m_kj a_kj

    `p_query` and `p_bias` point to the root's own.
    """
    i_slot, m_slot = tl.arange(0, SLOTS), source[0]
    for head in tl.static_range(HEADS):
        b_logit = tl.load(p_bias + head) + row_products(
            p_query + head * stride_query_head, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK
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


@device_function
def attend_backward(
    source, b_held, p_d_context, stride_context_head, p_d_total, p_weights, p_slope, p_d_query, p_d_bias, root, target,
    ADD: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr, DROPOUT: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With m_kj the dropout multiplier and s_kj LeakyReLU's slope, for a root, its heads k and slots j:

        da_kj = m_kj (x_j · dcontext_k + dtotal_k)          dl_kj = s_kj a_kj (da_kj − Σ_i a_ki da_ki)
        dquery_k = Σ_j dl_kj x_j                            dbias_k = Σ_j dl_kj

    dquery and dbias go to row `target`, added atomically with ADD. Returned are dl_k and m_k a_k, a block a head.
    `p_d_context` points to the root's own.
    """
    i_slot, m_slot = tl.arange(0, SLOTS), source[0]
    b_d_logits, b_droppeds = (), ()
    for head in tl.static_range(HEADS):
        b_d_weight = tl.load(p_d_total + root * HEADS + head) + row_products(
            p_d_context + head * stride_context_head, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK
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
        write_mixed(p_row, b_d_logit, ADD, source, b_held, DIM, EDGE, TIME, SLOTS, BLOCK)
        write_block(p_d_bias + target * HEADS + head, tl.sum(b_d_logit, 0), None, ADD)
        b_d_logits += (b_d_logit,)  # type: ignore[assignment]  # the loop is unrolled
        b_droppeds += (b_dropped,)  # type: ignore[assignment]  # the loop is unrolled
    return b_d_logits, b_droppeds


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


@device_function
def write_time_gradients(
    source, b_d_logits, b_droppeds, p_query, stride_query_head, p_d_context, stride_context_head,
    p_d_frequency, p_d_phase, root, TIME: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A root's part dw = −Σ_j sin(w Δt_j + b) Δt_j dφ_j and db = −Σ_j sin(w Δt_j + b) dφ_j, from the columns of φ."""
    b_delta, p_frequency, p_phase = source[1], source[4], source[5]
    for first in tl.static_range(0, TIME, BLOCK):
        b_d_time = scattered_block(
            b_d_logits, b_droppeds, p_query, stride_query_head, p_d_context, stride_context_head,
            first, TIME, SLOTS, BLOCK,
        )  # fmt: skip
        i_time = first + tl.arange(0, BLOCK)
        m_time = i_time < TIME
        b_by_phase = -sin_turns(turns_block(b_delta, p_frequency, p_phase, i_time, m_time)) * b_d_time
        tl.store(p_d_frequency + root * TIME + i_time, tl.sum(b_by_phase * b_delta[:, None], 0), mask=m_time)
        tl.store(p_d_phase + root * TIME + i_time, tl.sum(b_by_phase, 0), mask=m_time)


def empty_attended(slots: tuple[int, ...], query: torch.Tensor, save: bool, others: int) -> Attended:
    """`attended`'s results unwritten, for slots [R, F]; `others` is their width where they are saved, else 0."""
    (roots, fanout), (_, heads, width) = slots, query.shape
    weights = query.new_empty((roots, heads, fanout) if save else 0)
    context, total = query.new_empty((roots, heads, width)), query.new_empty((roots, heads))
    saved = query.new_empty((roots, fanout, others) if save and others else 0)
    return context, total, weights, torch.empty_like(weights), saved


def setup_attended(ctx: Any, inputs: tuple[Any, ...], output: Attended) -> None:
    """What autograd keeps of an operation whose inputs end in bias, dropout, draws, save: all before, and the saved."""
    *tensors, _, ctx.dropout, _, _ = inputs
    ctx.set_materialize_grads(False)  # else zeros would be made for what is saved, too
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


def whole_gradients(
    d_context: torch.Tensor | None, d_total: torch.Tensor | None, query: torch.Tensor, roots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both gradients of R roots, zeros for what has none."""
    if d_context is None:
        d_context = query.new_zeros((roots, *query.shape[1:]))
    if d_total is None:
        d_total = query.new_zeros((roots, query.shape[1]))
    return d_context, d_total


def check_attention(
    operation: str, rows: str, width: int, query: torch.Tensor, bias: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, dropout: float, draws: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse a query [·, K, X], bias [·, K] or dropout that does not go with rows x_j of a width; `rows` names them."""
    check_dims(operation, 3, query=query)
    if query.shape[2] != width:
        raise ValueError(f"{operation}: query has width {query.shape[2]}, {rows} have {width}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{operation}: dropout must be at least 0 and below 1, not {dropout}")
    if dropout > 0 and draws is None:
        raise ValueError(f"{operation}: dropout needs draws, the Philox words [seed, purpose, epoch, iteration]")
    check_shape(operation, bias=(bias, query.shape[:2]), draws=(draws, (4,)))
    check_dtype(operation, COMPUTED, query=query)
    check_same_dtype(operation, query=query, bias=bias, frequency=frequency, phase=phase)
    check_dtype(operation, (torch.int64,), draws=draws)
    check_layout(operation, draws=draws)
    check_device(operation, query.device, bias=bias, draws=draws)
