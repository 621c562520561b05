"""Kernels for the attention layer's output: value projection, output projection, ReLU and norm, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.attention.heads import fit_config, heads_product, rows_product, write_head
from mspipe_triton.kernels.numbers.philox import keep_scale, philox_kept
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import (
    Config,
    arithmetic,
    cdiv,
    device_function,
    input_precision,
    kernel,
    pow2,
    tl,
)

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.layer import AttentionLayer, Embedded
    from mspipe_triton.kernels.attention.temporal import Attended


@kernel(
    Config({"BLOCK_R": 16, "BLOCK_W": 64, "BLOCK_K": 64}, num_warps=8, num_stages=2),
    Config({"BLOCK_R": 32, "BLOCK_W": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space=spaces.HEADS,
    ieee=[Config({"BLOCK_R": 16, "BLOCK_W": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_R": 16, "BLOCK_W": 16, "BLOCK_K": 16}, num_warps=8, num_stages=2)],
)
def attention_output_kernel(
    p_context, p_total, p_table, p_root_rows, p_value_weight, p_value_bias, p_output_weight, p_output_bias,
    p_norm_weight, p_norm_bias, p_draws, p_attended, p_activated, p_mean, p_rstd, p_out, num_roots,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, STRIDE_TABLE: tl.constexpr,
    KEEP_FROM: tl.constexpr, SCALE: tl.constexpr, EPS: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """For BLOCK_R roots with contexts and totals by head k, h being a root's row of the table:

        o_k = W_v,k context_k + total_k b_v,k          y = W_o [o ‖ h] + b_o
        a = ReLU(dropout(y))                           z = (a − mean(a)) / √(var(a) + EPS) · g + c

    Dropout is applied if there are draws.
    """
    COMPUTE: tl.constexpr = p_out.dtype.element_ty
    HEAD: tl.constexpr = DIM // HEADS
    i_r, i_d = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_D)
    m_r, m_d = i_r < num_roots, i_d < DIM
    p_mix = p_output_weight + i_d * (2 * DIM)
    b_y = tl.zeros([BLOCK_R, BLOCK_D], COMPUTE) + tl.load(p_output_bias + i_d, mask=m_d, other=0.0)[None, :]
    p_node = p_table + tl.load(p_root_rows + i_r, mask=m_r, other=0).to(tl.int64)[:, None] * STRIDE_TABLE
    b_y = rows_product(b_y, p_node, m_r, (p_mix + DIM)[None, :], m_d, DIM, PRECISION, BLOCK_K)
    b_y = heads_product(
        b_y, p_context, p_total, p_value_weight, p_value_bias, p_attended, p_mix, i_r, m_r, m_d,
        HEADS, HEAD, WIDTH, 1, SAVE, PRECISION, BLOCK_W, BLOCK_K,
    )  # fmt: skip
    o_out = i_r.to(tl.int64)[:, None] * DIM + i_d[None, :]
    m_out = m_r[:, None] & m_d[None, :]
    if p_draws is not None:
        b_y = tl.where(philox_kept(p_draws, o_out, KEEP_FROM), b_y * SCALE, 0)
    b_a = tl.where(m_d[None, :] & (b_y < 0), 0, b_y)  # unlike tl.maximum, keeps NaN
    b_mean = tl.sum(b_a, 1) / DIM
    b_centred = tl.where(m_d[None, :], b_a - b_mean[:, None], 0)
    b_rstd = 1 / tl.sqrt(tl.sum(b_centred * b_centred, 1) / DIM + EPS)
    b_gain, b_shift = tl.load(p_norm_weight + i_d, mask=m_d, other=0), tl.load(p_norm_bias + i_d, mask=m_d, other=0)
    tl.store(p_out + o_out, b_centred * b_rstd[:, None] * b_gain[None, :] + b_shift[None, :], mask=m_out)
    if SAVE:
        tl.store(p_activated + o_out, b_a, mask=m_out)
        tl.store(p_mean + i_r, b_mean, mask=m_r)
        tl.store(p_rstd + i_r, b_rstd, mask=m_r)


def launch_attention_output(args: AttentionLayer, attended: Attended, save: bool) -> tuple[torch.Tensor, ...]:
    """z [R, D]; for the backward pass, empty unless `save`, o and a [R, D], mean and 1 / deviation of a [R, 1]."""
    context, dropout, dim = attended.context, args.dropout, args.output_bias.numel()
    roots, heads, width = context.shape
    out, saved = context.new_empty(roots, dim), empty_output(args, save)
    config = fit_config(attention_output_kernel.config(arithmetic(context.dtype)), dim)
    attention_output_kernel.launch(
        (cdiv(roots, config["BLOCK_R"]),), config,
        context, attended.total, args.table, args.root_rows, args.value_weight, args.value_bias, args.output_weight,
        args.output_bias, args.norm_weight, args.norm_bias, args.output_draws if dropout > 0 else None, *saved, out,
        roots, HEADS=heads, DIM=dim, WIDTH=width, STRIDE_TABLE=args.table.stride(0), KEEP_FROM=int(dropout * 2**32),
        SCALE=keep_scale(dropout, context.dtype), EPS=args.eps, SAVE=save, PRECISION=input_precision(context.dtype),
        BLOCK_D=pow2(dim),
    )  # fmt: skip
    return out, *saved


def empty_output(args: AttentionLayer, save: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Allocate the tensors that `launch_attention_output` saves."""
    roots, new = args.root_rows.numel(), args.output_bias.new_empty
    rows, row = ((roots, args.output_bias.numel()), (roots, 1)) if save else (0, 0)
    return new(rows), new(rows), new(row), new(row)


