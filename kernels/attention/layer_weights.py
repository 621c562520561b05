"""Kernels for the gradients of the attention layer's parameters: sums over the roots, in parts of fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.numbers.time_encoding import cos_turns, sin_turns, turns_block
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import Gradients

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.layer import AttentionLayer, Embedded

PARAMETERS = (
    "query_weight", "query_bias", "key_weight", "key_bias", "value_weight", "value_bias", "output_weight",
    "output_bias", "norm_weight", "norm_bias",
)  # fmt: skip


@device_function
def _write_sum(
    p_left, p_right, p_right_rows, p_factor, p_part, p_bias_part, i_n, m_n, tile, begin, stop,
    DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ACROSS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Write rows i_n and the tile's columns of Σ_r l_r ⊗ x_r, and for tile 0 and with `p_bias_part` Σ_r f_r l_r.

    l is [·, DIM]. x has rows [WIDTH] of stride STRIDE, selected by `p_right_rows` if given. f is `p_factor` [·, HEADS],
    or 1 without it.
    """
    COMPUTE: tl.constexpr = p_part.dtype.element_ty
    i_k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    m_k = i_k < WIDTH
    b_sum, b_bias = tl.zeros([BLOCK_N, BLOCK_K], COMPUTE), tl.zeros([BLOCK_N], COMPUTE)
    for r in range(begin, stop, BLOCK_R):
        i_r = r + tl.arange(0, BLOCK_R)
        m_r = i_r < stop
        o_r = i_r.to(tl.int64)
        b_left = tl.load(p_left + o_r[None, :] * DIM + i_n[:, None], mask=m_n[:, None] & m_r[None, :], other=0.0)
        b_row = o_r
        if p_right_rows is not None:
            b_row = tl.load(p_right_rows + i_r, mask=m_r, other=0).to(tl.int64)
        p_x = p_right + b_row[:, None] * STRIDE + i_k[None, :]
        b_x = tl.load(p_x, mask=m_r[:, None] & m_k[None, :], other=0.0).to(COMPUTE)
        b_sum = add_product(b_sum, b_left, b_x, PRECISION)
        if p_bias_part is not None:
            if p_factor is not None:
                b_left = b_left * tl.load(p_factor + o_r * HEADS, mask=m_r, other=0.0)[None, :]
            b_bias += tl.sum(b_left, 1)
    tl.store(p_part[:, None] + i_k[None, :], b_sum, mask=m_n[:, None] & m_k[None, :])
    if p_bias_part is not None:
        tl.store(p_bias_part, b_bias, mask=m_n & (i_n < tl.where(tile == 0, DIM, 0)))


