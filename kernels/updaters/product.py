"""The forward pass that the memory updaters share: launch, packed weights, and products of messages with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.numbers.time_encoding import cos_turns, turns_block
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import (
    Config,
    Kernel,
    arithmetic,
    cdiv,
    device_function,
    input_precision,
    kernel,
    tl,
)
from mspipe_triton.kernels.updaters.inputs import flags, message_widths

if TYPE_CHECKING:
    from mspipe_triton.kernels.updaters.inputs import Update

# For kernels that process whole rows of several nodes.
ROW_CONFIGS = (
    Config({"BLOCK_U": 8}, num_warps=4),
    Config({"BLOCK_U": 4}, num_warps=2),
    Config({"BLOCK_U": 16}, num_warps=8),
)


@device_function
def table_rows(p_rows, i_u, m_u):
    """Table rows of a block of nodes, int64: their own indices without `p_rows`, row 0 for a negative one."""
    b_row = i_u.to(tl.int64)
    if p_rows is not None:  # Triton would compile the code after a return here, too
        b_row = tl.maximum(tl.load(p_rows + i_u, mask=m_u, other=0), 0).to(tl.int64)
    return b_row


@device_function
def tanh(x):
    """The hyperbolic tangent: 1 − 2 / (e²ˣ + 1), and x + x³ p(x²) by a minimax polynomial near 0 in float32.

    Near 0 the first form loses digits; farther out its quotient is small, and so are the errors of its terms.
    """
    t = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    t = tl.where(x < 0, -t, t)
    if x.dtype != tl.float64:
        s = x * x
        p = -5.70498872745e-3 * s + 2.06390887954e-2
        p = p * s - 5.37397155531e-2
        p = p * s + 1.33314422036e-1
        p = p * s - 3.33332819422e-1
        t = tl.where(tl.abs(x) < 0.625, x + x * s * p, t)
    return t


@kernel(
    Config({"BLOCK_ROWS": 16, "BLOCK_DEPTH": 64}),
    Config({"BLOCK_ROWS": 32, "BLOCK_DEPTH": 32}),
    space={"BLOCK_ROWS": (8, 16, 32, 64), "BLOCK_DEPTH": (16, 32, 64, 128), **spaces.PLAIN},
)
def pack_kernel(
    p_weight_ih, p_weight_hh, p_packed, DIM: tl.constexpr, PARTNER: tl.constexpr, FEATURES: tl.constexpr,
    TIME: tl.constexpr, SELF: tl.constexpr, MATE: tl.constexpr, EVENT: tl.constexpr, TIMES: tl.constexpr,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr, GATES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """Pack the weights for `message_product`, padded with zeros so that it needs no masks.

    Row GATES·d + g is gate g of output d; a GRU has four (r, z, n, hidden n), an RNN one. The columns' parts, each
    padded to whole blocks, are: memory with mail (W_i's self block + W_h), partner, features, time, and memory
    without mail (W_h alone).
    """
    i_row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    i_k = tl.program_id(1) * BLOCK_DEPTH + tl.arange(0, BLOCK_DEPTH)
    i_d, i_gate = i_row // GATES, i_row % GATES
    m_row = (i_d < DIM)[:, None]
    bare = i_k >= TIMES
    m_self = (i_k < DIM) | (bare & (i_k < TIMES + DIM))
    column = tl.where(i_k < SELF, i_k, tl.where(i_k < MATE, i_k - SELF, tl.where(i_k < EVENT, i_k - MATE, i_k - EVENT)))
    limit = tl.where(i_k < SELF, DIM, tl.where(i_k < MATE, PARTNER, tl.where(i_k < EVENT, FEATURES, TIME)))
    first = tl.where(i_k < SELF, 0, tl.where(i_k < MATE, DIM, tl.where(i_k < EVENT, DIM + PARTNER, WIDTH - TIME)))
    m_input = m_row & (i_gate < 3)[:, None] & ((column < limit) & ~bare)[None, :]
    m_hidden = m_row & (i_gate != 2)[:, None] & m_self[None, :]
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
    """b_gates + x W for one part x [BLOCK_U, WIDTH] of the message; SAVE also writes x."""
    i_k = tl.arange(0, BLOCK_K)
    for k in range(0, WIDTH, BLOCK_K):
        m_k = (k + i_k < WIDTH)[None, :]
        b_x = tl.load(p_rows + (k + i_k)[None, :], mask=m_rows[:, None] & m_k, other=0.0).to(b_gates.dtype)
        if SAVE:
            tl.store(p_saved + (k + i_k)[None, :], b_x, mask=m_saved[:, None] & m_k)
        b_gates = add_product(b_gates, b_x, tl.load(p_weight + (k + i_k)[:, None]), PRECISION)
    return b_gates


@device_function
def message_product(
    b_gates, p_own, p_partner, p_partner_rows, p_features, p_feature_rows, p_deltas, p_frequency, p_phase, p_weight,
    p_message, i_u, stop, m_u, m_mail, DIM: tl.constexpr, PARTNER: tl.constexpr, FEATURES: tl.constexpr,
    TIME: tl.constexpr, PARTNER_STRIDE: tl.constexpr, FEATURE_STRIDE: tl.constexpr, SELF: tl.constexpr,
    MATE: tl.constexpr, EVENT: tl.constexpr, TIMES: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """b_gates + [x ‖ m'] W for a block of nodes and packed W: x = [m ‖ p ‖ e ‖ φ(Δt)] with mail, m' = m without.

    Rows are read in place and φ is computed in registers; the programs of the first outputs save the message. Nodes
    without mail add W_h m in a loop that programs skip if all their nodes have mail.
    """
    i_k = tl.arange(0, BLOCK_K)
    m_bare, m_saved = m_u & (m_mail == 0), i_u < tl.where(tl.program_id(1) == 0, stop, 0)
    p_saved = p_message + i_u.to(tl.int64)[:, None] * (DIM + PARTNER + FEATURES + TIME)
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
    b_delta = tl.load(p_deltas + i_u, mask=m_mail, other=0.0).to(b_gates.dtype)
    for k in range(0, TIME, BLOCK_K):
        m_k = k + i_k < TIME
        b_x = cos_turns(turns_block(b_delta, p_frequency, p_phase, k + i_k, m_k))
        b_x = tl.where(m_mail[:, None] & m_k[None, :], b_x, 0.0)
        if SAVE:
            tl.store(p_saved + (k + i_k)[None, :], b_x, mask=m_saved[:, None] & m_k[None, :])
        b_gates = add_product(b_gates, b_x, tl.load(p_weight + EVENT + (k + i_k)[:, None]), PRECISION)
    if tl.max(m_bare.to(tl.int32), 0) > 0:
        p_saved = p_message + i_u.to(tl.int64)[:, None] * (DIM + PARTNER + FEATURES + TIME)
        b_gates = _accumulate(
            b_gates, p_own, m_bare, p_weight + TIMES, p_saved, m_saved & m_bare, DIM, SAVE, PRECISION, BLOCK_K
        )
    return b_gates


def launch_update(kernel: Kernel, args: Update, gates: int, out: Sequence[torch.Tensor], save: bool) -> None:
    """Launch a memory update into `out`: one kernel packs the weights, `kernel` does everything else.

    Args:
        kernel: the kernel of the cell. gates: the number of gates, 4 for a GRU, 1 for an RNN.
    """
    dtype, rows = args.weight_ih.dtype, args.has_mail.numel()
    config = kernel.config(arithmetic(dtype))
    packed, constants = packed_weights(args, gates, config)
    kernel.launch(
        (cdiv(rows, config["BLOCK_U"]), cdiv(constants["DIM"], config["BLOCK_D"])), config,
        *table_arguments(args), args.deltas, flags(args.has_mail, dtype), args.frequency, args.phase, packed,
        args.bias_ih, args.bias_hh, args.count, *out, rows, **strides(args),
        KEEP=args.empty == "keep", SAVE=save, PRECISION=input_precision(dtype), **constants,
    )  # fmt: skip


def table_arguments(args: Update) -> tuple[torch.Tensor | None, ...]:
    """The tables and their rows, in the order of the kernels' parameters."""
    return args.memory, args.memory_rows, args.partner, args.partner_rows, args.features, args.feature_rows


def strides(args: Update) -> dict[str, int]:
    """The tables' row strides, by their constexpr names in the kernels."""
    tables = {"MEMORY_STRIDE": args.memory, "PARTNER_STRIDE": args.partner, "FEATURE_STRIDE": args.features}
    return {name: table.stride(0) for name, table in tables.items()}


def packed_weights(args: Update, gates: int, config: Config) -> tuple[torch.Tensor, dict[str, int]]:
    """The weights packed for `message_product` by a configuration, and its constants: widths and first columns."""
    widths, starts = message_widths(args), [0]
    dim = widths["DIM"]
    for width in (*widths.values(), dim):
        starts.append(starts[-1] + cdiv(width, config["BLOCK_K"]) * config["BLOCK_K"])
    constants = widths | dict(zip(("SELF", "MATE", "EVENT", "TIMES", "DEPTH"), starts[1:], strict=True))
    packing = pack_kernel.config()
    rows = gates * cdiv(dim, config["BLOCK_D"]) * config["BLOCK_D"]
    blocks = cdiv(rows, packing["BLOCK_ROWS"])
    packed = args.weight_ih.new_empty(blocks * packing["BLOCK_ROWS"], starts[-1])
    pack_kernel.launch(
        (blocks, cdiv(starts[-1], packing["BLOCK_DEPTH"])), packing,
        args.weight_ih, args.weight_hh, packed, WIDTH=sum(widths.values()), GATES=gates, **constants,
    )  # fmt: skip
    return packed, constants