@device_function
def _norm_block(
    p_grad, p_activated, p_norm_weight, b_mean, b_rstd, i_r, m_r, i_d, STRIDE: tl.constexpr, DIM: tl.constexpr
):
    """g dz, (a − mean(a)) / deviation, and a in columns i_d, each [BLOCK_R, BLOCK], 0 outside roots and columns."""
    m_d = i_d < DIM
    m = m_r[:, None] & m_d[None, :]
    o_r = i_r.to(tl.int64)[:, None]
    b_dz = tl.load(p_grad + o_r * STRIDE + i_d[None, :], mask=m, other=0.0)
    b_a = tl.load(p_activated + o_r * DIM + i_d[None, :], mask=m, other=0.0)
    b_normed = tl.where(m, (b_a - b_mean[:, None]) * b_rstd[:, None], 0)
    return b_dz * tl.load(p_norm_weight + i_d, mask=m_d, other=0.0)[None, :], b_normed, b_a


@kernel(
    Config({"BLOCK_R": 32, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_R": 16, "BLOCK_K": 64}, num_warps=4, num_stages=2),
    space=spaces.HEAD,
    ieee=[Config({"BLOCK_R": 16, "BLOCK_K": 32}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_R": 16, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def attention_output_backward_kernel(
    p_grad, p_activated, p_mean, p_rstd, p_norm_weight, p_output_weight, p_value_weight, p_value_bias,
    p_d_mixed, p_d_attended, p_d_context, p_d_total, num_roots,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, SCALE: tl.constexpr,
    PRECISION: tl.constexpr, HEAD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """For BLOCK_R roots and a head k of at most HEAD numbers, where n is the normalised a and s dropout's multiplier:

        dy = s (g dz − mean(g dz) − n mean(n g dz)) / √(var(a) + eps) where a > 0, else 0
        do_k = W_o,kᵀ dy          dcontext_k = W_v,kᵀ do_k          dtotal_k = do_k · b_v,k

    a is 0 where dropout has dropped y.
    """
    COMPUTE: tl.constexpr = p_d_mixed.dtype.element_ty
    i_r, i_w = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, HEAD)
    m_r, m_w = i_r < num_roots, i_w < DIM // HEADS
    head = tl.program_id(1)
    m_first = i_r < tl.where(head == 0, num_roots, 0)  # the programs of the first head write dy
    i_n, o_r = head * (DIM // HEADS) + i_w, i_r.to(tl.int64)
    b_mean, b_rstd = tl.load(p_mean + i_r, mask=m_r, other=0.0), tl.load(p_rstd + i_r, mask=m_r, other=0.0)
    b_sum, b_product = tl.zeros([BLOCK_R], COMPUTE), tl.zeros([BLOCK_R], COMPUTE)
    for k in range(0, DIM, BLOCK_K):
        i_d = k + tl.arange(0, BLOCK_K)
        b_g, b_n, _ = _norm_block(p_grad, p_activated, p_norm_weight, b_mean, b_rstd, i_r, m_r, i_d, STRIDE, DIM)
        b_sum += tl.sum(b_g, 1)
        b_product += tl.sum(b_g * b_n, 1)
    b_do = tl.zeros([BLOCK_R, HEAD], COMPUTE)
    for k in range(0, DIM, BLOCK_K):
        i_d = k + tl.arange(0, BLOCK_K)
        m_d = i_d < DIM
        b_g, b_n, b_a = _norm_block(p_grad, p_activated, p_norm_weight, b_mean, b_rstd, i_r, m_r, i_d, STRIDE, DIM)
        b_dy = (b_g - b_sum[:, None] / DIM - b_n * (b_product[:, None] / DIM)) * (b_rstd[:, None] * SCALE)
        b_dy = tl.where(b_a > 0, b_dy, 0)
        tl.store(p_d_mixed + o_r[:, None] * DIM + i_d[None, :], b_dy, mask=m_first[:, None] & m_d[None, :])
        p_w = p_output_weight + i_d[:, None] * (2 * DIM) + i_n[None, :]
        b_w = tl.load(p_w, mask=m_d[:, None] & m_w[None, :], other=0.0)
        b_do = add_product(b_do, b_dy, b_w, PRECISION)
    tl.store(p_d_attended + o_r[:, None] * DIM + i_n[None, :], b_do, mask=m_r[:, None] & m_w[None, :])
    o_head = o_r * HEADS + head
    write_head(
        b_do, p_value_weight + i_n * WIDTH, p_value_bias + i_n, m_w, p_d_context + o_head * WIDTH, p_d_total + o_head,
        m_r, WIDTH, PRECISION, BLOCK_R, BLOCK_K,
    )  # fmt: skip


def launch_attention_output_backward(
    args: AttentionLayer, out: Embedded, grad: Embedded
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of y [R, D], o [R, D], context [R, K, X] and total [R, K], from the gradient of z [R, D]."""
    (roots, heads, width), dim, d_z = out.context.shape, out.activated.shape[1], grad.z
    d_mixed, d_attended = torch.empty_like(out.activated), torch.empty_like(out.activated)
    d_context, d_total = d_mixed.new_empty(roots, heads, width), d_mixed.new_empty(roots, heads)
    config = fit_config(attention_output_backward_kernel.config(arithmetic(d_z.dtype)), dim)
    attention_output_backward_kernel.launch(
        (cdiv(roots, config["BLOCK_R"]), heads), config,
        d_z, out.activated, out.mean, out.rstd, args.norm_weight, args.output_weight, args.value_weight,
        args.value_bias, d_mixed, d_attended, d_context, d_total, roots, HEADS=heads, DIM=dim, WIDTH=width,
        STRIDE=d_z.stride(0), SCALE=keep_scale(args.dropout, d_z.dtype), PRECISION=input_precision(d_z.dtype),
        HEAD=pow2(dim // heads),
    )  # fmt: skip
    return d_mixed, d_attended, d_context, d_total
