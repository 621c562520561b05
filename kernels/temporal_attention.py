"""Attention of each root over its temporal neighbours, with the key and value projections absorbed into the query."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.philox import dropout_scale
from mspipe_triton.kernels.time_encoding import encode_time_backward, fused_encode_time

NEGATIVE_SLOPE = 0.2


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
            slot, [R·F, E] (ignored in empty slots; a row below 0 in a filled one is read as row 0).
        deltas: [R, F] floating, root time − neighbour time.
        counts: [R] integer, filled slots; they come first.
        frequency, phase: [T], of the time encoder.
        query: [Q, K, D + E + T] for K heads; query_rows [R] integer, or None where Q = R; bias [Q, K].
        dropout: probability of dropping an attention weight; `draws` [4] int64 keys the draws (Philox seed, purpose,
            epoch, iteration) and is needed when it is above 0.

    Returns:
        context [R, K, D + E + T] and total [R, K]. Nothing is mutated. Differentiable in table, frequency, phase, query
        and bias; edge features are data.

    Raises:
        ValueError: the widths do not add up, or `dropout` is out of range or above 0 without `draws`.
    """
    width = table.shape[1] + features.shape[1] + frequency.numel()
    if query.shape[2] != width:
        raise ValueError(f"temporal_attention: query has width {query.shape[2]}, neighbour rows have {width}")
    if not 0 <= dropout < 1:
        raise ValueError(f"temporal_attention: dropout must be at least 0 and below 1, not {dropout}")
    if dropout > 0 and draws is None:
        raise ValueError("temporal_attention: dropout needs draws, the Philox words [seed, purpose, epoch, iteration]")
    filled = torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1)
    scale = None
    if dropout > 0 and draws is not None:
        scale = dropout_scale(draws, (rows.shape[0], query.shape[1], rows.shape[1]), dropout, query.dtype)
    if features.shape[1] == 0:
        edges = features.new_zeros((*rows.shape, 0))
    elif feature_rows is None:
        edges = features.view(*rows.shape, features.shape[1])
    else:
        edges = _gathered(features, torch.where(filled, feature_rows, 0).clamp_(min=0))
    context, total = _TemporalAttention.apply(
        table,
        torch.where(filled, rows, 0),
        edges,
        deltas.contiguous(),
        counts,
        frequency,
        phase,
        query,
        query_rows,
        bias,
        scale,
    )
    return context, total


