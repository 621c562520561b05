"""Gradients of `attention_layer`, as an operation of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from mspipe_triton.kernels.attention_output import launch_attention_output_backward
from mspipe_triton.kernels.attention_query import launch_attention_query_backward
from mspipe_triton.kernels.attention_weights import launch_attention_times, launch_attention_weights
from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.launch import on_triton
from mspipe_triton.kernels.neighbour_rows import filled_rows, inner_contiguous
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.temporal_attention_backward import (
    launch_attention_gradients,
    temporal_attention_backward_reference,
)


class Layer(NamedTuple):
    """The tensors that `attention_layer` takes and its backward pass reads."""

    table: torch.Tensor
    root_rows: torch.Tensor
    rows: torch.Tensor
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    counts: torch.Tensor
    frequency: torch.Tensor
    phase: torch.Tensor
    query_weight: torch.Tensor
    query_bias: torch.Tensor
    key_weight: torch.Tensor
    key_bias: torch.Tensor
    value_weight: torch.Tensor
    value_bias: torch.Tensor
    output_weight: torch.Tensor
    output_bias: torch.Tensor
    norm_weight: torch.Tensor
    norm_bias: torch.Tensor


class Saved(NamedTuple):
    """What the forward pass keeps for the backward one, Q being R by the kernels and `distinct` in torch.

    q [Q, D] and absorbed [Q, K, X]; `temporal_attention`'s context [R, K, X] and total [R, K] and what it saves; o and
    ReLU's result [R, D], LayerNorm's mean and 1 / deviation [R, 1].
    """

    query: torch.Tensor
    absorbed: torch.Tensor
    context: torch.Tensor
    total: torch.Tensor
    weights: torch.Tensor
    slope: torch.Tensor
    others: torch.Tensor
    attended: torch.Tensor
    activated: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor


def attention_layer_backward_reference(
    grad: torch.Tensor, layer: Layer, saved: Saved, dropout: float, needs_table: bool, needs_time: bool
) -> list[torch.Tensor]:
    """`attention_layer_backward` in torch."""
    distinct, heads, _ = saved.absorbed.shape
    (roots, dim), width = grad.shape, grad.shape[1] // heads
    table = layer.table.to(grad.dtype)
    own, at_zero = table[:distinct], torch.cos(layer.phase)
    d_activated, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
        grad, saved.activated, [dim], saved.mean, saved.rstd, layer.norm_weight, layer.norm_bias, [True] * 3
    )
    d_mixed = torch.ops.aten.threshold_backward(d_activated, saved.activated, 0.0)  # where y was dropped, this is 0
    d_mixed = d_mixed * keep_scale(dropout, grad.dtype) if dropout > 0 else d_mixed
    d_own = grad.new_zeros(distinct, dim).index_add_(0, layer.root_rows, d_mixed)
    d_output_weight = torch.cat([d_mixed.t() @ saved.attended, d_own.t() @ own], 1)
    d_attended = (d_mixed @ layer.output_weight[:, :dim]).view(roots, heads, width)
    d_total = (d_attended * layer.value_bias.view(heads, width)).sum(2)
    by_head = d_attended.transpose(0, 1)
    d_context = torch.bmm(by_head, layer.value_weight.view(heads, width, -1)).transpose(0, 1)
    d_value_weight = torch.bmm(by_head.mT, saved.context.transpose(0, 1)).view_as(layer.value_weight)
    d_table, d_frequency, d_phase, d_absorbed, d_bias = temporal_attention_backward_reference(
        d_context, d_total, table, *layer[2:9], saved.absorbed, layer.root_rows, *saved[4:7], dropout,
        needs_table, needs_time,
    )  # fmt: skip
    d_absorbed, query = d_absorbed.transpose(0, 1), saved.query.view(distinct, heads, width)
    d_query = torch.bmm(d_absorbed, layer.key_weight.view(heads, width, -1).mT).transpose(0, 1)
    d_query = (d_query + d_bias.unsqueeze(2) * layer.key_bias.view(heads, width)).reshape(distinct, dim)
    d_key_weight = torch.bmm(query.permute(1, 2, 0), d_absorbed).view_as(layer.key_weight)
    d_query_bias = d_query.sum(0)
    d_query_weight = torch.cat([d_query.t() @ own, torch.outer(d_query_bias, at_zero)], 1)
    if needs_table:
        d_table[:distinct] += d_query @ layer.query_weight[:, :dim] + d_own @ layer.output_weight[:, dim:]
    if needs_time:
        d_phase = d_phase - torch.sin(layer.phase) * (layer.query_weight[:, dim:].t() @ d_query_bias)
    return [
        d_table.to(layer.table.dtype), d_frequency, d_phase, d_query_weight, d_query_bias,
        d_key_weight, (d_bias.unsqueeze(2) * query).sum(0).view(-1),
        d_value_weight, (saved.total.unsqueeze(2) * d_attended).sum(0).view(-1),
        d_output_weight, d_own.sum(0), d_norm_weight, d_norm_bias,
    ]  # fmt: skip


def launch_attention_layer_backward(
    grad: torch.Tensor, layer: Layer, saved: Saved, dropout: float, needs_table: bool, needs_time: bool
) -> list[torch.Tensor]:
    """`attention_layer_backward` by kernels, one root's query for each root.

    The slots' and the roots' parts of the table's gradient are added to it atomically, in no fixed order; where torch
    is asked for deterministic algorithms, they are written out and `index_add_`, which then orders them, sums them.
    """
    add, grad = not torch.are_deterministic_algorithms_enabled(), inner_contiguous(grad)
    d_table = d_slots = d_roots = None
    if needs_table:
        d_table = d_slots = d_roots = grad.new_zeros(layer.table.shape)
        if not add:
            d_slots, d_roots = grad.new_empty(layer.rows.numel(), grad.shape[1]), torch.empty_like(saved.activated)
    d_mixed, d_attended, d_context, d_total = launch_attention_output_backward(
        grad, saved.activated, saved.mean, saved.rstd, layer.value_weight, layer.value_bias, layer.output_weight,
        layer.norm_weight, saved.absorbed.shape[1], dropout,
    )  # fmt: skip
    d_frequencies, d_phases, d_absorbed, d_bias = launch_attention_gradients(
        d_context, d_total, layer.table, *layer[2:9], saved.absorbed, None, saved.weights, saved.slope, dropout,
        d_slots, needs_time, add, add_query=False,
    )  # fmt: skip
    d_query = launch_attention_query_backward(
        d_absorbed, d_bias, d_mixed, layer.root_rows, layer.query_weight, layer.key_weight, layer.key_bias,
        layer.output_weight, d_roots, add,
    )  # fmt: skip
    parameters = launch_attention_weights(
        grad, saved.activated, saved.mean, saved.rstd, d_mixed, saved.attended, d_attended, saved.context, saved.total,
        saved.query, d_absorbed, d_bias, d_query, layer.table, layer.root_rows, layer.frequency, layer.phase,
    )  # fmt: skip
    times = layer.frequency.new_empty(0), layer.phase.new_empty(0)
    if needs_time:
        times = launch_attention_times(
            d_frequencies, d_phases, layer.query_weight, parameters[1], layer.frequency, layer.phase
        )
    if d_table is None or d_slots is None or d_roots is None:
        return [layer.table.new_empty(0), *times, *parameters]
    if not add:
        d_table.index_add_(0, filled_rows(layer.rows, layer.counts).view(-1), d_slots)
        d_table.index_add_(0, layer.root_rows, d_roots)
    return [d_table.to(layer.table.dtype), *times, *parameters]


@torch.library.custom_op("mspipe_triton::attention_layer_backward", mutates_args=())
def attention_layer_backward(
    grad: torch.Tensor,
    table: torch.Tensor, root_rows: torch.Tensor, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query_weight: torch.Tensor, query_bias: torch.Tensor, key_weight: torch.Tensor,
    key_bias: torch.Tensor, value_weight: torch.Tensor, value_bias: torch.Tensor, output_weight: torch.Tensor,
    output_bias: torch.Tensor, norm_weight: torch.Tensor, norm_bias: torch.Tensor,
    query: torch.Tensor, absorbed: torch.Tensor, context: torch.Tensor, total: torch.Tensor, weights: torch.Tensor,
    slope: torch.Tensor, others: torch.Tensor, attended: torch.Tensor, activated: torch.Tensor, mean: torch.Tensor,
    rstd: torch.Tensor, dropout: float, needs_table: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of table, frequency and phase, empty where not needed, and of the ten parameters."""
    layer = Layer(
        table, root_rows, rows, features, feature_rows, deltas, counts, frequency, phase, query_weight, query_bias,
        key_weight, key_bias, value_weight, value_bias, output_weight, output_bias, norm_weight, norm_bias,
    )  # fmt: skip
    saved = Saved(query, absorbed, context, total, weights, slope, others, attended, activated, mean, rstd)
    run = launch_attention_layer_backward if on_triton(grad) else attention_layer_backward_reference
    return run(grad, layer, saved, dropout, needs_table, needs_time)


@attention_layer_backward.register_fake
def _(
    grad: torch.Tensor,
    table: torch.Tensor, root_rows: torch.Tensor, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, *given: Any,
) -> list[torch.Tensor]:  # fmt: skip
    parameters, (needs_table, needs_time) = given[:10], given[-2:]
    d_table = table.new_empty(table.shape if needs_table else 0)
    times = [time.new_empty(time.shape if needs_time else 0) for time in (frequency, phase)]
    return [d_table, *times, *(torch.empty_like(parameter) for parameter in parameters)]


refuse_second_derivative(attention_layer_backward)
