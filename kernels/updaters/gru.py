"""TGN's memory update in one operation: row fetch, messages from a compact mailbox, time encoding, GRU cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.time_encoding import fused_encode_time
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import real_rows
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import VARIANTS_CHOSEN, Config, cdiv, kernel, offer, pow2, tl
from mspipe_triton.kernels.runtime.operation import Backward, Gradients, differentiable
from mspipe_triton.kernels.updaters.backward import launch_gradients, table_gradients, time_gradients, valid_gradient
from mspipe_triton.kernels.updaters.gru_split import launch_split, write_gates
from mspipe_triton.kernels.updaters.inputs import LEAVES, TABLES, check_updater, read_rows
from mspipe_triton.kernels.updaters.product import ROW_CONFIGS, launch_update, message_product, table_rows, tanh


class MemoryGRU(NamedTuple):
    """h(u) = GRU(mail(u), memory(u)) for U nodes, the memory update of TGN (Rossi et al., 2020).

    For rows m, p, e of the memory, partner and feature tables, x = [m ‖ p ‖ e ‖ φ(Δt)] with mail, 0 without, and the
    logistic function σ:

        r = σ(W_ir x + b_ir + W_hr m + b_hr)        n = tanh(W_in x + b_in + r ⊙ (W_hn m + b_hn))
        z = σ(W_iz x + b_iz + W_hz m + b_hz)        h = n + z ⊙ (m − n)

    The mail's self part is the node's own memory row (the compact mailbox), so in r and z, W_h and the self block of
    W_i act on the same row: their sum is computed once per call, for a single product.

    Args:
        memory: table [·, D]; partner: table [·, D]; features: table [·, E], E may be 0. Any row stride; float32,
            float64 or bfloat16 each; on the device of the weights or in pinned host memory.
        memory_rows, partner_rows, feature_rows: [U] integer rows to read, or None if the table has one row per
            node. A negative row is read as row 0; its node must have no mail or be beyond `count`.
        deltas: [U] floating, mail time − memory time, subtracted by the caller before rounding.
        has_mail: [U] bool.
        frequency, phase: [T], of the time encoder.
        weight_ih [3D, 2D + E + T], weight_hh [3D, D], bias_ih [3D], bias_hh [3D]: torch.nn.GRUCell's, gates r, z, n;
            float32 or float64, which is also the dtype of the computation.
        empty: "update" runs the cell on the zero message for a node without mail, "keep" returns its memory row.
        count: [1] integer on the device, the number of real nodes, which come first; None for all. h is 0 beyond it.
        variant: of the kernels, "fused" (one kernel fetches, builds, multiplies and gates) or "split" (a gather, the
            library's products, a gates kernel). Both compute the same; device and shapes decide which is faster. None
            uses the process's default: "fused", or tuning's choice.

    Returns:
        h [U, D]. Nothing is mutated. Differentiable in the weights, the biases, frequency, phase and the three tables;
        the backward pass reads rows that the forward pass saved, so the tables may change in between.

    Raises:
        ValueError: an unknown `empty` or `variant`, widths do not add up, a wrong dtype, layout or device;
            with debugging on, a row outside its table.
    """

    memory: torch.Tensor
    memory_rows: torch.Tensor | None
    partner: torch.Tensor
    partner_rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    has_mail: torch.Tensor
    frequency: torch.Tensor
    phase: torch.Tensor
    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias_ih: torch.Tensor
    bias_hh: torch.Tensor
    empty: str = "update"
    count: torch.Tensor | None = None  # type: ignore[assignment]  # overrides tuple.count
    variant: str | None = None


class Updated(NamedTuple):
    """h [U, D] and, if a backward pass will follow, message [U, X], the joint products [U, 3D] and W_hn m + b_hn."""

    h: torch.Tensor
    message: torch.Tensor
    joint: torch.Tensor
    hidden_n: torch.Tensor


def _reference(args: MemoryGRU, save: bool) -> Updated:
    dim, dtype, has_mail = args.memory.shape[1], args.weight_ih.dtype, args.has_mail
    gates = 2 * dim  # rows of r and z
    memory = read_rows(args.memory, args.memory_rows).to(dtype)
    encoded = fused_encode_time(args.deltas.to(dtype), args.frequency, args.phase)
    partner, features = read_rows(args.partner, args.partner_rows), read_rows(args.features, args.feature_rows)
    message = torch.cat([memory, partner.to(dtype), features.to(dtype), encoded], 1)
    if args.count is not None:
        valid = (torch.arange(has_mail.numel(), device=has_mail.device) < args.count).unsqueeze(1)
        message = torch.where(valid, message, 0.0)
        memory = message[:, :dim]
    no_mail = (~has_mail).nonzero().squeeze(1)
    weight, bias = args.weight_ih.clone(), args.bias_ih.clone()
    weight[:gates, :dim] += args.weight_hh[:gates]
    bias[:gates] += args.bias_hh[:gates]
    joint = torch.addmm(bias, message, weight.t())
    if no_mail.numel():
        no_mail_joint = bias.repeat(no_mail.numel(), 1)
        no_mail_joint[:, :gates] += memory.index_select(0, no_mail) @ args.weight_hh[:gates].t()
        joint.index_copy_(0, no_mail, no_mail_joint)
    hidden_n = torch.addmm(args.bias_hh[gates:], memory, args.weight_hh[gates:].t())
    h = _gates(joint, hidden_n, memory)
    if args.empty == "keep":
        h.index_copy_(0, no_mail, memory.index_select(0, no_mail))
    if args.count is not None:
        h = torch.where(valid, h, 0.0)
    return Updated(h, message, joint, hidden_n) if save else Updated(h, *(h.new_empty(0) for _ in range(3)))


@fused()
def _gates(joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """h [U, D] from the joint products [U, 3D], W_hn m + b_hn [U, D] and the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    n = torch.tanh(new + torch.sigmoid(reset) * hidden_n)
    return n + torch.sigmoid(update) * (memory - n)


def _backward(args: MemoryGRU, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    dim, message, keep = out.hidden_n.shape[1], out.message, args.empty == "keep"
    gates, memory = 2 * dim, message[:, :dim]
    no_mail = (~args.has_mail).nonzero().squeeze(1)
    d_h, deltas = valid_gradient(args, grad.h)
    d_joint, d_hidden_n, d_own = _gates_backward(
        d_h.index_fill(0, no_mail, 0.0) if keep else d_h, out.joint, out.hidden_n, memory
    )
    d_bias_ih = d_joint.sum(0)
    d_bias_hh = torch.cat([d_bias_ih[:gates], d_hidden_n.sum(0)])
    d_no_mail = d_joint[:, :gates].index_select(0, no_mail)
    d_joint.index_fill_(0, no_mail, 0.0)  # their message counts as 0, whatever `message` has
    d_weight_ih = d_joint.t() @ message
    d_weight_hh = torch.cat([d_weight_ih[:gates, :dim], d_hidden_n.t() @ memory])
    d_weight_hh[:gates] += d_no_mail.t() @ memory.index_select(0, no_mail)
    gradients = {"weight_ih": d_weight_ih, "weight_hh": d_weight_hh, "bias_ih": d_bias_ih, "bias_hh": d_bias_hh}
    if needs.intersection(TABLES):
        d_rows = d_joint @ args.weight_ih
        d_rows[:, :dim] += torch.cat([d_joint[:, :gates], d_hidden_n], 1) @ args.weight_hh + d_own
        d_rows[:, :dim].index_add_(0, no_mail, d_no_mail @ args.weight_hh[:gates])
        if keep:
            d_rows[:, :dim].index_copy_(0, no_mail, d_h.index_select(0, no_mail))
        gradients |= table_gradients(args, d_rows, needs)
    return gradients | time_gradients(args, d_joint, deltas, needs)


@fused()
def _gates_backward(
    grad: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the joint products [U, 3D], of W_hn m + b_hn [U, D] and, directly, of memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    r, z = torch.sigmoid(reset), torch.sigmoid(update)
    n = torch.tanh(new + r * hidden_n)
    d_new = grad * (1 - z) * (1 - n * n)
    d_update = grad * (memory - n) * z * (1 - z)
    return torch.cat([d_new * hidden_n * r * (1 - r), d_update, d_new], 1), d_new * r, grad * z


@kernel(
    Config({"BLOCK_U": 64, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space={**spaces.UPDATER, "BLOCK_D": (16, 32, 64)},  # larger blocks compile for half a minute before they fail
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
    """h = n + z ⊙ (m − n) for BLOCK_U nodes and BLOCK_D outputs; all four gates are one product [BLOCK_U, 4 BLOCK_D].

    Rows beyond the count become 0.
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
    write_gates(
        b_r, b_z, b_n, b_hidden, b_m, p_bias_ih, p_bias_hh, p_h, p_joint, p_hidden_n, i_u, i_d, i_u < num_rows, m_u,
        m_mail, DIM, KEEP, SAVE,
    )  # fmt: skip


@kernel(*ROW_CONFIGS, space=spaces.ROWS)
def gates_backward_kernel(
    p_grad, p_message, p_joint, p_hidden_n, p_has_mail, p_count, p_gates, p_own, num_rows, grad_stride,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KEEP: tl.constexpr, OWN: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Gradients [U, 4D] of the four gates' sums, and of m along the direct path [U, D]; 0 beyond the count.

    d_n = g (1 − z)(1 − n²)   d_z = g (m − n) z (1 − z)   d_r = d_n (W_hn m + b_hn) r (1 − r)   d_hn = d_n r
    """
    i_u, i_d = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U), tl.arange(0, BLOCK_D)
    m_u = i_u < num_rows
    m_valid = m_u
    if p_count is not None:
        m_valid = m_u & (i_u < tl.load(p_count))
    m_d = (i_d < DIM)[None, :]
    m_row, m_out = m_valid[:, None] & m_d, m_u[:, None] & m_d
    o_u = i_u.to(tl.int64)[:, None]
    b_g = tl.load(p_grad + o_u * grad_stride + i_d[None, :], mask=m_row, other=0.0)
    b_direct = b_g
    if KEEP:
        has_mail = (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)[:, None]
        b_g = tl.where(has_mail, b_g, 0.0)
    b_m = tl.load(p_message + o_u * WIDTH + i_d[None, :], mask=m_row, other=0.0)
    p_gate = p_joint + o_u * (3 * DIM) + i_d[None, :]
    b_hidden = tl.load(p_hidden_n + o_u * DIM + i_d[None, :], mask=m_row, other=0.0)
    b_r = tl.sigmoid(tl.load(p_gate, mask=m_row, other=0.0))
    b_z = tl.sigmoid(tl.load(p_gate + DIM, mask=m_row, other=0.0))
    b_n = tanh(tl.load(p_gate + 2 * DIM, mask=m_row, other=0.0) + b_r * b_hidden)
    b_dn = b_g * (1 - b_z) * (1 - b_n * b_n)
    p_out = p_gates + o_u * (4 * DIM) + i_d[None, :]
    tl.store(p_out, b_dn * b_hidden * b_r * (1 - b_r), mask=m_out)
    tl.store(p_out + DIM, b_g * (b_m - b_n) * b_z * (1 - b_z), mask=m_out)
    tl.store(p_out + 2 * DIM, b_dn, mask=m_out)
    tl.store(p_out + 3 * DIM, b_dn * b_r, mask=m_out)
    if OWN:
        b_own = b_g * b_z
        if KEEP:
            b_own = tl.where(has_mail, b_own, b_direct)
        tl.store(p_own + o_u * DIM + i_d[None, :], b_own, mask=m_out)


VARIANTS: dict[str, Callable[[MemoryGRU, Updated, bool], None]] = {
    "fused": lambda args, out, save: launch_update(fused_gru_kernel, args, 4, out, save),
    "split": launch_split,
}
offer("memory_gru", *VARIANTS)


def _launch(args: MemoryGRU, save: bool) -> Updated:
    out = _empty(args, save)
    VARIANTS[VARIANTS_CHOSEN["memory_gru"] if args.variant is None else args.variant](args, out, save)
    return out


def _launch_backward(args: MemoryGRU, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    """Launch the gates' backward pass, then the part that the updaters share."""
    d_h = grad.h if grad.h.stride(1) == 1 else grad.h.contiguous()
    (rows, dim), direct = out.hidden_n.shape, bool(needs.intersection(TABLES))
    d_gates, d_own = d_h.new_empty(rows, 4 * dim), d_h.new_empty(rows if direct else 0, dim)
    config = gates_backward_kernel.config()
    gates_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, d_h, out.message, out.joint, out.hidden_n, args.has_mail, args.count,
        d_gates, d_own, rows, d_h.stride(0), DIM=dim, WIDTH=out.message.shape[1], KEEP=args.empty == "keep", OWN=direct,
        BLOCK_D=pow2(dim),
    )  # fmt: skip
    return launch_gradients(args, out.message, d_gates, d_own, needs)


def _empty(args: MemoryGRU, save: bool) -> Updated:
    """Allocate the outputs."""
    dim, rows, like = args.memory.shape[1], args.has_mail.numel(), args.weight_ih
    h = like.new_empty(rows, dim)
    if not save:
        return Updated(h, like.new_empty(0), like.new_empty(0), like.new_empty(0))
    return Updated(h, *(like.new_empty(rows, size) for size in (args.weight_ih.shape[1], 3 * dim, dim)))


def _check(args: MemoryGRU) -> None:
    check_updater("memory_gru", 3, args)
    if args.variant is not None and args.variant not in VARIANTS:
        raise ValueError(f"memory_gru: variant must be 'fused' or 'split', not {args.variant!r}")


memory_gru = differentiable(
    "memory_gru", MemoryGRU, reference=_reference, launch=_launch, fake=_empty, check=_check, on="weight_ih",
    returns=lambda out: out.h, backward=Backward(_backward, _launch_backward, LEAVES, forgets=(*TABLES, "h")),
)  # fmt: skip
