"""Attention of each root over its temporal neighbours, with the key and value projections absorbed into the query."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.attention.slots import (
    Slots,
    check_filled,
    check_slots,
    edge_rows,
    filled_rows,
    held_blocks,
    inner_contiguous,
    mail_slots,
    products,
    row_products,
    slots_arguments,
    slots_config,
    slots_of,
    slots_shapes,
    weighted_sums,
    write_mixed,
)
from mspipe_triton.kernels.attention.temporal_backward import attend_backward, launch_attention_backward
from mspipe_triton.kernels.numbers.philox import dropout_scale, keep_scale, philox_kept
from mspipe_triton.kernels.numbers.time_encoding import fused_encode_time
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import Config, kernel, on_triton, tl
from mspipe_triton.kernels.runtime.operation import Backward, differentiable

NEGATIVE_SLOPE = 0.2


class Attention(NamedTuple):
    """Attention over x_j = [h_j ‖ e_j ‖ φ(Δt_j)] by a query that already carries the key projection.

    For root r with row v = query_rows[r], head k, and its slots j < counts[r]:

        l_rkj = LeakyReLU₀.₂(query_vk · x_rj + bias_vk)          (unscaled, as in TGL)
        a_rk  = dropout(softmax_j(l_rk))
        context_rk = Σ_j a_rkj x_rj          total_rk = Σ_j a_rkj          (both 0 where counts[r] = 0)

    With query = W_kᵀ q and bias = q · b_k per head, W_v·context + b_v·total is the projected attention of TGN and TGAT
    exactly; W_k and W_v are applied once per root instead of once per slot.

    Args:
        table: node rows h [U, D]; rows [R, F] integer, the slots' rows in it (ignored in empty slots).
        features: edge rows [·, E], E may be 0; feature_rows [R, F] integer, or None if `features` has one row per
            slot, [R·F, E] (ignored in empty slots; a negative row in a filled slot is read as row 0). Both tables
            may have any row stride, may be bfloat16, and may be in pinned host memory if they need no gradient.
        deltas: [R, F] floating, root time − neighbour time.
        counts: [R] integer, filled slots, which come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are query and bias.
        query: [Q, K, D + E + T] for K heads; query_rows [R] integer, or None where Q = R; bias [Q, K].
        dropout: probability of dropping an attention weight; `draws` [4] int64 are the Philox words (seed, purpose,
            epoch, iteration), needed if `dropout` is above 0.

    Returns:
        context [R, K, D + E + T] and total [R, K]. Nothing is mutated. Differentiable once in table, frequency,
        phase, query and bias; edge features get no gradient. On a GPU the gradients' sums over roots and slots have no
        fixed order unless torch.use_deterministic_algorithms(True) is set.

    Raises:
        ValueError: a wrong dtype, layout or device, mismatched shapes, `dropout` out of range, or above 0 without
            `draws`.
    """

    table: torch.Tensor
    rows: torch.Tensor
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    counts: torch.Tensor
    frequency: torch.Tensor
    phase: torch.Tensor
    query: torch.Tensor
    query_rows: torch.Tensor | None
    bias: torch.Tensor
    dropout: float = 0.0
    draws: torch.Tensor | None = None


class Attended(NamedTuple):
    """context [R, K, X] and total [R, K], then tensors for the backward pass, which are empty if none follows.

    `weights` are a before dropout and `slope` is LeakyReLU's, negated where dropout drops the weight, both [R, K, F].
    `others` are edge rows and φ [R, F, E + T], only φ for mails; the kernels leave it empty and recompute both.
    """

    context: torch.Tensor
    total: torch.Tensor
    weights: torch.Tensor
    slope: torch.Tensor
    others: torch.Tensor


def attend(args: Attention, save: bool) -> Attended:
    """`temporal_attention` in torch. The table may also be mailboxes [N, F, D], with rows [R], or None if N = R."""
    query, bias, dropout = args.query, args.bias, args.dropout
    encoded = fused_encode_time(args.deltas.contiguous().to(query.dtype), args.frequency, args.phase)
    if args.table.dim() == 3:
        slots = mail_slots(args.table, args.rows, args.features, args.feature_rows, args.counts, encoded)
    else:
        edges = edge_rows(args.features, args.feature_rows, args.counts, encoded)
        others = encoded if edges is None else torch.cat([edges, encoded], 2)
        slots = Slots(args.table.to(query.dtype), filled_rows(args.rows, args.counts), None, others)
    if args.query_rows is not None:
        bias = bias.index_select(0, args.query_rows)
    scale = None
    if dropout > 0 and args.draws is not None:
        scale = dropout_scale(args.draws, (*bias.shape, args.deltas.shape[1]), dropout, query.dtype)
    slope, weights, dropped = _weights(products(query, args.query_rows, *slots), bias, args.counts, scale)
    context, total = weighted_sums(dropped, *slots), dropped.sum(2)
    if not save:
        return Attended(context, total, *(query.new_empty(0) for _ in range(3)))
    return Attended(context, total, weights, slope, slots.others)


@fused()
def _weights(
    product: torch.Tensor, bias: torch.Tensor, counts: torch.Tensor, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LeakyReLU's slope, negated where dropped, and the softmax weights before and after dropout, all [R, K, F].

    The inputs are query·x [R, K, F], bias [R, K], counts [R] and the dropout multipliers [R, K, F].
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
    space=spaces.SLOTS,
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

    x_j is processed in blocks of BLOCK columns. They are read only once, into registers, if they fit in HELD numbers.
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


def launch_attention(args: Attention, save: bool) -> Attended:
    """`attend` by its kernel, one program per root."""
    out, query, dropout = empty_attended(args, save, 0), inner_contiguous(args.query), args.dropout
    attention_kernel.launch(
        (args.deltas.shape[0],), slots_config(attention_kernel, args), *slots_arguments(args), query, args.query_rows,
        args.bias.contiguous(), args.draws if dropout > 0 else None, *out[:4], query.stride(0), query.stride(1),
        HEADS=query.shape[1], **slots_shapes(args), DROPOUT=dropout > 0, KEEP_FROM=int(dropout * 2**32),
        SCALE=keep_scale(dropout, query.dtype), SLOPE=NEGATIVE_SLOPE, SAVE=save,
    )  # fmt: skip
    return out


def empty_attended(args: Attention, save: bool, others: int) -> Attended:
    """Allocate the outputs; `others` is the width of the output of that name, 0 if it is not saved."""
    (roots, fanout), (_, heads, width), new = args.deltas.shape, args.query.shape, args.query.new_empty
    weights = new((roots, heads, fanout) if save else 0)
    saved = new((roots, fanout, others) if save and others else 0)
    return Attended(new((roots, heads, width)), new((roots, heads)), weights, torch.empty_like(weights), saved)


def fake_attention(args: Attention, save: bool) -> Attended:
    """Allocate the outputs in the shapes that the kernels or torch return."""
    edges = 0 if args.table.dim() == 3 else args.features.shape[1]
    return empty_attended(args, save, 0 if on_triton(args.query) else edges + args.frequency.numel())


def check_attention(name: str, slots: tuple[int, ...], owner: str, args: Attention) -> None:
    """Refuse inputs, other than table and rows, that do not fit slots [R, F]; `owner` names the x_j in messages."""
    check_slots(name, args.query.device, slots, args)
    checks.dims(name, 3, query=args.query)
    width = args.table.shape[-1] + args.features.shape[1] + args.frequency.numel()
    if args.query.shape[2] != width:
        raise ValueError(
            f"{name}: query has width {args.query.shape[2]}, {owner} have {width}; give query {width} columns"
        )
    checks.shape(name, bias=(args.bias, args.query.shape[:2]))
    checks.dtype(name, checks.COMPUTED, query=args.query)
    checks.same_dtype(name, query=args.query, bias=args.bias, frequency=args.frequency, phase=args.phase)
    checks.device(name, args.query.device, bias=args.bias)
    checks.dropout(name, args.query.device, args.dropout, draws=args.draws)


def _check(args: Attention) -> None:
    name, table, rows, query_rows = "temporal_attention", args.table, args.rows, args.query_rows
    checks.dims(name, 2, table=table, rows=rows)
    check_attention(name, rows.shape, "neighbour rows", args)
    checks.shape(name, query_rows=(query_rows, rows.shape[:1]))
    if query_rows is None:
        checks.shape(name, query=(args.query, (*rows.shape[:1], *args.query.shape[1:])))
    checks.dtype(name, checks.FLOATS, table=table)
    checks.dtype(name, checks.INTEGERS, rows=rows, query_rows=query_rows)
    checks.layout(name, table=table, rows=rows, query_rows=query_rows)
    # Rows in pinned host memory are read in place; their gradient would have to be written there.
    pinned = () if table.requires_grad else ("table",)
    checks.device(name, args.query.device, pinned, table=table, rows=rows, query_rows=query_rows)
    checks.within(name, "query_rows", query_rows, args.query.shape[0])
    check_filled(name, "rows", rows, args.counts, table.shape[0])


temporal_attention = differentiable(
    "temporal_attention", Attention, reference=attend, launch=launch_attention, fake=fake_attention, check=_check,
    on="query", returns=lambda out: (out.context, out.total),
    backward=Backward(
        attend_backward, launch_attention_backward, leaves=("table", "frequency", "phase", "query", "bias"),
        forgets=("draws", "context", "total"), outputs=2,
    ),
)  # fmt: skip
