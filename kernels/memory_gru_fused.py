"""The fused variant of `memory_gru`: one kernel fetches rows, builds messages, encodes time, multiplies and gates."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.memory_gru_split import empty_updated, table_rows, write_gated
from mspipe_triton.kernels.time_encoding import cos_turns, turns_block

Updated = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@kernel(Config({"BLOCK_ROWS": 16, "BLOCK_DEPTH": 64}), Config({"BLOCK_ROWS": 32, "BLOCK_DEPTH": 32}))
def pack_kernel(
    p_weight_ih, p_weight_hh, p_packed, DIM: tl.constexpr, WIDTH: tl.constexpr, SELF: tl.constexpr,
    MATE: tl.constexpr, EVENT: tl.constexpr, TIMES: tl.constexpr, DEPTH: tl.constexpr, PARTNER: tl.constexpr,
    FEATURES: tl.constexpr, TIME: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """The weights as `fused_gru_kernel` multiplies with them, padded with zeros so that it needs no masks.

    Row 4d + g is gate g (r, z, n, hidden n) of output d; its columns are, each part padded to whole blocks: memory
    with mail (W_i's self block + W_h), partner, features, time, and memory without mail (W_h alone).
    """
    i_row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    i_k = tl.program_id(1) * BLOCK_DEPTH + tl.arange(0, BLOCK_DEPTH)
    i_d, i_gate = i_row // 4, i_row % 4
    m_row = (i_d < DIM)[:, None]
    bare = i_k >= TIMES
    own = (i_k < DIM) | (bare & (i_k < TIMES + DIM))
    column = tl.where(i_k < SELF, i_k, tl.where(i_k < MATE, i_k - SELF, tl.where(i_k < EVENT, i_k - MATE, i_k - EVENT)))
    limit = tl.where(i_k < SELF, DIM, tl.where(i_k < MATE, PARTNER, tl.where(i_k < EVENT, FEATURES, TIME)))
    first = tl.where(i_k < SELF, 0, tl.where(i_k < MATE, DIM, tl.where(i_k < EVENT, DIM + PARTNER, WIDTH - TIME)))
    m_input = m_row & (i_gate < 3)[:, None] & ((column < limit) & ~bare)[None, :]
    m_hidden = m_row & (i_gate != 2)[:, None] & own[None, :]
    o_input = (i_gate * DIM + i_d)[:, None] * WIDTH + (first + column)[None, :]
    o_hidden = (tl.minimum(i_gate, 2) * DIM + i_d)[:, None] * DIM + tl.where(bare, i_k - TIMES, i_k)[None, :]
    b_weight = tl.load(p_weight_ih + o_input, mask=m_input, other=0.0)
    b_weight += tl.load(p_weight_hh + o_hidden, mask=m_hidden, other=0.0)
    tl.store(p_packed + i_row[:, None] * DEPTH + i_k[None, :], b_weight, mask=(i_k < DEPTH)[None, :])


@device_function
def _accumulate(
    b_gates, p_rows, m_rows, p_weight, p_saved, m_saved, WIDTH: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """b_gates + x W for one part x [BLOCK_U, WIDTH] of the message, which is saved on the way."""
    i_k = tl.arange(0, BLOCK_K)
    for k in range(0, WIDTH, BLOCK_K):
        m_k = (k + i_k < WIDTH)[None, :]
        b_x = tl.load(p_rows + (k + i_k)[None, :], mask=m_rows[:, None] & m_k, other=0.0).to(b_gates.dtype)
        if SAVE:
            tl.store(p_saved + (k + i_k)[None, :], b_x, mask=m_saved[:, None] & m_k)
        b_gates = tl.dot(b_x, tl.load(p_weight + (k + i_k)[:, None]), b_gates, input_precision=PRECISION)
    return b_gates


@kernel(
    Config({"BLOCK_U": 64, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    ieee=[Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 16, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
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

    Rows are read where they lie, and φ is computed in registers; the programs of the first outputs save the message.
    Nodes without mail add W_h m in a loop that programs with mail everywhere skip. Rows from the count on become 0.
    """
    COMPUTE: tl.constexpr = p_h.dtype.element_ty
    stop = num_rows
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    i_k = tl.arange(0, BLOCK_K)
    m_u = i_u < stop
    if tl.program_id(0) * BLOCK_U >= stop:
        p_zero = p_h + i_u.to(tl.int64)[:, None] * DIM + i_d[None, :]
        m_zero = (i_u < num_rows)[:, None] & (i_d < DIM)[None, :]
        tl.store(p_zero, tl.zeros([BLOCK_U, BLOCK_D], COMPUTE), mask=m_zero)
        return
    m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    m_bare, m_saved = m_u & (m_mail == 0), i_u < tl.where(tl.program_id(1) == 0, stop, 0)
    p_own = p_memory + table_rows(p_memory_rows, i_u, m_u)[:, None] * MEMORY_STRIDE
    p_weight = p_packed + (tl.program_id(1) * BLOCK_D * 4 + tl.arange(0, 4 * BLOCK_D))[None, :] * DEPTH
    p_saved = p_message + i_u.to(tl.int64)[:, None] * (DIM + PARTNER + FEATURES + TIME)

    b_gates = tl.zeros([BLOCK_U, 4 * BLOCK_D], COMPUTE)
    b_gates = _accumulate(b_gates, p_own, m_mail, p_weight, p_saved, m_saved & m_mail, DIM, SAVE, PRECISION, BLOCK_K)
    p_rows = p_partner + table_rows(p_partner_rows, i_u, m_mail)[:, None] * PARTNER_STRIDE
    p_saved += DIM
    b_gates = _accumulate(b_gates, p_rows, m_mail, p_weight + SELF, p_saved, m_saved, PARTNER, SAVE, PRECISION, BLOCK_K)
    p_saved += PARTNER
    if FEATURES > 0:
        p_rows = p_features + table_rows(p_feature_rows, i_u, m_mail)[:, None] * FEATURE_STRIDE
        b_gates = _accumulate(
            b_gates, p_rows, m_mail, p_weight + MATE, p_saved, m_saved, FEATURES, SAVE, PRECISION, BLOCK_K
        )
        p_saved += FEATURES
    b_delta = tl.load(p_deltas + i_u, mask=m_mail, other=0.0).to(COMPUTE)
    for k in range(0, TIME, BLOCK_K):
        m_k = k + i_k < TIME
        b_x = cos_turns(turns_block(b_delta, p_frequency, p_phase, k + i_k, m_k))
        b_x = tl.where(m_mail[:, None] & m_k[None, :], b_x, 0.0)
        if SAVE:
            tl.store(p_saved + (k + i_k)[None, :], b_x, mask=m_saved[:, None] & m_k[None, :])
        b_gates = tl.dot(b_x, tl.load(p_weight + EVENT + (k + i_k)[:, None]), b_gates, input_precision=PRECISION)
    if tl.max(m_bare.to(tl.int32), 0) > 0:
        p_saved = p_message + i_u.to(tl.int64)[:, None] * (DIM + PARTNER + FEATURES + TIME)
        b_gates = _accumulate(
            b_gates, p_own, m_bare, p_weight + TIMES, p_saved, m_saved & m_bare, DIM, SAVE, PRECISION, BLOCK_K
        )

    even, odd = tl.split(tl.reshape(b_gates, [BLOCK_U, 2 * BLOCK_D, 2]))
    b_r, b_n = tl.split(tl.reshape(even, [BLOCK_U, BLOCK_D, 2]))
    b_z, b_hidden = tl.split(tl.reshape(odd, [BLOCK_U, BLOCK_D, 2]))
    b_m = tl.load(p_own + i_d[None, :], mask=m_u[:, None] & (i_d < DIM)[None, :], other=0.0).to(COMPUTE)
    write_gated(
        b_r, b_z, b_n, b_hidden, b_m, p_bias_ih, p_bias_hh, p_h, p_joint, p_hidden_n, i_u, i_d, i_u < num_rows, m_u,
        m_mail, DIM, KEEP, SAVE,
    )  # fmt: skip


def launch_memory_gru_fused(
    memory: torch.Tensor, memory_rows: torch.Tensor | None, partner: torch.Tensor, partner_rows: torch.Tensor | None,
    features: torch.Tensor, feature_rows: torch.Tensor | None, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    bias_ih: torch.Tensor, bias_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, save: bool,
) -> Updated:  # fmt: skip
    """`memory_gru` by two kernels: the weights are packed, then everything else is one launch."""
    precision = input_precision(weight_ih.dtype)
    config = fused_gru_kernel.config(arithmetic(weight_ih.dtype))
    widths = memory.shape[1], partner.shape[1], features.shape[1], frequency.numel()
    starts = [0]
    for width in (*widths, widths[0]):
        starts.append(starts[-1] + cdiv(width, config["BLOCK_K"]) * config["BLOCK_K"])
    _, own, mate, event, times, depth = starts
    parts = {"SELF": own, "MATE": mate, "EVENT": event, "TIMES": times, "DEPTH": depth}
    sizes = dict(zip(("DIM", "PARTNER", "FEATURES", "TIME"), widths, strict=True))
    rows = 4 * cdiv(widths[0], config["BLOCK_D"]) * config["BLOCK_D"]
    packed = weight_ih.new_empty(rows, depth)
    packing = pack_kernel.config()
    pack_kernel.launch(
        (cdiv(rows, packing["BLOCK_ROWS"]), cdiv(depth, packing["BLOCK_DEPTH"])), packing,
        weight_ih, weight_hh, packed, WIDTH=sum(widths), **sizes, **parts,
    )  # fmt: skip
    out = empty_updated(has_mail.numel(), widths, weight_ih, save)
    fused_gru_kernel.launch(
        (cdiv(has_mail.numel(), config["BLOCK_U"]), cdiv(widths[0], config["BLOCK_D"])), config,
        memory, memory_rows, partner, partner_rows, features, feature_rows, deltas, has_mail, frequency, phase,
        packed, bias_ih, bias_hh, count, *out, has_mail.numel(), MEMORY_STRIDE=memory.stride(0),
        PARTNER_STRIDE=partner.stride(0), FEATURE_STRIDE=features.stride(0), KEEP=keep, SAVE=save,
        PRECISION=precision, **sizes, **parts,
    )  # fmt: skip
    return out
