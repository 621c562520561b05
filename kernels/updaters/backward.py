"""The common part of the memory updaters' backward passes: gradients of the inputs from those of the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.numbers.time_encoding import encode_time_backward, launch_encode_time_backward
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import Gradients
from mspipe_triton.kernels.updaters.inputs import TABLES, TIME, WEIGHTS, flags

if TYPE_CHECKING:
    from mspipe_triton.kernels.updaters.inputs import Update


def valid_gradient(args: Update, d_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of h and the time differences, both 0 beyond the count."""
    if args.count is None:
        return d_h, args.deltas
    valid = torch.arange(d_h.shape[0], device=d_h.device) < args.count
    return torch.where(valid.unsqueeze(1), d_h, 0.0), torch.where(valid, args.deltas, 0.0)


def table_gradients(args: Update, d_rows: torch.Tensor, needs: frozenset[str]) -> Gradients:
    """Gradients of the tables that need one, from the gradient of the message [U, X], which consists of their rows."""
    gradients, first = {}, 0
    for name, rows in (("memory", args.memory_rows), ("partner", args.partner_rows), ("features", args.feature_rows)):
        table: torch.Tensor = getattr(args, name)
        gradient = d_rows[:, first : first + table.shape[1]]
        if name in needs:
            if rows is not None:
                gradient = d_rows.new_zeros(table.shape).index_add(0, rows.clamp(min=0).long(), gradient)
            gradients[name] = gradient.to(table.dtype).contiguous()
        first += table.shape[1]
    return gradients


def time_gradients(args: Update, d_sums: torch.Tensor, deltas: torch.Tensor, needs: frozenset[str]) -> Gradients:
    """Gradients of the time encoder, if it needs them, from those of the sums that contain the message's product."""
    if not needs.intersection(TIME):
        return {}
    d_time = d_sums @ args.weight_ih[:, -args.frequency.numel() :]
    gradients = encode_time_backward(d_time, deltas.to(d_time.dtype), args.frequency, args.phase)
    return dict(zip(TIME, gradients, strict=True))


