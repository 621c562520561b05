"""The backward pass of `attention_layer`: gradients of table, time encoder and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.attention.layer_output import launch_attention_output_backward
from mspipe_triton.kernels.attention.layer_query import launch_attention_query_backward
from mspipe_triton.kernels.attention.layer_weights import launch_attention_times, launch_attention_weights
from mspipe_triton.kernels.attention.slots import filled_rows, inner_contiguous
from mspipe_triton.kernels.attention.temporal import Attended, Attention
from mspipe_triton.kernels.attention.temporal_backward import TIMES, attend_backward, launch_attention_gradients
from mspipe_triton.kernels.numbers.philox import keep_scale
from mspipe_triton.kernels.runtime.operation import Gradients

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.layer import AttentionLayer, Embedded


def over_neighbours(
    of: AttentionLayer, absorbed: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor
) -> Attention:
    """The layer's call of `temporal_attention`."""
    slots = of.table, of.rows, of.features, of.feature_rows, of.deltas, of.counts, of.frequency, of.phase
    return Attention(*slots, absorbed, query_rows, bias, of.dropout, of.draws)


def _inner(
    of: AttentionLayer, out: Embedded, query_rows: torch.Tensor | None, d_context: torch.Tensor, d_total: torch.Tensor
) -> tuple[Attention, Attended, Attended]:
    """Arguments of `temporal_attention`'s backward pass, which reads no bias: the total stands in its place."""
    attended = Attended(out.context, out.total, out.weights, out.slope, out.others)
    grad = attended._replace(context=d_context, total=d_total)
    return over_neighbours(of, out.absorbed, query_rows, out.total), attended, grad


def embed_backward(of: AttentionLayer, out: Embedded, grad: Embedded, needs: frozenset[str]) -> Gradients:
    """The gradients in torch."""
    distinct, heads, _ = out.absorbed.shape
    d_z, (roots, dim), width = grad.z, grad.z.shape, grad.z.shape[1] // heads
    table = of.table.to(d_z.dtype)
    own, at_zero = table[:distinct], torch.cos(of.phase)
    d_activated, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
        d_z, out.activated, [dim], out.mean, out.rstd, of.norm_weight, of.norm_bias, [True] * 3
    )
    d_mixed = torch.ops.aten.threshold_backward(d_activated, out.activated, 0.0)  # where y was dropped, this is 0
    d_mixed = d_mixed * keep_scale(of.dropout, d_z.dtype) if of.dropout > 0 else d_mixed
    d_own = d_z.new_zeros(distinct, dim).index_add_(0, of.root_rows, d_mixed)
    d_output_weight = torch.cat([d_mixed.t() @ out.attended, d_own.t() @ own], 1)
    d_attended = (d_mixed @ of.output_weight[:, :dim]).view(roots, heads, width)
    d_total = (d_attended * of.value_bias.view(heads, width)).sum(2)
    by_head = d_attended.transpose(0, 1)
    d_context = torch.bmm(by_head, of.value_weight.view(heads, width, -1)).transpose(0, 1)
    d_value_weight = torch.bmm(by_head.mT, out.context.transpose(0, 1)).view_as(of.value_weight)
    inner, attended, d_inner = _inner(of, out, of.root_rows, d_context, d_total)
    inner_gradients = attend_backward(inner._replace(table=table), attended, d_inner, needs)
    d_absorbed, d_bias = inner_gradients.pop("query").transpose(0, 1), inner_gradients.pop("bias")
    query = out.query.view(distinct, heads, width)
    d_query = torch.bmm(d_absorbed, of.key_weight.view(heads, width, -1).mT).transpose(0, 1)
    d_query = (d_query + d_bias.unsqueeze(2) * of.key_bias.view(heads, width)).reshape(distinct, dim)
    d_query_bias = d_query.sum(0)
    gradients = inner_gradients | {
        "query_weight": torch.cat([d_query.t() @ own, torch.outer(d_query_bias, at_zero)], 1),
        "query_bias": d_query_bias,
        "key_weight": torch.bmm(query.permute(1, 2, 0), d_absorbed).view_as(of.key_weight),
        "key_bias": (d_bias.unsqueeze(2) * query).sum(0).view(-1),
        "value_weight": d_value_weight,
        "value_bias": (out.total.unsqueeze(2) * d_attended).sum(0).view(-1),
        "output_weight": d_output_weight,
        "output_bias": d_own.sum(0),
        "norm_weight": d_norm_weight,
        "norm_bias": d_norm_bias,
    }
    if "table" in needs:
        gradients["table"][:distinct] += d_query @ of.query_weight[:, :dim] + d_own @ of.output_weight[:, dim:]
        gradients["table"] = gradients["table"].to(of.table.dtype)
    if needs.intersection(TIMES):
        gradients["phase"] = gradients["phase"] - torch.sin(of.phase) * (of.query_weight[:, dim:].t() @ d_query_bias)
    return gradients


def launch_layer_backward(of: AttentionLayer, out: Embedded, grad: Embedded, needs: frozenset[str]) -> Gradients:
    """The gradients by kernels, one root's query for each root.

    The slots' and the roots' parts of the table's gradient are added to it atomically, in no fixed order; where torch
    is asked for deterministic algorithms, they are written out and `index_add_`, which then orders them, sums them.
    """
    add, times, d_z = not torch.are_deterministic_algorithms_enabled(), bool(needs.intersection(TIMES)), grad.z
    grad = grad._replace(z=inner_contiguous(d_z))
    d_table = d_slots = d_roots = None
    if "table" in needs:
        d_table = d_slots = d_roots = d_z.new_zeros(of.table.shape)
        if not add:
            d_slots, d_roots = d_z.new_empty(of.rows.numel(), d_z.shape[1]), torch.empty_like(out.activated)
    d_mixed, d_attended, d_context, d_total = launch_attention_output_backward(of, out, grad)
    inner, attended, _ = _inner(of, out, None, d_context, d_total)
    d_frequencies, d_phases, d_absorbed, d_bias = launch_attention_gradients(
        inner, attended, d_context, d_total, d_slots, times, add, add_query=False
    )
    d_query = launch_attention_query_backward(of, d_absorbed, d_bias, d_mixed, d_roots, add)
    gradients = launch_attention_weights(of, out, grad, d_mixed, d_attended, d_absorbed, d_bias, d_query)
    if times:
        made = launch_attention_times(of, d_frequencies, d_phases, gradients["query_bias"])
        gradients |= zip(TIMES, made, strict=True)
    if d_table is not None and d_slots is not None and d_roots is not None:
        if not add:
            d_table.index_add_(0, filled_rows(of.rows, of.counts).view(-1), d_slots)
            d_table.index_add_(0, of.root_rows, d_roots)
        gradients["table"] = d_table.to(of.table.dtype)
    return gradients
