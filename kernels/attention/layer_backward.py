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
    args: AttentionLayer, absorbed: torch.Tensor, query_rows: torch.Tensor | None, bias: torch.Tensor
) -> Attention:
    """Inputs of `temporal_attention` for the layer's neighbours."""
    slots = args.table, args.rows, args.features, args.feature_rows, args.deltas, args.counts
    encoder = args.frequency, args.phase
    return Attention(*slots, *encoder, absorbed, query_rows, bias, args.dropout, args.draws)


def _inner(
    args: AttentionLayer, out: Embedded, query_rows: torch.Tensor | None, d_context: torch.Tensor, d_total: torch.Tensor
) -> tuple[Attention, Attended, Attended]:
    """Arguments of `temporal_attention`'s backward pass; it does not read the bias, so the total takes its place."""
    attended = Attended(out.context, out.total, out.weights, out.slope, out.others)
    grad = attended._replace(context=d_context, total=d_total)
    return over_neighbours(args, out.absorbed, query_rows, out.total), attended, grad


def embed_backward(args: AttentionLayer, out: Embedded, grad: Embedded, needs: frozenset[str]) -> Gradients:
    """Compute the gradients in torch."""
    distinct, heads, _ = out.absorbed.shape
    d_z, (roots, dim), width = grad.z, grad.z.shape, grad.z.shape[1] // heads
    table = args.table.to(d_z.dtype)
    root_table, at_zero = table[:distinct], torch.cos(args.phase)
    d_activated, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
        d_z, out.activated, [dim], out.mean, out.rstd, args.norm_weight, args.norm_bias, [True] * 3
    )
    d_mixed = torch.ops.aten.threshold_backward(d_activated, out.activated, 0.0)  # 0 where y was dropped
    d_mixed = d_mixed * keep_scale(args.dropout, d_z.dtype) if args.dropout > 0 else d_mixed
    d_root = d_z.new_zeros(distinct, dim).index_add_(0, args.root_rows, d_mixed)
    d_output_weight = torch.cat([d_mixed.t() @ out.attended, d_root.t() @ root_table], 1)
    d_attended = (d_mixed @ args.output_weight[:, :dim]).view(roots, heads, width)
    d_total = (d_attended * args.value_bias.view(heads, width)).sum(2)
    by_head = d_attended.transpose(0, 1)
    d_context = torch.bmm(by_head, args.value_weight.view(heads, width, -1)).transpose(0, 1)
    d_value_weight = torch.bmm(by_head.mT, out.context.transpose(0, 1)).view_as(args.value_weight)
    inner, attended, d_inner = _inner(args, out, args.root_rows, d_context, d_total)
    inner_gradients = attend_backward(inner._replace(table=table), attended, d_inner, needs)
    d_absorbed, d_bias = inner_gradients.pop("query").transpose(0, 1), inner_gradients.pop("bias")
    query = out.query.view(distinct, heads, width)
    d_query = torch.bmm(d_absorbed, args.key_weight.view(heads, width, -1).mT).transpose(0, 1)
    d_query = (d_query + d_bias.unsqueeze(2) * args.key_bias.view(heads, width)).reshape(distinct, dim)
    d_query_bias = d_query.sum(0)
    gradients = inner_gradients | {
        "query_weight": torch.cat([d_query.t() @ root_table, torch.outer(d_query_bias, at_zero)], 1),
        "query_bias": d_query_bias,
        "key_weight": torch.bmm(query.permute(1, 2, 0), d_absorbed).view_as(args.key_weight),
        "key_bias": (d_bias.unsqueeze(2) * query).sum(0).view(-1),
        "value_weight": d_value_weight,
        "value_bias": (out.total.unsqueeze(2) * d_attended).sum(0).view(-1),
        "output_weight": d_output_weight,
        "output_bias": d_root.sum(0),
        "norm_weight": d_norm_weight,
        "norm_bias": d_norm_bias,
    }
    if "table" in needs:
        gradients["table"][:distinct] += d_query @ args.query_weight[:, :dim] + d_root @ args.output_weight[:, dim:]
        gradients["table"] = gradients["table"].to(args.table.dtype)
    if needs.intersection(TIMES):
        d_encoding = args.query_weight[:, dim:].t() @ d_query_bias
        gradients["phase"] = gradients["phase"] - torch.sin(args.phase) * d_encoding
    return gradients


def launch_layer_backward(args: AttentionLayer, out: Embedded, grad: Embedded, needs: frozenset[str]) -> Gradients:
    """Compute the gradients by kernels, with one query per root.

    The slots' and the roots' parts of the table's gradient are added to it atomically, in no fixed order. With torch's
    deterministic algorithms, the kernels write the parts instead and `index_add_` sums them in order.
    """
    add, times, d_z = not torch.are_deterministic_algorithms_enabled(), bool(needs.intersection(TIMES)), grad.z
    grad = grad._replace(z=inner_contiguous(d_z))
    d_table = d_slots = d_roots = None
    if "table" in needs:
        d_table = d_slots = d_roots = d_z.new_zeros(args.table.shape)
        if not add:
            d_slots, d_roots = d_z.new_empty(args.rows.numel(), d_z.shape[1]), torch.empty_like(out.activated)
    d_mixed, d_attended, d_context, d_total = launch_attention_output_backward(args, out, grad)
    inner, attended, _ = _inner(args, out, None, d_context, d_total)
    d_frequencies, d_phases, d_absorbed, d_bias = launch_attention_gradients(
        inner, attended, d_context, d_total, d_slots, times, add, add_query=False
    )
    d_query = launch_attention_query_backward(args, d_absorbed, d_bias, d_mixed, d_roots, add)
    gradients = launch_attention_weights(args, out, grad, d_mixed, d_attended, d_absorbed, d_bias, d_query)
    if times:
        d_times = launch_attention_times(args, d_frequencies, d_phases, gradients["query_bias"])
        gradients |= zip(TIMES, d_times, strict=True)
    if d_table is not None and d_slots is not None and d_roots is not None:
        if not add:
            d_table.index_add_(0, filled_rows(args.rows, args.counts).view(-1), d_slots)
            d_table.index_add_(0, args.root_rows, d_roots)
        gradients["table"] = d_table.to(args.table.dtype)
    return gradients
