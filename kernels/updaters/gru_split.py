"""The split variant of `memory_gru`: a gather kernel builds messages, the library multiplies, a kernel gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.kernels.numbers.time_encoding import cos_turns, turns_block
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, kernel, pow2, tl
from mspipe_triton.kernels.updaters.inputs import message_widths
from mspipe_triton.kernels.updaters.product import ROW_CONFIGS, strides, table_arguments, table_rows, tanh

if TYPE_CHECKING:
    from mspipe_triton.kernels.updaters.gru import MemoryGRU, Updated


@device_function
def write_gates(
    b_r, b_z, b_n, b_hidden, b_m, p_bias_ih, p_bias_hh, p_h, p_joint, p_hidden_n, i_u, i_d, m_u, m_valid, m_mail,
    DIM: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """Add the biases to the gates' products, save the sums, and write h = n + z ⊙ (m − n) for a block of nodes."""
    m_d = i_d < DIM
    m_row = m_valid[:, None] & m_d[None, :]
    o_h = i_u.to(tl.int64)[:, None] * DIM + i_d[None, :]
    b_r += (tl.load(p_bias_ih + i_d, mask=m_d) + tl.load(p_bias_hh + i_d, mask=m_d))[None, :]
    b_z += (tl.load(p_bias_ih + DIM + i_d, mask=m_d) + tl.load(p_bias_hh + DIM + i_d, mask=m_d))[None, :]
    b_n += tl.load(p_bias_ih + 2 * DIM + i_d, mask=m_d)[None, :]
    b_hidden += tl.load(p_bias_hh + 2 * DIM + i_d, mask=m_d)[None, :]
    if SAVE:
        o_joint = i_u.to(tl.int64)[:, None] * (3 * DIM) + i_d[None, :]
        tl.store(p_joint + o_joint, b_r, mask=m_row)
        tl.store(p_joint + o_joint + DIM, b_z, mask=m_row)
        tl.store(p_joint + o_joint + 2 * DIM, b_n, mask=m_row)
        tl.store(p_hidden_n + o_h, b_hidden, mask=m_row)
    b_n = tanh(b_n + tl.sigmoid(b_r) * b_hidden)
    b_h = b_n + tl.sigmoid(b_z) * (b_m - b_n)
    if KEEP:
        b_h = tl.where(m_mail[:, None], b_h, b_m)
    tl.store(p_h + o_h, tl.where(m_valid[:, None], b_h, 0.0), mask=m_u[:, None] & m_d[None, :])