@fused()
def _products(query: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """query · x_j [R, K, F] of queries [R, K, X]; x_j is a table row, by rows [R, F], and others [R, F, X − D]."""
    dim, nodes = table.shape[1], _gathered(table, rows)
    if torch.compiler.is_compiling():
        # As sums, these become vectorised loops that read the small table in place; no gathered copy is written.
        by_node = (query[:, :, None, :dim] * nodes.unsqueeze(1)).sum(3)
        return by_node + (query[:, :, None, dim:] * others.unsqueeze(1)).sum(3)
    return torch.baddbmm(torch.bmm(query[..., :dim], nodes.mT), query[..., dim:], others.mT)


@fused()
def _mixed(
    weights: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_j w_j x_j for weights [R, K, F], as the node part [R, K, D] and the rest [R, K, X − D]."""
    nodes = _gathered(table, rows)
    if torch.compiler.is_compiling():
        spread = weights.unsqueeze(3)
        return (spread * nodes.unsqueeze(1)).sum(2), (spread * others.unsqueeze(1)).sum(2)
    return torch.bmm(weights, nodes), torch.bmm(weights, others)


def _gathered(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """table[rows] as [R, F, D]; compiled code fuses the indexing, eager code is fastest with index_select."""
    if torch.compiler.is_compiling():
        return table[rows]
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])


@fused()
def _scattered(
    d_logits: torch.Tensor, weights: torch.Tensor, query: torch.Tensor, d_context: torch.Tensor
) -> torch.Tensor:
    """Gradient of x [R, F, X]: Σ_k d_logits_k ⊗ query_k + weights_k ⊗ d_context_k."""
    if torch.compiler.is_compiling():
        by_query = (d_logits.unsqueeze(3) * query.unsqueeze(2)).sum(1)
        return by_query + (weights.unsqueeze(3) * d_context.unsqueeze(2)).sum(1)
    return torch.baddbmm(torch.bmm(d_logits.mT, query), weights.mT, d_context)


@fused()
def _weights(product: torch.Tensor, bias: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """LeakyReLU's slope and the softmax weights, both [R, K, F], of query·x [R, K, F] and bias [R, K]."""
    logits = product + bias.unsqueeze(2)
    slope = torch.where(logits > 0, torch.ones_like(logits), NEGATIVE_SLOPE)
    filled = (torch.arange(product.shape[2], device=product.device) < counts.unsqueeze(1)).unsqueeze(1)
    logits = torch.where(filled, logits * slope, -torch.inf)
    return slope, torch.where(filled, torch.softmax(logits, 2), 0.0)


@fused()
def _logits_backward(d_weights: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Gradient of the logits before LeakyReLU [R, K, F] from that of the softmax's output."""
    weighted = weights * d_weights
    return (weighted - weights * weighted.sum(2, keepdim=True)) * slope


class _TemporalAttention(torch.autograd.Function):
    """The operation with its dropout drawn; the backward pass keeps φ and the weights and reads the table again."""

    @staticmethod
    def forward(
        ctx: Any, table: torch.Tensor, rows: torch.Tensor, others: torch.Tensor, deltas: torch.Tensor,
        counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, query: torch.Tensor,
        query_rows: torch.Tensor | None, bias: torch.Tensor, scale: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        dtype = query.dtype
        table = table.to(dtype)
        encoded = fused_encode_time(deltas.to(dtype), frequency, phase)
        others = torch.cat([others.to(dtype), encoded], 2) if others.shape[2] else encoded
        ctx.queries = query.shape[0]
        if query_rows is not None:
            query, bias = query.index_select(0, query_rows), bias.index_select(0, query_rows)
        slope, weights = _weights(_products(query, table, rows, others), bias, counts)
        dropped = weights if scale is None else weights * scale
        ctx.save_for_backward(
            table, rows, others, deltas, frequency, phase, query, query_rows, scale, slope, weights, dropped
        )
        return torch.cat(_mixed(dropped, table, rows, others), 2), dropped.sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (table, rows, others, deltas, frequency, phase, query, query_rows, scale, slope, weights, dropped) = (
            ctx.saved_tensors
        )
        d_context, d_total = grads
        dim = table.shape[1]
        d_weights = _products(d_context, table, rows, others) + d_total.unsqueeze(2)
        d_logits = _logits_backward(d_weights if scale is None else d_weights * scale, weights, slope)
        d_query, d_bias = torch.cat(_mixed(d_logits, table, rows, others), 2), d_logits.sum(2)
        d_table = d_frequency = d_phase = None
        if ctx.needs_input_grad[0]:
            d_rows = _scattered(d_logits, dropped, query[..., :dim], d_context[..., :dim])
            d_table = torch.zeros_like(table).index_add_(0, rows.view(-1), d_rows.view(rows.numel(), dim))
        if ctx.needs_input_grad[5] or ctx.needs_input_grad[6]:
            times = slice(query.shape[2] - frequency.numel(), None)
            d_time = _scattered(d_logits, dropped, query[..., times], d_context[..., times])
            d_frequency, d_phase = encode_time_backward(d_time, deltas.to(d_time.dtype), frequency, phase)
        if query_rows is not None:
            d_query = d_query.new_zeros(ctx.queries, *d_query.shape[1:]).index_add_(0, query_rows, d_query)
            d_bias = d_bias.new_zeros(ctx.queries, d_bias.shape[1]).index_add_(0, query_rows, d_bias)
        return d_table, None, None, None, None, d_frequency, d_phase, d_query, None, d_bias, None
