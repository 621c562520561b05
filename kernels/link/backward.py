"""The backward pass of `link_loss`: gradients of embeddings, weights and biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product, real_rows
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import Backward, Gradients

if TYPE_CHECKING:
    from mspipe_triton.kernels.link.loss import LinkLoss

LEAVES = ("embedded", "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out")


class Scored(NamedTuple):
    """loss [], scores [2, B] and, if a backward pass will follow, the hidden rows h⁺, h⁻ [2, B, D]."""

    loss: torch.Tensor
    scores: torch.Tensor
    hidden: torch.Tensor


def real_part(count: torch.Tensor | None, events: int) -> tuple[torch.Tensor | None, int]:
    """The mask of real events [B], or None if all are real, and the divisor of their sums, in torch."""
    number = events if count is None else min(max(int(count), 0), events)
    valid = None if count is None or number == events else torch.arange(events, device=count.device) < number
    return valid, max(number, 1)


def _reference(args: LinkLoss, out: Scored, grad: Scored, needs: frozenset[str]) -> Gradients:
    (_, events, dim), hidden, embedded = out.hidden.shape, out.hidden, args.embedded
    valid, number = real_part(args.count, events)
    d_scores = torch.stack([-torch.sigmoid(-out.scores[0]), torch.sigmoid(out.scores[1])]) * (grad.loss / number)
    if valid is not None:  # padding may hold NaN, and 0 times NaN is not 0
        rows = valid.unsqueeze(1)
        d_scores, hidden = torch.where(valid, d_scores, 0.0), torch.where(rows, hidden, 0.0)
        embedded = torch.where(rows.repeat(3, 1), embedded, 0.0)
    d_scores, hidden = d_scores.view(-1), hidden.view(-1, dim)
    d_ends = torch.outer(d_scores, args.weight_out[0])
    torch.ops.aten.threshold_backward.grad_input(d_ends, hidden, 0.0, grad_input=d_ends)
    d_src = d_ends[:events] + d_ends[events:]
    d_embedded = embedded.new_empty(embedded.shape)
    torch.mm(d_src, args.weight_src, out=d_embedded[:events])
    torch.mm(d_ends, args.weight_dst, out=d_embedded[events:])
    d_bias = d_src.sum(0)
    gradients = (
        d_embedded, d_src.t() @ embedded[:events], d_bias, d_ends.t() @ embedded[events:], d_bias.clone(),
        torch.mv(hidden.t(), d_scores).unsqueeze(0), d_scores.sum().view(1),
    )  # fmt: skip
    return dict(zip(LEAVES, gradients, strict=True))


@device_function
def _score_gradients(p_grad, p_scores, i_u, role, events, stop, end):
    """Masks of the events before `end` whose s⁺ and whose s⁻ depend on a role (0 src, 1 dst, 2 negative), then
    g⁺ = −σ(−s⁺) dloss / n and g⁻ = σ(s⁻) dloss / n under these masks, 0 elsewhere. Events before `end` are real."""
    scale = tl.load(p_grad) / tl.maximum(stop, 1)
    m_pos, m_neg = i_u < tl.where(role == 2, 0, end), i_u < tl.where(role == 1, 0, end)
    b_pos = _logistic(-tl.load(p_scores + i_u, mask=m_pos, other=0.0)) * -scale
    b_neg = _logistic(tl.load(p_scores + events + i_u, mask=m_neg, other=0.0)) * scale
    return m_pos, m_neg, tl.where(m_pos, b_pos, 0.0), tl.where(m_neg, b_neg, 0.0)


@device_function
def _logistic(x):
    """σ(x) = 1 / (1 + e⁻ˣ) without overflow."""
    b_power = tl.exp(-tl.abs(x))
    return tl.where(x < 0, b_power, 1.0) / (1 + b_power)


@device_function
def _hidden_gradients(p_hidden, o_u, o_n, m_pos, m_neg, b_w, b_g_pos, b_g_neg, events, DIM: tl.constexpr):
    """d for a block of events by hidden numbers, or transposed, and g⁺ h⁺ + g⁻ h⁻."""
    p_pos = p_hidden + o_u * DIM + o_n
    b_pos = tl.load(p_pos, mask=m_pos, other=0.0)
    b_neg = tl.load(p_pos + tl.cast(events, tl.int64) * DIM, mask=m_neg, other=0.0)
    b_d = tl.where(b_pos > 0, b_g_pos, 0.0) + tl.where(b_neg > 0, b_g_neg, 0.0)
    return b_d * b_w, b_pos * b_g_pos + b_neg * b_g_neg


@device_function
def _write_part(
    p_grad, p_embedded, p_weight_out, p_scores, p_hidden, p_partial, events, stop, part, i_n, i_k, role,
    DIM: tl.constexpr, STRIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Write one part's dᵀ z of a role, and for the sources also db, dw_out and db_out."""
    COMPUTE: tl.constexpr = p_partial.dtype.element_ty
    m_n, m_k = i_n < DIM, i_k < DIM
    b_weight = tl.zeros([BLOCK_N, BLOCK_K], COMPUTE)
    b_bias, b_out = tl.zeros([BLOCK_N, BLOCK_U], COMPUTE), tl.zeros([BLOCK_N, BLOCK_U], COMPUTE)
    b_last = tl.zeros([BLOCK_U], COMPUTE)
    b_w = tl.load(p_weight_out + i_n, mask=m_n, other=0.0)[:, None]
    p_rows = p_embedded + role * tl.cast(events, tl.int64) * STRIDE
    begin = part * PART
    end = tl.minimum(begin + PART, stop)
    for u in range(begin, end, BLOCK_U):
        i_u = u + tl.arange(0, BLOCK_U)
        m_u, o_u = i_u < end, i_u.to(tl.int64)
        m_pos, m_neg, b_g_pos, b_g_neg = _score_gradients(p_grad, p_scores, i_u, role, events, stop, end)
        b_d, b_share = _hidden_gradients(
            p_hidden, o_u[None, :], i_n[:, None], m_n[:, None] & m_pos[None, :], m_n[:, None] & m_neg[None, :],
            b_w, b_g_pos[None, :], b_g_neg[None, :], events, DIM,
        )  # fmt: skip
        b_z = tl.load(p_rows + o_u[:, None] * STRIDE + i_k[None, :], mask=m_u[:, None] & m_k[None, :], other=0.0)
        b_weight = add_product(b_weight, b_d, b_z, PRECISION)
        b_bias += b_d
        b_out += b_share
        b_last += b_g_pos + b_g_neg
    p_row = p_partial + (part * DIM + i_n).to(tl.int64) * (3 * DIM + 3)
    tl.store(p_row[:, None] + role * DIM + i_k[None, :], b_weight, mask=m_n[:, None] & m_k[None, :])
    if (role == 0) & (tl.program_id(1) == 0):
        tl.store(p_row + 3 * DIM, tl.sum(b_bias, 1), mask=m_n)
        tl.store(p_row + 3 * DIM + 1, tl.sum(b_out, 1), mask=m_n)
        tl.store(p_row + 3 * DIM + 2, tl.zeros([BLOCK_N], COMPUTE) + tl.sum(b_last, 0), mask=m_n)


