"""The fused variant of `memory_gru`: one kernel fetches rows, builds messages, encodes time, multiplies and gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.kernels.launch import Config, kernel, real_rows, tl
from mspipe_triton.kernels.memory_gru_split import Updated, empty_updated, write_gated
from mspipe_triton.kernels.updater_product import launch_update, message_product, table_rows

if TYPE_CHECKING:
    from mspipe_triton.kernels.memory_gru import MemoryGRU


@kernel(
    Config({"BLOCK_U": 64, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    ieee=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 16, "BLOCK_K": 16}, num_warps=4, num_stages=1)],
)
def fused_gru_kernel(
    p_memory, p_memory_rows, p_partner, p_partner_rows, p_features, p_feature_rows, p_deltas, p_has_mail,
    p_frequency, p_phase, p_packed, p_bias_ih, p_bias_hh, p_count, p_h, p_message, p_joint, p_hidden_n, num_rows,
    DIM: tl.constexpr, PARTNER: tl.constexpr, FEATURES: tl.constexpr, TIME: tl.constexpr,
    MEMORY_STRIDE: tl.constexpr, PARTNER_STRIDE: tl.constexpr, FEATURE_STRIDE: tl.constexpr, SELF: tl.constexpr,
    MATE: tl.constexpr, EVENT: tl.constexpr, TIMES: tl.constexpr, DEPTH: tl.constexpr, KEEP: tl.constexpr,
    SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h = n + z ⊙ (m − n) of BLOCK_U nodes and BLOCK_D outputs; all four gates are one product [BLOCK_U, 4 BLOCK_D].

    Rows from the count on become 0.
    """
    COMPUTE: tl.constexpr = p_h.dtype.element_ty
    stop = real_rows(p_count, num_rows)
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_u = i_u < stop
    if tl.program_id(0) * BLOCK_U >= stop:
        p_zero = p_h + i_u.to(tl.int64)[:, None] * DIM + i_d[None, :]
        m_zero = (i_u < num_rows)[:, None] & (i_d < DIM)[None, :]
        tl.store(p_zero, tl.zeros([BLOCK_U, BLOCK_D], COMPUTE), mask=m_zero)
        return
    m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    p_own = p_memory + table_rows(p_memory_rows, i_u, m_u)[:, None] * MEMORY_STRIDE
    p_weight = p_packed + (tl.program_id(1) * BLOCK_D * 4 + tl.arange(0, 4 * BLOCK_D))[None, :] * DEPTH
    b_gates = message_product(
        tl.zeros([BLOCK_U, 4 * BLOCK_D], COMPUTE), p_own, p_partner, p_partner_rows, p_features, p_feature_rows,
        p_deltas, p_frequency, p_phase, p_weight, p_message, i_u, stop, m_u, m_mail, DIM, PARTNER, FEATURES, TIME,
        PARTNER_STRIDE, FEATURE_STRIDE, SELF, MATE, EVENT, TIMES, SAVE, PRECISION, BLOCK_K,
    )  # fmt: skip
    even, odd = tl.split(tl.reshape(b_gates, [BLOCK_U, 2 * BLOCK_D, 2]))
    b_r, b_n = tl.split(tl.reshape(even, [BLOCK_U, BLOCK_D, 2]))
    b_z, b_hidden = tl.split(tl.reshape(odd, [BLOCK_U, BLOCK_D, 2]))
    b_m = tl.load(p_own + i_d[None, :], mask=m_u[:, None] & (i_d < DIM)[None, :], other=0.0).to(COMPUTE)
    write_gated(
        b_r, b_z, b_n, b_hidden, b_m, p_bias_ih, p_bias_hh, p_h, p_joint, p_hidden_n, i_u, i_d, i_u < num_rows, m_u,
        m_mail, DIM, KEEP, SAVE,
    )  # fmt: skip


def launch_fused(of: MemoryGRU, save: bool) -> Updated:
    """`memory_gru` by two kernels."""
    out = empty_updated(of, save)
    launch_update(fused_gru_kernel, of, 4, out, save)
    return out
