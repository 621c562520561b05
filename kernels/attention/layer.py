"""One layer of TGN's temporal graph attention in one operation: query, attention over neighbours, output, norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from mspipe_triton.kernels.attention.layer_backward import embed_backward, launch_layer_backward, over_neighbours
from mspipe_triton.kernels.attention.layer_output import empty_output, launch_attention_output
from mspipe_triton.kernels.attention.layer_query import launch_attention_query
from mspipe_triton.kernels.attention.layer_weights import PARAMETERS
from mspipe_triton.kernels.attention.slots import check_filled, check_slots
from mspipe_triton.kernels.attention.temporal import attend, empty_attended, launch_attention
from mspipe_triton.kernels.numbers.philox import dropout_scale
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.runtime.launch import on_triton
from mspipe_triton.kernels.runtime.operation import Backward, differentiable

_ROOTS = 1536  # roots that torch embeds at a time if no backward pass follows


class AttentionLayer(NamedTuple):
    """Embeddings of R roots by one layer of TGN's temporal graph attention (Rossi et al., 2020; as TGL computes it).

    For root r with row h_r of the table, K heads with rows W_·,k of the projections, slots j < counts[r], and
    x_rj = [h_rj ‖ e_rj ‖ φ(Δt_rj)] with φ(Δt) = cos(w Δt + b):

        q_r    = W_q [h_r ‖ φ(0)] + b_q
        a_rk   = dropout(softmax_j(LeakyReLU₀.₂(q_rk · (W_k,k x_rj + b_k,k))))          (unscaled)
        o_rk   = Σ_j a_rkj (W_v,k x_rj + b_v,k)                                          (0 where counts[r] = 0)
        z_r    = LayerNorm(ReLU(dropout(W_o [o_r ‖ h_r] + b_o)))

    The projections of keys and values are absorbed as in `temporal_attention`: once per root, not once per slot.

    Args:
        table: node rows h [U, D]; root_rows [R] integer, the roots' rows in it, all below `distinct`. Torch computes
            one query for each of these first rows, the kernels one for each root.
        rows: [R, F] integer, the slots' rows in the table (ignored in empty slots).
        features: edge rows [·, E], E may be 0; feature_rows [R, F] integer, or None if `features` has one row per
            slot, [R·F, E] (ignored in empty slots; a negative row in a filled slot is read as row 0). Both tables
            may have any row stride, may be bfloat16, and may be in pinned host memory if they need no gradient.
        deltas: [R, F] floating, root time − neighbour time.
        counts: [R] integer, filled slots, which come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are all parameters.
        query_weight: [D, D + T]; key_weight, value_weight [D, D + E + T]; output_weight [D, 2D]; their biases,
            norm_weight and norm_bias [D]. Contiguous.
        heads: K, a divisor of D; eps: LayerNorm's.
        dropout: probability of dropping an attention weight, and of dropping an element of the output; `draws` and
            `output_draws` [4] int64 are the Philox words (seed, purpose, epoch, iteration), needed if `dropout` is
            above 0.

    Returns:
        z [R, D]. Nothing is mutated. Differentiable once in table, frequency, phase and all parameters; edge features
        get no gradient. On a GPU the sums over roots and slots in the table's gradient have no fixed order unless
        torch.use_deterministic_algorithms(True) is set; all other sums have one.

    Raises:
        ValueError: a wrong dtype, layout or device, mismatched shapes, `heads`, `distinct` or `dropout` out of range,
            or dropout without draws; with debugging on, a row outside its table.
    """

    table: torch.Tensor
    root_rows: torch.Tensor
    distinct: int
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
    heads: int
    eps: float = 1e-5
    dropout: float = 0.0
    draws: torch.Tensor | None = None
    output_draws: torch.Tensor | None = None


class Embedded(NamedTuple):
    """z [R, D], then tensors for the backward pass, which are empty if none follows.

    q [Q, D] and absorbed [Q, K, X], where Q is R by the kernels and `distinct` in torch; all outputs of
    `temporal_attention`; o and ReLU's result [R, D], LayerNorm's mean and 1 / deviation [R, 1].
    """

    z: torch.Tensor
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


def _select_saved(out: Embedded, save: bool) -> Embedded:
    """Keep all outputs, or only z if no backward pass follows."""
    return out if save else Embedded(out.z, *(out.z.new_empty(0) for _ in out[1:]))


def _reference(args: AttentionLayer, save: bool) -> Embedded:
    dim, heads, distinct = args.query_bias.numel(), args.heads, args.distinct
    width, root_table = dim // heads, args.table[:distinct].to(args.query_bias.dtype)
    at_zero = torch.addmv(args.query_bias, args.query_weight[:, dim:], torch.cos(args.phase))  # φ(0) = cos b
    query = torch.addmm(at_zero, root_table, args.query_weight[:, :dim].t())
    by_head = query.view(distinct, heads, width)
    absorbed = torch.bmm(by_head.transpose(0, 1), args.key_weight.view(heads, width, -1)).transpose(0, 1)
    bias = (by_head * args.key_bias.view(heads, width)).sum(2)
    from_roots = torch.addmm(args.output_bias, root_table, args.output_weight[:, dim:].t())
    if save or args.dropout > 0:
        return _select_saved(_embedded(args, query, absorbed, bias, from_roots, save), save)
    parts = [_embedded(part, query, absorbed, bias, from_roots, save).z for part in _parts(args)]
    z = parts[0] if len(parts) == 1 else torch.cat(parts)
    return Embedded(z, *(z.new_empty(0) for _ in Embedded._fields[1:]))


def _embedded(
    args: AttentionLayer, query: torch.Tensor, absorbed: torch.Tensor, bias: torch.Tensor, from_roots: torch.Tensor,
    save: bool,
) -> Embedded:  # fmt: skip
    """Embed the roots from what their distinct rows have in common: queries, biases, and W_o h + b_o [distinct, D]."""
    roots, dim, heads = args.root_rows.numel(), args.query_bias.numel(), args.heads
    width = dim // heads
    attention = attend(over_neighbours(args, absorbed, args.root_rows, bias), save)
    values = torch.bmm(attention.context.transpose(0, 1), args.value_weight.view(heads, width, -1).transpose(1, 2))
    values = values.transpose(0, 1) + attention.total.unsqueeze(2) * args.value_bias.view(heads, width)
    attended = values.reshape(roots, dim)
    mixed = torch.addmm(from_roots.index_select(0, args.root_rows), attended, args.output_weight[:, :dim].t())
    if args.dropout > 0 and args.output_draws is not None:
        mixed = mixed * dropout_scale(args.output_draws, (roots, dim), args.dropout, mixed.dtype)
    activated = torch.relu(mixed)
    z, mean, rstd = torch.native_layer_norm(activated, (dim,), args.norm_weight, args.norm_bias, args.eps)
    return Embedded(z, query, absorbed, *attention, attended, activated, mean, rstd)


def _parts(args: AttentionLayer) -> Iterator[AttentionLayer]:
    """Yield the layer on some roots at a time, whose slots fit into caches."""
    roots, fanout = args.rows.shape
    for start in range(0, max(roots, 1), _ROOTS):
        part = slice(start, start + _ROOTS)
        features, rows = args.features, args.feature_rows
        if rows is None:
            features = features[start * fanout : (start + _ROOTS) * fanout]
        yield args._replace(
            root_rows=args.root_rows[part], rows=args.rows[part], deltas=args.deltas[part], counts=args.counts[part],
            features=features, feature_rows=None if rows is None else rows[part],
        )  # fmt: skip


def _launch(args: AttentionLayer, save: bool) -> Embedded:
    """Three kernels; each root has a query of its own, which avoids sums over roots in the backward pass."""
    query, absorbed, bias = launch_attention_query(args)
    attention = launch_attention(over_neighbours(args, absorbed, None, bias), save)
    z, *mixed = launch_attention_output(args, attention, save)
    return _select_saved(Embedded(z, query, absorbed, *attention, *mixed), save)


def _empty(args: AttentionLayer, save: bool) -> Embedded:
    (roots, _), (dim, width), kernels, distinct = (
        args.rows.shape,
        args.key_weight.shape,
        on_triton(args.query_bias),
        args.distinct,
    )
    z = args.query_bias.new_empty(roots, dim)
    if kernels:
        query, absorbed = z.new_empty(roots, dim), z.new_empty(roots, args.heads, width)
    else:
        query, absorbed = z.new_empty(distinct, dim), z.new_empty(args.heads, distinct, width).transpose(0, 1)
    attention = empty_attended(over_neighbours(args, absorbed, None, z), True, 0 if kernels else width - dim)
    return _select_saved(Embedded(z, query, absorbed, *attention, *empty_output(args, True)), save)


def _check(args: AttentionLayer) -> None:
    name, device = "attention_layer", args.query_weight.device
    parameters = {key: getattr(args, key) for key in PARAMETERS}
    checks.dims(name, 2, table=args.table, rows=args.rows, query_weight=args.query_weight)
    check_slots(name, device, args.rows.shape, args)
    (num_rows, dim), times = args.table.shape, args.phase.numel()
    width = dim + args.features.shape[1] + times
    if args.heads < 1 or dim % args.heads:
        raise ValueError(f"{name}: {args.heads} heads do not divide the table's {dim} columns; give a divisor of {dim}")
    if not 0 <= args.distinct <= num_rows:
        raise ValueError(f"{name}: distinct is {args.distinct}; give at most the table's {num_rows} rows")
    shapes = {"query_weight": (dim, dim + times), "output_weight": (dim, 2 * dim)}
    shapes |= {key: (dim, width) for key in ("key_weight", "value_weight")}
    checks.shape(
        name, root_rows=(args.root_rows, args.rows.shape[:1]),
        **{key: (tensor, shapes.get(key, (dim,))) for key, tensor in parameters.items()},
    )  # fmt: skip
    checks.dtype(name, checks.COMPUTED, query_weight=args.query_weight)
    checks.same_dtype(name, **parameters, frequency=args.frequency, phase=args.phase)
    checks.dtype(name, checks.FLOATS, table=args.table)
    checks.dtype(name, checks.INTEGERS, rows=args.rows, root_rows=args.root_rows)
    checks.dropout(name, device, args.dropout, draws=args.draws, output_draws=args.output_draws)
    checks.layout(name, table=args.table, rows=args.rows, root_rows=args.root_rows)
    for key, parameter in parameters.items():
        if not parameter.is_contiguous():
            raise ValueError(f"{name}: {key} has strides {parameter.stride()}; give {key}.contiguous()")
    checks.device(name, device, (), rows=args.rows, root_rows=args.root_rows, **parameters)
    # Rows in pinned host memory are read in place; their gradient would have to be written there.
    checks.device(name, device, () if args.table.requires_grad else ("table",), table=args.table)
    checks.within(name, "root_rows", args.root_rows, args.distinct)
    check_filled(name, "rows", args.rows, args.counts, num_rows)


attention_layer = differentiable(
    "attention_layer", AttentionLayer, reference=_reference, launch=_launch, fake=_empty, check=_check,
    on="query_bias", returns=lambda out: out.z,
    backward=Backward(
        embed_backward, launch_layer_backward, leaves=("table", "frequency", "phase", *PARAMETERS),
        forgets=("draws", "output_draws", "z"),
    ),
)  # fmt: skip