@kernel(
    Config({"BLOCK_U": 8}, num_warps=4),
    Config({"BLOCK_U": 4}, num_warps=4),
    Config({"BLOCK_U": 16}, num_warps=8),
    space=spaces.ROWS,
    float64=[Config({"BLOCK_U": 8}, num_warps=4), Config({"BLOCK_U": 4}, num_warps=4)],
)
def message_kernel(
    p_memory, p_memory_rows, p_partner, p_partner_rows, p_features, p_feature_rows, p_deltas, p_has_mail,
    p_frequency, p_phase, p_count, p_message, num_rows,
    DIM: tl.constexpr, PARTNER: tl.constexpr, FEATURES: tl.constexpr, TIME: tl.constexpr,
    MEMORY_STRIDE: tl.constexpr, PARTNER_STRIDE: tl.constexpr, FEATURE_STRIDE: tl.constexpr,
    BLOCK_DIM: tl.constexpr, BLOCK_PARTNER: tl.constexpr, BLOCK_FEATURES: tl.constexpr, BLOCK_TIME: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Row u of the message: [m ‖ p ‖ e ‖ φ(Δt)] with mail, [m ‖ 0 ‖ 0 ‖ 0] without, 0 beyond the count."""
    COMPUTE: tl.constexpr = p_message.dtype.element_ty
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    m_u = i_u < num_rows
    m_valid = m_u
    if p_count is not None:
        m_valid = m_u & (i_u < tl.load(p_count))
    m_mail = m_valid & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    p_out = p_message + i_u.to(tl.int64)[:, None] * (DIM + PARTNER + FEATURES + TIME)

    i_k = tl.arange(0, BLOCK_DIM)
    p_rows = p_memory + table_rows(p_memory_rows, i_u, m_valid)[:, None] * MEMORY_STRIDE
    b_x = tl.load(p_rows + i_k[None, :], mask=m_valid[:, None] & (i_k < DIM)[None, :], other=0.0)
    tl.store(p_out + i_k[None, :], b_x.to(COMPUTE), mask=m_u[:, None] & (i_k < DIM)[None, :])
    i_k = tl.arange(0, BLOCK_PARTNER)
    p_rows = p_partner + table_rows(p_partner_rows, i_u, m_mail)[:, None] * PARTNER_STRIDE
    b_x = tl.load(p_rows + i_k[None, :], mask=m_mail[:, None] & (i_k < PARTNER)[None, :], other=0.0)
    tl.store(p_out + DIM + i_k[None, :], b_x.to(COMPUTE), mask=m_u[:, None] & (i_k < PARTNER)[None, :])
    if FEATURES > 0:
        i_k = tl.arange(0, BLOCK_FEATURES)
        p_rows = p_features + table_rows(p_feature_rows, i_u, m_mail)[:, None] * FEATURE_STRIDE
        b_x = tl.load(p_rows + i_k[None, :], mask=m_mail[:, None] & (i_k < FEATURES)[None, :], other=0.0)
        p_edge = p_out + DIM + PARTNER
        tl.store(p_edge + i_k[None, :], b_x.to(COMPUTE), mask=m_u[:, None] & (i_k < FEATURES)[None, :])
    i_k = tl.arange(0, BLOCK_TIME)
    b_delta = tl.load(p_deltas + i_u, mask=m_mail, other=0.0).to(COMPUTE)
    b_x = cos_turns(turns_block(b_delta, p_frequency, p_phase, i_k, i_k < TIME))
    b_x = tl.where(m_mail[:, None], b_x, 0.0)
    p_time = p_out + DIM + PARTNER + FEATURES
    tl.store(p_time + i_k[None, :], b_x, mask=m_u[:, None] & (i_k < TIME)[None, :])


@kernel(*ROW_CONFIGS, space=spaces.ROWS)
def gates_kernel(
    p_input, p_hidden, p_bias_ih, p_bias_hh, p_message, p_has_mail, p_count, p_h, p_joint, p_hidden_n, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """h from W_i x and W_h m [U, 3D] of the GRU cell; W_i x counts as 0 for a node without mail."""
    i_u, i_d = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U), tl.arange(0, BLOCK_D)
    m_u, m_d = i_u < num_rows, i_d < DIM
    m_valid = m_u
    if p_count is not None:
        m_valid = m_u & (i_u < tl.load(p_count))
    m_row = m_valid[:, None] & m_d[None, :]
    has_mail = m_valid & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    m_mail = has_mail[:, None] & m_d[None, :]
    o_gate = i_u.to(tl.int64)[:, None] * (3 * DIM) + i_d[None, :]
    b_r = tl.load(p_input + o_gate, mask=m_mail, other=0.0) + tl.load(p_hidden + o_gate, mask=m_row, other=0.0)
    b_z = tl.load(p_input + o_gate + DIM, mask=m_mail, other=0.0)
    b_z += tl.load(p_hidden + o_gate + DIM, mask=m_row, other=0.0)
    b_n = tl.load(p_input + o_gate + 2 * DIM, mask=m_mail, other=0.0)
    b_hidden = tl.load(p_hidden + o_gate + 2 * DIM, mask=m_row, other=0.0)
    b_m = tl.load(p_message + i_u.to(tl.int64)[:, None] * WIDTH + i_d[None, :], mask=m_row, other=0.0)
    write_gates(
        b_r, b_z, b_n, b_hidden, b_m, p_bias_ih, p_bias_hh, p_h, p_joint, p_hidden_n, i_u, i_d, m_u, m_valid,
        has_mail, DIM, KEEP, SAVE,
    )  # fmt: skip


def launch_split(args: MemoryGRU, out: Updated, save: bool) -> None:
    """`memory_gru` by a gather kernel, the library's two products and a gates kernel.

    The gather writes zeros beyond the count, since the products cover all rows and must stay finite.
    """
    widths, rows = message_widths(args), args.has_mail.numel()
    dim, width, keep = widths["DIM"], sum(widths.values()), args.empty == "keep"
    message = out.message if save else args.weight_ih.new_empty(rows, width)
    config = message_kernel.config(arithmetic(message.dtype))
    blocks = {f"BLOCK_{name}": pow2(size) for name, size in widths.items()}
    message_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, *table_arguments(args), args.deltas, args.has_mail, args.frequency,
        args.phase, args.count, message, rows, **widths, **strides(args), **blocks,
    )  # fmt: skip
    by_input, by_memory = message @ args.weight_ih.t(), message[:, :dim] @ args.weight_hh.t()
    config = gates_kernel.config()
    gates_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, by_input, by_memory, args.bias_ih, args.bias_hh, message,
        args.has_mail, args.count, out.h, out.joint, out.hidden_n, rows,
        DIM=dim, WIDTH=width, KEEP=keep, SAVE=save, BLOCK_D=pow2(dim),
    )  # fmt: skip
