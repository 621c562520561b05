"""One layer of TGN's temporal graph attention in one operation: query, attention over neighbours, output, norm."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.kernels.attention_layer_backward import (
    Layer,
    Saved,
    attention_layer_backward,
    attention_layer_backward_reference,
)
from mspipe_triton.kernels.attention_output import empty_output, launch_attention_output
from mspipe_triton.kernels.attention_query import launch_attention_query
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
from mspipe_triton.kernels.launch import on_triton
from mspipe_triton.kernels.neighbour_rows import check_slots
from mspipe_triton.kernels.philox import dropout_scale
from mspipe_triton.kernels.temporal_attention import (
    empty_attended,
    launch_temporal_attention,
    temporal_attention_reference,
)

_NAME = "attention_layer"
Tensors = tuple[torch.Tensor, ...]


def attention_layer_reference(
    table: torch.Tensor, root_rows: torch.Tensor, distinct: int, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query_weight: torch.Tensor, query_bias: torch.Tensor, key_weight: torch.Tensor,
    key_bias: torch.Tensor, value_weight: torch.Tensor, value_bias: torch.Tensor, output_weight: torch.Tensor,
    output_bias: torch.Tensor, norm_weight: torch.Tensor, norm_bias: torch.Tensor, heads: int, eps: float,
    dropout: float, draws: torch.Tensor | None, output_draws: torch.Tensor | None, save: bool,
) -> Tensors:  # fmt: skip
    """`attention_layer` in torch: z, and `Saved`, which is empty unless `save`."""
    roots, dim, width = root_rows.numel(), query_bias.numel(), query_bias.numel() // heads
    own = table[:distinct].to(query_bias.dtype)
    at_zero = torch.addmv(query_bias, query_weight[:, dim:], torch.cos(phase))  # φ(0) = cos b
    query = torch.addmm(at_zero, own, query_weight[:, :dim].t())
    by_head = query.view(distinct, heads, width)
    absorbed = torch.bmm(by_head.transpose(0, 1), key_weight.view(heads, width, -1)).transpose(0, 1)
    bias = (by_head * key_bias.view(heads, width)).sum(2)
    context, total, *attention = temporal_attention_reference(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, absorbed, root_rows, bias,
        dropout, draws, save,
    )  # fmt: skip
    values = torch.bmm(context.transpose(0, 1), value_weight.view(heads, width, -1).transpose(1, 2))
    attended = (values.transpose(0, 1) + total.unsqueeze(2) * value_bias.view(heads, width)).reshape(roots, dim)
    rooted = torch.addmm(output_bias, own, output_weight[:, dim:].t())
    mixed = torch.addmm(rooted.index_select(0, root_rows), attended, output_weight[:, :dim].t())
    if dropout > 0 and output_draws is not None:
        mixed = mixed * dropout_scale(output_draws, (roots, dim), dropout, mixed.dtype)
    activated = torch.relu(mixed)
    z, mean, rstd = torch.native_layer_norm(activated, (dim,), norm_weight, norm_bias, eps)
    saved = (query, absorbed, context, total, *attention, attended, activated, mean, rstd)
    return (z, *saved) if save else (z, *(z.new_empty(0) for _ in saved))


def launch_attention_layer(
    table: torch.Tensor, root_rows: torch.Tensor, distinct: int, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query_weight: torch.Tensor, query_bias: torch.Tensor, key_weight: torch.Tensor,
    key_bias: torch.Tensor, value_weight: torch.Tensor, value_bias: torch.Tensor, output_weight: torch.Tensor,
    output_bias: torch.Tensor, norm_weight: torch.Tensor, norm_bias: torch.Tensor, heads: int, eps: float,
    dropout: float, draws: torch.Tensor | None, output_draws: torch.Tensor | None, save: bool,
) -> Tensors:  # fmt: skip
    """`attention_layer` by three kernels; each root has a query of its own, which spares sums over roots later."""
    query, absorbed, bias = launch_attention_query(
        table, root_rows, frequency, phase, query_weight, query_bias, key_weight, key_bias, heads
    )
    context, total, *attention = launch_temporal_attention(
        table, rows, features, feature_rows, deltas, counts, frequency, phase, absorbed, None, bias,
        dropout, draws, save,
    )  # fmt: skip
    z, *mixed = launch_attention_output(
        context, total, table, root_rows, value_weight, value_bias, output_weight, output_bias, norm_weight, norm_bias,
        eps, dropout, output_draws, save,
    )  # fmt: skip
    saved = (query, absorbed, context, total, *attention, *mixed)
    return (z, *saved) if save else (z, *(z.new_empty(0) for _ in saved))


@torch.library.custom_op("mspipe_triton::attention_layer", mutates_args=())
def _operation(
    table: torch.Tensor, root_rows: torch.Tensor, distinct: int, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query_weight: torch.Tensor, query_bias: torch.Tensor, key_weight: torch.Tensor,
    key_bias: torch.Tensor, value_weight: torch.Tensor, value_bias: torch.Tensor, output_weight: torch.Tensor,
    output_bias: torch.Tensor, norm_weight: torch.Tensor, norm_bias: torch.Tensor, heads: int, eps: float,
    dropout: float, draws: torch.Tensor | None, output_draws: torch.Tensor | None, save: bool,
) -> tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
]:  # fmt: skip
    run = launch_attention_layer if on_triton(query_bias) else attention_layer_reference
    return run(
        table, root_rows, distinct, rows, features, feature_rows, deltas, counts, frequency, phase, query_weight,
        query_bias, key_weight, key_bias, value_weight, value_bias, output_weight, output_bias, norm_weight, norm_bias,
        heads, eps, dropout, draws, output_draws, save,
    )  # type: ignore[return-value]  # fmt: skip


@_operation.register_fake
def _(
    table: torch.Tensor, root_rows: torch.Tensor, distinct: int, rows: torch.Tensor, features: torch.Tensor,
    feature_rows: torch.Tensor | None, deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor,
    phase: torch.Tensor, query_weight: torch.Tensor, query_bias: torch.Tensor, key_weight: torch.Tensor,
    key_bias: torch.Tensor, value_weight: torch.Tensor, value_bias: torch.Tensor, output_weight: torch.Tensor,
    output_bias: torch.Tensor, norm_weight: torch.Tensor, norm_bias: torch.Tensor, heads: int, eps: float,
    dropout: float, draws: torch.Tensor | None, output_draws: torch.Tensor | None, save: bool,
) -> Tensors:  # fmt: skip
    (roots, _), (dim, width), kernels = rows.shape, key_weight.shape, on_triton(query_bias)
    z = query_bias.new_empty(roots, dim)
    if not save:
        return z, *(query_bias.new_empty(0) for _ in Saved._fields)
    if kernels:
        query, absorbed = z.new_empty(roots, dim), z.new_empty(roots, heads, width)
    else:
        query, absorbed = z.new_empty(distinct, dim), z.new_empty(heads, distinct, width).transpose(0, 1)
    attention = empty_attended(rows.shape, absorbed, True, 0 if kernels else width - dim)
    return z, query, absorbed, *attention, *empty_output(roots, query_bias, True)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    table, root_rows, _, *tensors, _, _, ctx.dropout, _, _, _ = inputs
    ctx.set_materialize_grads(False)  # else zeros would be made for what is saved, too
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(table, root_rows, *tensors, *output[1:])


def _backward(ctx: Any, grad: torch.Tensor | None, *_: None) -> tuple[torch.Tensor | None, ...]:
    needs, tensors = ctx.needs_input_grad, ctx.saved_tensors
    if grad is None:
        return (None,) * len(needs)
    needed = ctx.dropout, needs[0], needs[8] or needs[9]
    if eager_backward(grad):
        inputs = len(Layer._fields)
        made = attention_layer_backward_reference(grad, Layer(*tensors[:inputs]), Saved(*tensors[inputs:]), *needed)
    else:
        made = attention_layer_backward(grad, *tensors, *needed)
    d_table, d_frequency, d_phase, *parameters = made
    return (
        d_table if needs[0] else None, None, None, None, None, None, None, None, d_frequency if needs[8] else None,
        d_phase if needs[9] else None, *parameters, None, None, None, None, None, None,
    )  # fmt: skip


_operation.register_autograd(_backward, setup_context=_setup)
_direct = differentiable(attention_layer_reference, _setup, _backward)


def _check(layer: Layer, distinct: int, heads: int, dropout: float, **draws: torch.Tensor | None) -> None:
    """Refuse what the operation cannot take."""
    device, parameters = layer.query_weight.device, {name: getattr(layer, name) for name in Layer._fields[9:]}
    check_dims(_NAME, 2, table=layer.table, rows=layer.rows, query_weight=layer.query_weight)
    check_slots(_NAME, device, layer.rows.shape, *layer[3:9])
    (known, dim), times = layer.table.shape, layer.phase.numel()
    width = dim + layer.features.shape[1] + times
    if heads < 1 or dim % heads:
        raise ValueError(f"{_NAME}: {heads} heads do not divide the table's {dim} columns; give a divisor of {dim}")
    if not 0 <= distinct <= known:
        raise ValueError(f"{_NAME}: distinct is {distinct}; give at most the table's {known} rows")
    if not 0 <= dropout < 1:
        raise ValueError(f"{_NAME}: dropout must be at least 0 and below 1, not {dropout}")
    shapes = {"query_weight": (dim, dim + times), "output_weight": (dim, 2 * dim)}
    shapes |= {name: (dim, width) for name in ("key_weight", "value_weight")}
    check_shape(
        _NAME, root_rows=(layer.root_rows, layer.rows.shape[:1]),
        **{name: (tensor, shapes.get(name, (dim,))) for name, tensor in parameters.items()},
        **{name: (words, (4,)) for name, words in draws.items()},
    )  # fmt: skip
    check_dtype(_NAME, COMPUTED, query_weight=layer.query_weight)
    check_same_dtype(_NAME, **parameters, frequency=layer.frequency, phase=layer.phase)
    check_dtype(_NAME, FLOATS, table=layer.table)
    check_dtype(_NAME, INTEGERS, rows=layer.rows, root_rows=layer.root_rows)
    check_dtype(_NAME, (torch.int64,), **draws)
    for name, words in draws.items():
        if dropout > 0 and words is None:
            raise ValueError(f"{_NAME}: dropout needs {name}, the Philox words [seed, purpose, epoch, iteration]")
    check_layout(_NAME, table=layer.table, rows=layer.rows, root_rows=layer.root_rows, **draws)
    for name, parameter in parameters.items():
        if not parameter.is_contiguous():
            raise ValueError(f"{_NAME}: {name} has strides {parameter.stride()}; give {name}.contiguous()")
    check_device(_NAME, device, (), rows=layer.rows, root_rows=layer.root_rows, **parameters, **draws)
    # Rows in pinned host memory are read where they lie; a gradient of them would have to be written there.
    check_device(_NAME, device, () if layer.table.requires_grad else ("table",), table=layer.table)
    check_range(_NAME, "root_rows", layer.root_rows, distinct)
    if debugging():
        filled = torch.arange(layer.rows.shape[1], device=device) < layer.counts.unsqueeze(1)
        check_range(_NAME, "rows", layer.rows[filled], known)


def attention_layer(
    table: torch.Tensor,
    root_rows: torch.Tensor,
    distinct: int,
    rows: torch.Tensor,
    features: torch.Tensor,
    feature_rows: torch.Tensor | None,
    deltas: torch.Tensor,
    counts: torch.Tensor,
    frequency: torch.Tensor,
    phase: torch.Tensor,
    query_weight: torch.Tensor,
    query_bias: torch.Tensor,
    key_weight: torch.Tensor,
    key_bias: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
    output_weight: torch.Tensor,
    output_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    heads: int,
    eps: float = 1e-5,
    dropout: float = 0.0,
    draws: torch.Tensor | None = None,
    output_draws: torch.Tensor | None = None,
) -> torch.Tensor:
    """Embeddings of R roots by one layer of TGN's temporal graph attention (Rossi et al., 2020; as TGL computes it).

    For root r with row h_r of the table, K heads with rows W_·,k of the projections, slots j < counts[r], and
    x_rj = [h_rj ‖ e_rj ‖ φ(Δt_rj)] with φ(Δt) = cos(w Δt + b):

        q_r    = W_q [h_r ‖ φ(0)] + b_q
        a_rk   = dropout(softmax_j(LeakyReLU₀.₂(q_rk · (W_k,k x_rj + b_k,k))))          (unscaled)
        o_rk   = Σ_j a_rkj (W_v,k x_rj + b_v,k)                                          (0 where counts[r] = 0)
        z_r    = LayerNorm(ReLU(dropout(W_o [o_r ‖ h_r] + b_o)))

    The projections of keys and values are absorbed as in `temporal_attention`: they run once a root, not once a slot.

    Args:
        table: node rows h [U, D]; root_rows [R] integer, the roots' rows in it, all below `distinct`. In torch a query
            is computed once for each of those first rows; the kernels compute one for each root.
        rows: [R, F] integer, a slot's row in the table (ignored in empty slots).
        features: edge rows [·, E], E may be 0; feature_rows [R, F] integer, or None where `features` is one row a
            slot, [R·F, E] (ignored in empty slots; a row below 0 in a filled one is read as row 0). The rows of both
            tables may be apart by more than their width; both may be bfloat16, and may lie in pinned host memory as
            data.
        deltas: [R, F] floating, root time − neighbour time.
        counts: [R] integer, filled slots; they come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are all parameters.
        query_weight: [D, D + T]; key_weight, value_weight [D, D + E + T]; output_weight [D, 2D]; their biases,
            norm_weight and norm_bias [D]. Contiguous.
        heads: K, a divisor of D; eps: LayerNorm's.
        dropout: probability of dropping an attention weight, and of dropping a number of the output; `draws` and
            `output_draws` [4] int64 key the draws (Philox seed, purpose, epoch, iteration) and are needed when it is
            above 0.

    Returns:
        z [R, D]. Nothing is mutated. Differentiable, once, in table, frequency, phase and all parameters; edge features
        are data. On a GPU the sums over roots and slots in the table's gradient have no fixed order unless
        torch.use_deterministic_algorithms(True) asks for one; all other sums have.

    Raises:
        ValueError: a wrong dtype, layout or device, shapes that do not go together, `heads`, `distinct` or `dropout`
            out of range, or dropout without draws; with debugging on, a row outside its table.
    """
    layer = Layer(
        table, root_rows, rows, features, feature_rows, deltas, counts, frequency, phase, query_weight, query_bias,
        key_weight, key_bias, value_weight, value_bias, output_weight, output_bias, norm_weight, norm_bias,
    )  # fmt: skip
    _check(layer, distinct, heads, dropout, draws=draws, output_draws=output_draws)
    differentiated = (table, *layer[7:])
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated)
    run = _direct if eager(query_bias) else _operation
    z: torch.Tensor = run(
        table, root_rows, distinct, *layer[2:], heads, float(eps), float(dropout), draws, output_draws, save
    )[0]
    return z
