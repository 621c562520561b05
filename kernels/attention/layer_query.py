"""Kernels for the attention layer's queries: from roots' rows to absorbed queries and biases, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.attention.heads import fit_config, heads_product, rows_product, write_head
from mspipe_triton.kernels.attention.slots import write_block
from mspipe_triton.kernels.numbers.time_encoding import cos_turns, turns_block
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, input_precision, kernel, pow2, tl

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.layer import AttentionLayer


@kernel(
    Config({"BLOCK_R": 32, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_R": 16, "BLOCK_K": 64}, num_warps=4, num_stages=2),
    space=spaces.HEAD,
    ieee=[Config({"BLOCK_R": 16, "BLOCK_K": 32}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_R": 16, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def attention_query_kernel(
    p_table, p_root_rows, p_frequency, p_phase, p_query_weight, p_query_bias, p_key_weight, p_key_bias,
    p_query, p_absorbed, p_bias, num_roots,
    HEADS: tl.constexpr, DIM: tl.constexpr, TIME: tl.constexpr, WIDTH: tl.constexpr, STRIDE_TABLE: tl.constexpr,
    PRECISION: tl.constexpr, HEAD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """For BLOCK_R roots and a head k of at most HEAD numbers, where h is a root's row of the table:

    q_k = W_q,k [h ‖ cos b] + b_q,k          absorbed_k = W_k,kᵀ q_k          bias_k = q_k · b_k,k
    """
    COMPUTE: tl.constexpr = p_query.dtype.element_ty
    ACROSS: tl.constexpr = DIM + TIME
    i_r, i_w = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, HEAD)
    m_r, m_w = i_r < num_roots, i_w < DIM // HEADS
    head = tl.program_id(1)
    i_n = head * (DIM // HEADS) + i_w
    b_at_zero = tl.load(p_query_bias + i_n, mask=m_w, other=0.0)
    for t in range(0, TIME, BLOCK_K):
        i_t = t + tl.arange(0, BLOCK_K)
        m_t = i_t < TIME
        b_encoded = cos_turns(turns_block(tl.zeros([1], COMPUTE), p_frequency, p_phase, i_t, m_t))
        p_w = p_query_weight + i_n[:, None] * ACROSS + (DIM + i_t)[None, :]
        b_at_zero += tl.sum(tl.load(p_w, mask=m_w[:, None] & m_t[None, :], other=0.0) * b_encoded, 1)
    b_row = tl.load(p_root_rows + i_r, mask=m_r, other=0).to(tl.int64)
    p_node, p_weight = p_table + b_row[:, None] * STRIDE_TABLE, p_query_weight + i_n[None, :] * ACROSS
    b_q = rows_product(tl.zeros([BLOCK_R, HEAD], COMPUTE), p_node, m_r, p_weight, m_w, DIM, PRECISION, BLOCK_K)
    b_q += b_at_zero[None, :]
    o_r = i_r.to(tl.int64)
    tl.store(p_query + o_r[:, None] * DIM + i_n[None, :], b_q, mask=m_r[:, None] & m_w[None, :])
    o_head = o_r * HEADS + head
    write_head(
        b_q, p_key_weight + i_n * WIDTH, p_key_bias + i_n, m_w, p_absorbed + o_head * WIDTH, p_bias + o_head, m_r,
        WIDTH, PRECISION, BLOCK_R, BLOCK_K,
    )  # fmt: skip


def launch_attention_query(args: AttentionLayer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [R, D], and the query [R, K, X] and bias [R, K] of `temporal_attention`."""
    roots, (dim, width), heads = args.root_rows.numel(), args.key_weight.shape, args.heads
    new = args.key_weight.new_empty
    query, absorbed, bias = new(roots, dim), new(roots, heads, width), new(roots, heads)
    config = fit_config(attention_query_kernel.config(arithmetic(query.dtype)), dim)
    attention_query_kernel.launch(
        (cdiv(roots, config["BLOCK_R"]), heads), config,
        args.table, args.root_rows, args.frequency, args.phase, args.query_weight, args.query_bias, args.key_weight,
        args.key_bias, query, absorbed, bias, roots, HEADS=heads, DIM=dim, TIME=args.phase.numel(), WIDTH=width,
        STRIDE_TABLE=args.table.stride(0), PRECISION=input_precision(query.dtype), HEAD=pow2(dim // heads),
    )  # fmt: skip
    return query, absorbed, bias


@kernel(
    Config({"BLOCK_R": 16, "BLOCK_W": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_R": 32, "BLOCK_W": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space=spaces.HEADS,
    ieee=[Config({"BLOCK_R": 16, "BLOCK_W": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_R": 16, "BLOCK_W": 16, "BLOCK_K": 16}, num_warps=8, num_stages=2)],
)
def attention_query_backward_kernel(
    p_d_absorbed, p_d_bias, p_d_mixed, p_root_rows, p_query_weight, p_key_weight, p_key_bias, p_output_weight,
    p_d_query, p_d_roots, num_roots,
    HEADS: tl.constexpr, DIM: tl.constexpr, TIME: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr,
    ADD: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """For BLOCK_R roots, where dy is the gradient of W_o [o ‖ h] and W_o,h the columns of W_o that multiply h:

        dq_k = W_k,k dabsorbed_k + dbias_k b_k,k          dh = W_q,hᵀ dq + W_o,hᵀ dy

    With TABLE, dh is written to a row per root, or with ADD added atomically to the root's row of the table's gradient.
    """
    COMPUTE: tl.constexpr = p_d_query.dtype.element_ty
    HEAD: tl.constexpr = DIM // HEADS
    i_r, i_d = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_D)
    m_r, m_d = i_r < num_roots, i_d < DIM
    b_dh = tl.zeros([BLOCK_R, BLOCK_D], COMPUTE)
    b_dh = heads_product(
        b_dh, p_d_absorbed, p_d_bias, p_key_weight, p_key_bias, p_d_query, p_query_weight + i_d, i_r, m_r, m_d,
        HEADS, HEAD, WIDTH, DIM + TIME, True, PRECISION, BLOCK_W, BLOCK_K,
    )  # fmt: skip
    if TABLE:
        o_r = i_r.to(tl.int64)
        for k in range(0, DIM, BLOCK_K):
            i_k = k + tl.arange(0, BLOCK_K)
            m_k = i_k < DIM
            p_dy = p_d_mixed + o_r[:, None] * DIM + i_k[None, :]
            b_dy = tl.load(p_dy, mask=m_r[:, None] & m_k[None, :], other=0.0)
            p_w = p_output_weight + i_k[:, None] * (2 * DIM) + (DIM + i_d)[None, :]
            b_w = tl.load(p_w, mask=m_k[:, None] & m_d[None, :], other=0.0)
            b_dh = add_product(b_dh, b_dy, b_w, PRECISION)
        b_row = o_r
        if ADD:
            b_row = tl.load(p_root_rows + i_r, mask=m_r, other=0).to(tl.int64)
        write_block(p_d_roots + b_row[:, None] * DIM + i_d[None, :], b_dh, m_r[:, None] & m_d[None, :], ADD)


def launch_attention_query_backward(
    args: AttentionLayer, d_absorbed: torch.Tensor, d_bias: torch.Tensor, d_mixed: torch.Tensor,
    d_roots: torch.Tensor | None, add: bool,
) -> torch.Tensor:  # fmt: skip
    """dq [R, D]; with `d_roots`, writes dh to it [R, D], or with `add` adds dh to the roots' rows of it [U, D]."""
    (roots, heads, width), dim = d_absorbed.shape, d_mixed.shape[1]
    d_query = torch.empty_like(d_mixed)
    config = fit_config(attention_query_backward_kernel.config(arithmetic(d_mixed.dtype)), dim)
    attention_query_backward_kernel.launch(
        (cdiv(roots, config["BLOCK_R"]),), config,
        d_absorbed, d_bias, d_mixed, args.root_rows, args.query_weight, args.key_weight, args.key_bias,
        args.output_weight, d_query, d_roots, roots, HEADS=heads, DIM=dim, TIME=args.phase.numel(), WIDTH=width,
        TABLE=d_roots is not None, ADD=add, PRECISION=input_precision(d_mixed.dtype), BLOCK_D=pow2(dim),
    )  # fmt: skip
    return d_query
