"""One layer of TGN's temporal graph attention in one operation: query, attention over neighbours, output, norm."""

from __future__ import annotations

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


class AttentionLayer(NamedTuple):
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
    """z [R, D], and what the backward pass reads, which is empty where none follows, Q being R by the kernels and
    `distinct` in torch:

    q [Q, D] and absorbed [Q, K, X]; `temporal_attention`'s context [R, K, X] and total [R, K] and what it saves; o and
    ReLU's result [R, D], LayerNorm's mean and 1 / deviation [R, 1].
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


def _saved(out: Embedded, save: bool) -> Embedded:
    """All of it, or z alone."""
    return out if save else Embedded(out.z, *(out.z.new_empty(0) for _ in out[1:]))


def _reference(args: AttentionLayer, save: bool) -> Embedded:
    roots, dim, heads, distinct = args.root_rows.numel(), args.query_bias.numel(), args.heads, args.distinct
    width, own = dim // heads, args.table[:distinct].to(args.query_bias.dtype)
    at_zero = torch.addmv(args.query_bias, args.query_weight[:, dim:], torch.cos(args.phase))  # φ(0) = cos b
    query = torch.addmm(at_zero, own, args.query_weight[:, :dim].t())
    by_head = query.view(distinct, heads, width)
    absorbed = torch.bmm(by_head.transpose(0, 1), args.key_weight.view(heads, width, -1)).transpose(0, 1)
    bias = (by_head * args.key_bias.view(heads, width)).sum(2)
    attention = attend(over_neighbours(args, absorbed, args.root_rows, bias), save)
    values = torch.bmm(attention.context.transpose(0, 1), args.value_weight.view(heads, width, -1).transpose(1, 2))
    values = values.transpose(0, 1) + attention.total.unsqueeze(2) * args.value_bias.view(heads, width)
    attended = values.reshape(roots, dim)
    rooted = torch.addmm(args.output_bias, own, args.output_weight[:, dim:].t())
    mixed = torch.addmm(rooted.index_select(0, args.root_rows), attended, args.output_weight[:, :dim].t())
    if args.dropout > 0 and args.output_draws is not None:
        mixed = mixed * dropout_scale(args.output_draws, (roots, dim), args.dropout, mixed.dtype)
    activated = torch.relu(mixed)
    z, mean, rstd = torch.native_layer_norm(activated, (dim,), args.norm_weight, args.norm_bias, args.eps)
    return _saved(Embedded(z, query, absorbed, *attention, attended, activated, mean, rstd), save)


def _launch(args: AttentionLayer, save: bool) -> Embedded:
    """Three kernels; each root has a query of its own, which spares sums over roots later."""
    query, absorbed, bias = launch_attention_query(args)
    attention = launch_attention(over_neighbours(args, absorbed, None, bias), save)
    z, *mixed = launch_attention_output(args, attention, save)
    return _saved(Embedded(z, query, absorbed, *attention, *mixed), save)


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
    return _saved(Embedded(z, query, absorbed, *attention, *empty_output(args, True)), save)


def _check(args: AttentionLayer) -> None:
    name, device = "attention_layer", args.query_weight.device
    parameters = {key: getattr(args, key) for key in PARAMETERS}
    checks.dims(name, 2, table=args.table, rows=args.rows, query_weight=args.query_weight)
    check_slots(name, device, args.rows.shape, args)
    (known, dim), times = args.table.shape, args.phase.numel()
    width = dim + args.features.shape[1] + times
    if args.heads < 1 or dim % args.heads:
        raise ValueError(f"{name}: {args.heads} heads do not divide the table's {dim} columns; give a divisor of {dim}")
    if not 0 <= args.distinct <= known:
        raise ValueError(f"{name}: distinct is {args.distinct}; give at most the table's {known} rows")
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
    # Rows in pinned host memory are read where they lie; a gradient of them would have to be written there.
    checks.device(name, device, () if args.table.requires_grad else ("table",), table=args.table)
    checks.within(name, "root_rows", args.root_rows, args.distinct)
    check_filled(name, "rows", args.rows, args.counts, known)


attention_layer = differentiable(
    "attention_layer", AttentionLayer, reference=_reference, launch=_launch, fake=_empty, check=_check,
    on="query_bias", returns=lambda out: out.z,
    backward=Backward(
        embed_backward, launch_layer_backward, leaves=("table", "frequency", "phase", *PARAMETERS),
        forgets=("draws", "output_draws", "z"),
    ),
)  # fmt: skip
