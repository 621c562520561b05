"""The backward pass of `memory_gru`: gradients of weights, biases, tables and time encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.operation import Backward, Gradients
from mspipe_triton.kernels.updater_backward import launch_updater_backward
from mspipe_triton.kernels.updater_inputs import LEAVES, TABLES, table_gradients, time_gradients, valid_gradient
from mspipe_triton.kernels.updater_product import tanh

if TYPE_CHECKING:
    from mspipe_triton.kernels.memory_gru import MemoryGRU
    from mspipe_triton.kernels.memory_gru_split import Updated


def _reference(of: MemoryGRU, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    dim, message, keep = out.hidden_n.shape[1], out.message, of.empty == "keep"
    gates, memory = 2 * dim, message[:, :dim]
    without = (~of.has_mail).nonzero().squeeze(1)
    d_h, deltas = valid_gradient(of, grad.h)
    d_joint, d_hidden_n, d_own = _gates_backward(
        d_h.index_fill(0, without, 0.0) if keep else d_h, out.joint, out.hidden_n, memory
    )
    d_bias_ih = d_joint.sum(0)
    d_bias_hh = torch.cat([d_bias_ih[:gates], d_hidden_n.sum(0)])
    d_alone = d_joint[:, :gates].index_select(0, without)
    d_joint.index_fill_(0, without, 0.0)  # their message is 0, whatever `message` holds
    d_weight_ih = d_joint.t() @ message
    d_weight_hh = torch.cat([d_weight_ih[:gates, :dim], d_hidden_n.t() @ memory])
    d_weight_hh[:gates] += d_alone.t() @ memory.index_select(0, without)
    gradients = {"weight_ih": d_weight_ih, "weight_hh": d_weight_hh, "bias_ih": d_bias_ih, "bias_hh": d_bias_hh}
    if needs.intersection(TABLES):
        d_rows = d_joint @ of.weight_ih
        d_rows[:, :dim] += torch.cat([d_joint[:, :gates], d_hidden_n], 1) @ of.weight_hh + d_own
        d_rows[:, :dim].index_add_(0, without, d_alone @ of.weight_hh[:gates])
        if keep:
            d_rows[:, :dim].index_copy_(0, without, d_h.index_select(0, without))
        gradients |= table_gradients(of, d_rows, needs)
    return gradients | time_gradients(of, d_joint, deltas, needs)


@fused()
def _gates_backward(
    grad: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the joint products [U, 3D], of W_hn m + b_hn [U, D] and, directly, of the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    r, z = torch.sigmoid(reset), torch.sigmoid(update)
    n = torch.tanh(new + r * hidden_n)
    d_new = grad * (1 - z) * (1 - n * n)
    d_update = grad * (memory - n) * z * (1 - z)
    return torch.cat([d_new * hidden_n * r * (1 - r), d_update, d_new], 1), d_new * r, grad * z


@kernel(
    Config({"BLOCK_U": 8}, num_warps=4),
    Config({"BLOCK_U": 4}, num_warps=2),
    Config({"BLOCK_U": 16}, num_warps=8),
)
def gates_backward_kernel(
    p_grad, p_message, p_joint, p_hidden_n, p_has_mail, p_count, p_gates, p_own, num_rows, grad_stride,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KEEP: tl.constexpr, OWN: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Gradients [U, 4D] of the four gates' sums, and ∂h/∂m along the direct path [U, D]; 0 from the count on.

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


def _launch(of: MemoryGRU, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    """The gates, then what the updaters share."""
    d_h = grad.h if grad.h.stride(1) == 1 else grad.h.contiguous()
    (rows, dim), own = out.hidden_n.shape, bool(needs.intersection(TABLES))
    d_gates, d_own = d_h.new_empty(rows, 4 * dim), d_h.new_empty(rows if own else 0, dim)
    config = gates_backward_kernel.config()
    gates_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, d_h, out.message, out.joint, out.hidden_n, of.has_mail, of.count,
        d_gates, d_own, rows, d_h.stride(0), DIM=dim, WIDTH=out.message.shape[1], KEEP=of.empty == "keep", OWN=own,
        BLOCK_D=pow2(dim),
    )  # fmt: skip
    return launch_updater_backward(of, out.message, d_gates, d_own, needs)


BACKWARD = Backward(_reference, _launch, leaves=LEAVES, forgets=(*TABLES, "h"))