@kernel(
    Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_U": 32, "PART": 256}, num_warps=4, num_stages=2),
    Config({"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_U": 32, "PART": 512}, num_warps=4, num_stages=3),
    space={**spaces.BACKWARD, **spaces.PARTS},
    ieee=[Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_U": 16, "PART": 512}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_N": 32, "BLOCK_K": 32, "BLOCK_U": 16, "PART": 512}, num_warps=8, num_stages=2)],
)
def weights_backward_kernel(
    p_gates, p_message, p_has_mail, p_count, p_partial, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_U: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Part s of dW_ih = Σ_u d_u ⊗ x_u (nodes with mail) and dW_hh = Σ_u d'_u ⊗ m_u, and of both biases' gradients.

    A GRU's row is [d_r ‖ d_z ‖ d_n ‖ d_hn], with d = (d_r, d_z, d_n) and d' = (d_r, d_z, d_hn); an RNN's is d = d'.
    A part is OUT rows (3D or D) of [WIDTH ‖ D ‖ 2]: dW_ih ‖ dW_hh ‖ db_ih, db_hh.
    """
    TILES: tl.constexpr = tl.cdiv(WIDTH, BLOCK_K)
    ACROSS: tl.constexpr = WIDTH + DIM + 2
    i_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    hidden = tl.where(tl.program_id(1) >= TILES, 1, 0)  # 1 if this tile is of dW_hh
    tile = tl.program_id(1) - hidden * TILES
    i_k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    m_n, m_k = i_n < OUT, i_k < tl.where(hidden > 0, DIM, WIDTH)
    o_gate = tl.where(i_n >= 2 * DIM, i_n + hidden * DIM, i_n)
    begin = tl.program_id(2) * PART
    stop = tl.minimum(begin + PART, num_rows)
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
        if begin >= stop:
            return
    b_weight = tl.zeros([BLOCK_N, BLOCK_K], p_partial.dtype.element_ty)
    b_bias = tl.zeros([BLOCK_N], p_partial.dtype.element_ty)
    for u in range(begin, stop, BLOCK_U):
        i_u = u + tl.arange(0, BLOCK_U)
        m_u = i_u < stop
        m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0).to(tl.int32) + hidden > 0)
        p_d = p_gates + i_u.to(tl.int64)[None, :] * STRIDE + o_gate[:, None]
        b_d = tl.load(p_d, mask=m_n[:, None] & m_u[None, :], other=0.0)
        b_bias += tl.sum(b_d, 1)
        p_x = p_message + i_u.to(tl.int64)[:, None] * WIDTH + i_k[None, :]
        b_x = tl.load(p_x, mask=m_mail[:, None] & m_k[None, :], other=0.0)
        b_weight = add_product(b_weight, b_d, b_x, PRECISION)
    p_row = p_partial + (tl.program_id(2) * OUT + i_n).to(tl.int64) * ACROSS
    o_k = hidden * WIDTH + i_k
    tl.store(p_row[:, None] + o_k[None, :], b_weight, mask=m_n[:, None] & m_k[None, :])
    if tile == 0:
        tl.store(p_row + WIDTH + DIM + hidden, b_bias, mask=m_n)


@kernel(
    Config({"BLOCK": 256}, num_warps=4),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def sum_parts_kernel(
    p_partial, p_count, p_weight_ih, p_weight_hh, p_bias_ih, p_bias_hh, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the parts in order and write each gradient to its own tensor."""
    ACROSS: tl.constexpr = WIDTH + DIM + 2
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < OUT * ACROSS
    b_sum = tl.zeros([BLOCK], p_partial.dtype.element_ty)
    stop = num_rows
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
    p_part = p_partial + i
    for _ in range(0, stop, PART):
        b_sum += tl.load(p_part, mask=m, other=0.0)
        p_part += OUT * ACROSS
    row, column = i // ACROSS, i % ACROSS
    tl.store(p_weight_ih + row * WIDTH + column, b_sum, mask=m & (column < WIDTH))
    m_hidden = m & (column >= WIDTH) & (column < WIDTH + DIM)
    tl.store(p_weight_hh + row * DIM + column - WIDTH, b_sum, mask=m_hidden)
    tl.store(p_bias_ih + row, b_sum, mask=m & (column == WIDTH + DIM))
    tl.store(p_bias_hh + row, b_sum, mask=m & (column == WIDTH + DIM + 1))


@kernel(
    Config({"BLOCK_U": 64, "BLOCK_K": 64, "BLOCK_N": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_K": 64, "BLOCK_N": 32}, num_warps=4, num_stages=3),
    space={**spaces.BACKWARD, "BLOCK_U": (16, 32, 64, 128), "BLOCK_N": (16, 32, 64)},
    ieee=[Config({"BLOCK_U": 32, "BLOCK_K": 64, "BLOCK_N": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 32, "BLOCK_K": 32, "BLOCK_N": 16}, num_warps=4, num_stages=2)],
)
def rows_backward_kernel(
    p_gates, p_own, p_has_mail, p_weight_ih, p_weight_hh, p_rows, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, FIRST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Columns from FIRST on of d_x = d W_ih (0 without mail); memory's columns also get d' W_hh and the direct path."""
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_k = FIRST + tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    m_u, m_k = i_u < num_rows, i_k < WIDTH
    m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    o_u = i_u.to(tl.int64)[:, None]
    b_x = tl.zeros([BLOCK_U, BLOCK_K], p_rows.dtype.element_ty)
    for n in range(0, OUT, BLOCK_N):
        i_n = n + tl.arange(0, BLOCK_N)
        m_n = i_n < OUT
        b_d = tl.load(p_gates + o_u * STRIDE + i_n[None, :], mask=m_mail[:, None] & m_n[None, :], other=0.0)
        p_w = p_weight_ih + i_n[:, None] * WIDTH + i_k[None, :]
        b_w = tl.load(p_w, mask=m_n[:, None] & m_k[None, :], other=0.0)
        b_x = add_product(b_x, b_d, b_w, PRECISION)
    if FIRST + tl.program_id(1) * BLOCK_K < DIM:
        m_own = i_k < DIM
        for n in range(0, OUT, BLOCK_N):
            i_n = n + tl.arange(0, BLOCK_N)
            m_n = i_n < OUT
            o_gate = tl.where(i_n >= 2 * DIM, i_n + DIM, i_n)
            b_d = tl.load(p_gates + o_u * STRIDE + o_gate[None, :], mask=m_u[:, None] & m_n[None, :], other=0.0)
            p_w = p_weight_hh + i_n[:, None] * DIM + i_k[None, :]
            b_w = tl.load(p_w, mask=m_n[:, None] & m_own[None, :], other=0.0)
            b_x = add_product(b_x, b_d, b_w, PRECISION)
        if p_own is not None:
            b_x += tl.load(p_own + o_u * DIM + i_k[None, :], mask=m_u[:, None] & m_own[None, :], other=0.0)
    tl.store(p_rows + o_u * (WIDTH - FIRST) + (i_k - FIRST)[None, :], b_x, mask=m_u[:, None] & m_k[None, :])


def launch_gradients(
    args: Update, message: torch.Tensor, gates: torch.Tensor, direct: torch.Tensor | None, needs: frozenset[str]
) -> Gradients:
    """Gradients of weights and biases, and if needed of the tables, frequency and phase.

    The sums over nodes are split into parts of fixed size, so they are the same in every run.

    Args:
        message: the message that the forward pass saved.
        gates: gradients of the gates' sums, a GRU's [U, 4D] or an RNN's [U, D], 0 beyond the count.
        direct: gradient of the memory rows along the direct path [U, D], or None if there is none.
    """
    (rows, width), (out, dim), stride = message.shape, args.weight_hh.shape, gates.shape[1]
    kind, precision = arithmetic(gates.dtype), input_precision(gates.dtype)
    sizes, has_mail = {"DIM": dim, "WIDTH": width, "OUT": out}, flags(args.has_mail, gates.dtype)
    config = weights_backward_kernel.config(kind)
    parts, part = cdiv(rows, config["PART"]), config["PART"]
    partial = gates.new_empty(parts, out, width + dim + 2)
    tiles = cdiv(width, config["BLOCK_K"]) + cdiv(dim, config["BLOCK_K"])
    weights_backward_kernel.launch(
        (cdiv(out, config["BLOCK_N"]), tiles, parts), config,
        gates, message, has_mail, args.count, partial, rows, STRIDE=stride, PRECISION=precision, **sizes,
    )  # fmt: skip
    gradients = {name: gates.new_empty(getattr(args, name).shape) for name in WEIGHTS}
    config = sum_parts_kernel.config()
    sum_parts_kernel.launch(
        (cdiv(out * (width + dim + 2), config["BLOCK"]),), config,
        partial, args.count, *gradients.values(), rows, PART=part, **sizes,
    )  # fmt: skip
    needs_rows, needs_time, time = needs.intersection(TABLES), needs.intersection(TIME), args.frequency.numel()
    if needs_rows or needs_time:
        first = 0 if needs_rows else width - time
        d_message = gates.new_empty(rows, width - first)
        config = rows_backward_kernel.config(kind)
        rows_backward_kernel.launch(
            (cdiv(rows, config["BLOCK_U"]), cdiv(width - first, config["BLOCK_K"])), config,
            gates, direct, has_mail, args.weight_ih, args.weight_hh, d_message, rows, STRIDE=stride, FIRST=first,
            PRECISION=precision, **sizes,
        )  # fmt: skip
        if needs_time:
            d_time = d_message[:, d_message.shape[1] - time :]
            d_encoder = launch_encode_time_backward(d_time, args.deltas, args.frequency, args.phase, args.count)
            gradients |= zip(TIME, d_encoder, strict=True)
        if needs_rows:
            gradients |= table_gradients(args, d_message, needs)
    return gradients