@device_function
def _write_rows(
    p_grad, p_weight, p_weight_out, p_scores, p_hidden, p_d_embedded, events, stop, first, i_k, role,
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write d W for a role and BLOCK_U events from `first` on; 0 for events that are not real."""
    i_u = first + tl.arange(0, BLOCK_U)
    m_k, o_u = i_k < DIM, i_u.to(tl.int64)
    b_rows = tl.zeros([BLOCK_U, BLOCK_K], p_d_embedded.dtype.element_ty)
    m_pos, m_neg, b_g_pos, b_g_neg = _score_gradients(p_grad, p_scores, i_u, role, events, stop, stop)
    for n in range(0, tl.where(first < stop, DIM, 0), BLOCK_N):
        i_n = n + tl.arange(0, BLOCK_N)
        m_n = i_n < DIM
        b_w = tl.load(p_weight_out + i_n, mask=m_n, other=0.0)[None, :]
        b_d, _ = _hidden_gradients(
            p_hidden, o_u[:, None], i_n[None, :], m_pos[:, None] & m_n[None, :], m_neg[:, None] & m_n[None, :],
            b_w, b_g_pos[:, None], b_g_neg[:, None], events, DIM,
        )  # fmt: skip
        p_w = p_weight + i_n[:, None] * DIM + i_k[None, :]
        b_weight = tl.load(p_w, mask=m_n[:, None] & m_k[None, :], other=0.0)
        b_rows = add_product(b_rows, b_d, b_weight, PRECISION)
    p_row = p_d_embedded + (role * tl.cast(events, tl.int64) + o_u)[:, None] * DIM
    tl.store(p_row + i_k[None, :], b_rows, mask=(i_u < events)[:, None] & m_k[None, :])


@kernel(
    Config({"BLOCK_U": 32, "BLOCK_N": 32, "BLOCK_K": 64, "PART": 128}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_N": 32, "BLOCK_K": 32, "PART": 128}, num_warps=4, num_stages=3),
    space={**spaces.BACKWARD, "PART": (64, 128, 256, 512, 1024)},
    ieee=[Config({"BLOCK_U": 16, "BLOCK_N": 32, "BLOCK_K": 64, "PART": 128}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_N": 16, "BLOCK_K": 32, "PART": 128}, num_warps=4, num_stages=2)],
)
def link_backward_kernel(
    p_grad, p_embedded, p_count, p_weight_src, p_weight_dst, p_weight_out, p_scores, p_hidden, p_d_embedded,
    p_partial, events, DIM: tl.constexpr, STRIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients of the rows, and of weights and biases in parts of PART events. With the gradients of the hidden rows

        d⁺ = g⁺ w_out 1[h⁺ > 0]    d⁻ = g⁻ w_out 1[h⁻ > 0]    and d, z of a role: d⁺ + d⁻, src; d⁺, dst; d⁻, negative

    a role's rows are dz = d W and its part is dW = Σ_i d_i ⊗ z_i. A part is D rows of [3D ‖ 3]: dW of the three roles ‖
    db = Σ_i (d⁺ + d⁻)_i, dw_out = Σ_i g⁺_i h⁺_i + g⁻_i h⁻_i, db_out = Σ_i g⁺_i + g⁻_i.

    Rows and parts need the same d and do not depend on each other, so one launch computes both; along the first axis,
    the programs of the parts come first, since they run longer.
    """
    TILES: tl.constexpr = tl.cdiv(DIM, BLOCK_N)
    stop = real_rows(p_count, events)
    role, i_k = tl.program_id(2), tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    tile, parts = tl.program_id(0), tl.cdiv(events, PART) * TILES
    if tile < parts:
        if tile // TILES * PART < stop:
            i_n = tile % TILES * BLOCK_N + tl.arange(0, BLOCK_N)
            _write_part(
                p_grad, p_embedded, p_weight_out, p_scores, p_hidden, p_partial, events, stop, tile // TILES, i_n, i_k,
                role, DIM, STRIDE, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K, PART,
            )  # fmt: skip
    else:
        p_weight = p_weight_dst
        if role == 0:
            p_weight = p_weight_src
        _write_rows(
            p_grad, p_weight, p_weight_out, p_scores, p_hidden, p_d_embedded, events, stop, (tile - parts) * BLOCK_U,
            i_k, role, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K,
        )  # fmt: skip


@kernel(
    Config({"BLOCK": 256}, num_warps=4),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def link_sum_kernel(
    p_partial, p_count, p_weight_src, p_bias_src, p_weight_dst, p_bias_dst, p_weight_out, p_bias_out, events,
    DIM: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the parts in order and write each gradient to its own tensor."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = i // (2 * DIM + 3), i % (2 * DIM + 3)
    m = row < DIM
    m_src, m_dst = m & (column < DIM), m & (column >= DIM) & (column < 2 * DIM)
    b_sum = tl.zeros([BLOCK], p_partial.dtype.element_ty)
    p_part = p_partial + row * (3 * DIM + 3) + tl.where(column < 2 * DIM, column, column + DIM)
    for _ in range(0, real_rows(p_count, events), PART):
        b_sum += tl.load(p_part, mask=m, other=0.0) + tl.load(p_part + DIM, mask=m_dst, other=0.0)
        p_part += DIM * (3 * DIM + 3)
    tl.store(p_weight_src + row * DIM + column, b_sum, mask=m_src)
    tl.store(p_weight_dst + row * DIM + column - DIM, b_sum, mask=m_dst)
    tl.store(p_bias_src + row, b_sum, mask=m & (column == 2 * DIM))
    tl.store(p_bias_dst + row, b_sum, mask=m & (column == 2 * DIM))
    tl.store(p_weight_out + row, b_sum, mask=m & (column == 2 * DIM + 1))
    tl.store(p_bias_out + row, b_sum, mask=(row == 0) & (column == 2 * DIM + 2))


def _launch(args: LinkLoss, out: Scored, grad: Scored, needs: frozenset[str]) -> Gradients:
    """Launch two kernels: all products, then the sums of their parts. Bitwise the same in every run."""
    (_, events, dim), hidden, embedded = out.hidden.shape, out.hidden, args.embedded
    config = link_backward_kernel.config(arithmetic(hidden.dtype))
    parts = cdiv(events, config["PART"])
    partial = hidden.new_empty(parts, dim, 3 * dim + 3)
    gradients = {name: hidden.new_empty(getattr(args, name).shape) for name in LEAVES}
    d_embedded, *d_weights = gradients.values()
    programs = parts * cdiv(dim, config["BLOCK_N"]) + cdiv(events, config["BLOCK_U"])
    link_backward_kernel.launch(
        (programs, cdiv(dim, config["BLOCK_K"]), 3), config,
        grad.loss, embedded, args.count, args.weight_src.contiguous(), args.weight_dst.contiguous(), args.weight_out,
        out.scores, hidden, d_embedded, partial, events,
        DIM=dim, STRIDE=embedded.stride(0), PRECISION=input_precision(hidden.dtype),
    )  # fmt: skip
    part, config = config["PART"], link_sum_kernel.config()
    link_sum_kernel.launch(
        (cdiv(dim * (2 * dim + 3), config["BLOCK"]),), config,
        partial, args.count, *d_weights, events, DIM=dim, PART=part,
    )  # fmt: skip
    return gradients


BACKWARD = Backward(_reference, _launch, leaves=LEAVES, forgets=("loss",))