@kernel(
    Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_R": 32, "PART": 256}, num_warps=4, num_stages=3),
    Config({"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_R": 32, "PART": 512}, num_warps=4, num_stages=3),
    space={
        "BLOCK_N": (16, 32, 64),
        "BLOCK_K": (16, 32, 64, 128),
        "BLOCK_R": (16, 32, 64),
        **spaces.PARTS,
        **spaces.PRODUCTS,
    },
    ieee=[Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_R": 16, "PART": 512}, num_warps=8, num_stages=2)],
    float64=[Config({"BLOCK_N": 32, "BLOCK_K": 32, "BLOCK_R": 16, "PART": 512}, num_warps=4, num_stages=2)],
)
def attention_weights_kernel(
    p_grad, p_activated, p_mean, p_rstd, p_d_mixed, p_attended, p_d_attended, p_context, p_total,
    p_query, p_d_absorbed, p_d_bias, p_d_query, p_table, p_root_rows, p_partial, num_roots,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, STRIDE_GRAD: tl.constexpr,
    STRIDE_TABLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Part s, over PART roots, of the sums that form the parameters' gradients, where n is the normalised a:

        dW_q,h = Σ dq ⊗ h          dW_k = Σ q_k ⊗ dabsorbed_k          dW_v = Σ do_k ⊗ context_k
        db_q = Σ dq                db_k = Σ dbias_k q_k                db_v = Σ total_k do_k
        dW_o = Σ dy ⊗ [o ‖ h]      db_o = Σ dy                         dg = Σ n dz          dc = Σ dz

    A part has DIM rows [dW_q,h ‖ dW_k ‖ dW_v ‖ dW_o ‖ db_q, db_k, db_v, db_o, dg, dc]. A program computes rows of one
    head and a tile of columns of one product, or the norm's two columns.
    """
    HEAD: tl.constexpr = DIM // HEADS
    TILES: tl.constexpr = (HEAD + BLOCK_N - 1) // BLOCK_N  # tl.cdiv of constants is not constant in triton 3.5, 3.6
    NODE: tl.constexpr = (DIM + BLOCK_K - 1) // BLOCK_K
    SLOT: tl.constexpr = (WIDTH + BLOCK_K - 1) // BLOCK_K
    BIASES: tl.constexpr = 3 * DIM + 2 * WIDTH
    ACROSS: tl.constexpr = BIASES + 6
    head = tl.program_id(0) // TILES
    i_w = tl.program_id(0) % TILES * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n, i_n, tile = i_w < HEAD, head * HEAD + i_w, tl.program_id(1)
    p_part = p_partial + (tl.program_id(2) * DIM + i_n).to(tl.int64) * ACROSS
    p_bias_part = p_part + BIASES
    begin = tl.program_id(2) * PART
    stop = tl.minimum(begin + PART, num_roots)
    if tile < NODE:
        _write_sum(
            p_d_query, p_table, p_root_rows, None, p_part, p_bias_part, i_n, m_n, tile, begin, stop,
            DIM, HEADS, DIM, STRIDE_TABLE, ACROSS, PRECISION, BLOCK_N, BLOCK_K, BLOCK_R,
        )  # fmt: skip
    elif tile < NODE + SLOT:
        _write_sum(
            p_query, p_d_absorbed + head * WIDTH, None, p_d_bias + head, p_part + DIM, p_bias_part + 1,
            i_n, m_n, tile - NODE, begin, stop,
            DIM, HEADS, WIDTH, HEADS * WIDTH, ACROSS, PRECISION, BLOCK_N, BLOCK_K, BLOCK_R,
        )  # fmt: skip
    elif tile < NODE + 2 * SLOT:
        _write_sum(
            p_d_attended, p_context + head * WIDTH, None, p_total + head, p_part + DIM + WIDTH, p_bias_part + 2,
            i_n, m_n, tile - (NODE + SLOT), begin, stop,
            DIM, HEADS, WIDTH, HEADS * WIDTH, ACROSS, PRECISION, BLOCK_N, BLOCK_K, BLOCK_R,
        )  # fmt: skip
    elif tile < 2 * (NODE + SLOT):
        _write_sum(
            p_d_mixed, p_attended, None, None, p_part + DIM + 2 * WIDTH, p_bias_part + 3,
            i_n, m_n, tile - (NODE + 2 * SLOT), begin, stop,
            DIM, HEADS, DIM, DIM, ACROSS, PRECISION, BLOCK_N, BLOCK_K, BLOCK_R,
        )  # fmt: skip
    elif tile < 3 * NODE + 2 * SLOT:
        _write_sum(
            p_d_mixed, p_table, p_root_rows, None, p_part + 2 * (DIM + WIDTH), None,
            i_n, m_n, tile - 2 * (NODE + SLOT), begin, stop,
            DIM, HEADS, DIM, STRIDE_TABLE, ACROSS, PRECISION, BLOCK_N, BLOCK_K, BLOCK_R,
        )  # fmt: skip
    else:
        b_gain, b_shift = (
            tl.zeros([BLOCK_N], p_partial.dtype.element_ty),
            tl.zeros([BLOCK_N], p_partial.dtype.element_ty),
        )
        for r in range(begin, stop, BLOCK_R):
            i_r = r + tl.arange(0, BLOCK_R)
            m_r = i_r < stop
            o_r, m = i_r.to(tl.int64)[:, None], m_r[:, None] & m_n[None, :]
            b_mean, b_rstd = tl.load(p_mean + i_r, mask=m_r, other=0.0), tl.load(p_rstd + i_r, mask=m_r, other=0.0)
            b_dz = tl.load(p_grad + o_r * STRIDE_GRAD + i_n[None, :], mask=m, other=0.0)
            b_a = tl.load(p_activated + o_r * DIM + i_n[None, :], mask=m, other=0.0)
            b_gain += tl.sum(b_dz * (b_a - b_mean[:, None]) * b_rstd[:, None], 0)
            b_shift += tl.sum(b_dz, 0)
        tl.store(p_bias_part + 4, b_gain, mask=m_n)
        tl.store(p_bias_part + 5, b_shift, mask=m_n)


@kernel(
    Config({"BLOCK": 256}, num_warps=4),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def attention_sums_kernel(
    p_partial, p_frequency, p_phase, p_query_weight, p_query_bias, p_key_weight, p_key_bias, p_value_weight,
    p_value_bias, p_output_weight, p_output_bias, p_norm_weight, p_norm_bias, parts,
    DIM: tl.constexpr, TIME: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the parts in order and write each gradient to its own tensor; the columns of W_q that multiply φ(0) get
    db_q ⊗ cos b."""
    BIASES: tl.constexpr = 3 * DIM + 2 * WIDTH
    ACROSS: tl.constexpr = BIASES + 6
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = i // (ACROSS + TIME), i % (ACROSS + TIME)
    m, i_t = row < DIM, column - DIM
    m_time = m & (i_t >= 0) & (i_t < TIME)
    source = tl.where(column < DIM, column, tl.where(i_t < TIME, BIASES, column - TIME))
    b_sum = tl.zeros([BLOCK], p_partial.dtype.element_ty)
    p_part = p_partial + row * ACROSS + source
    for _ in range(0, parts):
        b_sum += tl.load(p_part, mask=m, other=0.0)
        p_part += DIM * ACROSS
    b_encoded = cos_turns(turns_block(tl.zeros([1], b_sum.dtype), p_frequency, p_phase, i_t, m_time))
    b_sum = tl.where(m_time, b_sum * tl.sum(b_encoded, 0), b_sum)
    tl.store(p_query_weight + row * (DIM + TIME) + column, b_sum, mask=m & (column < DIM + TIME))
    i_key, i_value, i_output = i_t - TIME, i_t - (TIME + WIDTH), i_t - (TIME + 2 * WIDTH)
    tl.store(p_key_weight + row * WIDTH + i_key, b_sum, mask=m & (i_key >= 0) & (i_key < WIDTH))
    tl.store(p_value_weight + row * WIDTH + i_value, b_sum, mask=m & (i_value >= 0) & (i_value < WIDTH))
    tl.store(p_output_weight + row * (2 * DIM) + i_output, b_sum, mask=m & (i_output >= 0) & (i_output < 2 * DIM))
    bias = i_output - 2 * DIM
    tl.store(p_query_bias + row, b_sum, mask=m & (bias == 0))
    tl.store(p_key_bias + row, b_sum, mask=m & (bias == 1))
    tl.store(p_value_bias + row, b_sum, mask=m & (bias == 2))
    tl.store(p_output_bias + row, b_sum, mask=m & (bias == 3))
    tl.store(p_norm_weight + row, b_sum, mask=m & (bias == 4))
    tl.store(p_norm_bias + row, b_sum, mask=m & (bias == 5))


@kernel(
    Config({"BLOCK_T": 16, "BLOCK_R": 64}, num_warps=4),
    Config({"BLOCK_T": 16, "BLOCK_R": 128}, num_warps=8),
    space={"BLOCK_T": (8, 16, 32), "BLOCK_R": (32, 64, 128, 256), **spaces.PLAIN},
)
def attention_times_kernel(
    p_d_frequencies, p_d_phases, p_query_weight, p_d_query_bias, p_frequency, p_phase, p_d_frequency, p_d_phase,
    num_roots, DIM: tl.constexpr, TIME: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Sum the roots' gradients of frequency and phase; φ(0) adds −sin(b) W_q,φᵀ db_q to the phase's."""
    COMPUTE: tl.constexpr = p_d_phase.dtype.element_ty
    i_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = i_t < TIME
    b_frequency, b_phase, b_zero = (tl.zeros([BLOCK_R, BLOCK_T], COMPUTE),) * 3
    for r in range(0, num_roots, BLOCK_R):
        i_r = r + tl.arange(0, BLOCK_R)
        o_r, m = i_r.to(tl.int64)[:, None] * TIME + i_t[None, :], (i_r < num_roots)[:, None] & m_t[None, :]
        b_frequency += tl.load(p_d_frequencies + o_r, mask=m, other=0.0)
        b_phase += tl.load(p_d_phases + o_r, mask=m, other=0.0)
    for n in range(0, DIM, BLOCK_R):
        i_n = n + tl.arange(0, BLOCK_R)
        p_w = p_query_weight + i_n[:, None] * (DIM + TIME) + (DIM + i_t)[None, :]
        b_w = tl.load(p_w, mask=(i_n < DIM)[:, None] & m_t[None, :], other=0.0)
        b_zero += b_w * tl.load(p_d_query_bias + i_n, mask=i_n < DIM, other=0.0)[:, None]
    b_sine = tl.sum(sin_turns(turns_block(tl.zeros([1], COMPUTE), p_frequency, p_phase, i_t, m_t)), 0)
    tl.store(p_d_frequency + i_t, tl.sum(b_frequency, 0), mask=m_t)
    tl.store(p_d_phase + i_t, tl.sum(b_phase, 0) - b_sine * tl.sum(b_zero, 0), mask=m_t)


def launch_attention_weights(
    args: AttentionLayer, out: Embedded, grad: Embedded, d_mixed: torch.Tensor, d_attended: torch.Tensor,
    d_absorbed: torch.Tensor, d_bias: torch.Tensor, d_query: torch.Tensor,
) -> Gradients:  # fmt: skip
    """Gradients of the parameters: first their parts, then the sums of the parts."""
    d_z, (roots, heads, width), dim, time = grad.z, out.context.shape, out.activated.shape[1], args.phase.numel()
    config = attention_weights_kernel.config(arithmetic(d_z.dtype))
    parts, across = cdiv(roots, config["PART"]), 3 * dim + 2 * width + 6
    partial = d_z.new_empty(parts, dim, across)
    tiles = 3 * cdiv(dim, config["BLOCK_K"]) + 2 * cdiv(width, config["BLOCK_K"]) + 1
    attention_weights_kernel.launch(
        (heads * cdiv(dim // heads, config["BLOCK_N"]), tiles, parts), config,
        d_z, out.activated, out.mean, out.rstd, d_mixed, out.attended, d_attended, out.context, out.total, out.query,
        d_absorbed, d_bias, d_query, args.table, args.root_rows, partial, roots, HEADS=heads, DIM=dim, WIDTH=width,
        STRIDE_GRAD=d_z.stride(0), STRIDE_TABLE=args.table.stride(0), PRECISION=input_precision(d_z.dtype),
    )  # fmt: skip
    gradients = {name: torch.empty_like(getattr(args, name)) for name in PARAMETERS}
    config = attention_sums_kernel.config()
    attention_sums_kernel.launch(
        (cdiv(dim * (across + time), config["BLOCK"]),), config,
        partial, args.frequency, args.phase, *gradients.values(), parts, DIM=dim, TIME=time, WIDTH=width,
    )  # fmt: skip
    return gradients


def launch_attention_times(
    args: AttentionLayer, d_frequencies: torch.Tensor, d_phases: torch.Tensor, d_query_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of frequency and phase [T], from the gradients per root [R, T] and that of the query's bias [D]."""
    d_frequency, d_phase = torch.empty_like(args.frequency), torch.empty_like(args.phase)
    (roots, time), config = d_phases.shape, attention_times_kernel.config()
    attention_times_kernel.launch(
        (cdiv(time, config["BLOCK_T"]),), config, d_frequencies, d_phases, args.query_weight, d_query_bias,
        args.frequency, args.phase, d_frequency, d_phase, roots, DIM=d_query_bias.numel(), TIME=time,
    )  # fmt: skip
    return d_frequency, d_phase
