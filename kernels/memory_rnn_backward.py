"""The backward pass of `memory_rnn`: gradients of weights, biases, tables and time encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from mspipe_triton.kernels.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.operation import Backward, Gradients
from mspipe_triton.kernels.updater_backward import launch_updater_backward
from mspipe_triton.kernels.updater_inputs import LEAVES, TABLES, table_gradients, time_gradients, valid_gradient

if TYPE_CHECKING:
    from mspipe_triton.kernels.memory_rnn import MemoryRNN


class Updated(NamedTuple):
    """h [U, D] and, if a backward pass will follow, message [U, X]."""

    h: torch.Tensor
    message: torch.Tensor


def _reference(of: MemoryRNN, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    dim, message, keep = out.h.shape[1], out.message, of.empty == "keep"
    d_h, deltas = valid_gradient(of, grad.h)
    without = rows_without(of.has_mail)
    d_sum = torch.ops.aten.tanh_backward(d_h, out.h)
    if without is not None and keep:
        d_sum.index_fill_(0, without, 0.0)
    d_bias = d_sum.sum(0)
    if without is None:
        d_weight_ih = d_sum.t() @ message
        d_weight_hh = d_weight_ih[:, :dim].clone()
    else:
        d_alone = d_sum.index_select(0, without)
        d_sum.index_fill_(0, without, 0.0)  # their message is 0, whatever `message` holds
        d_weight_ih = d_sum.t() @ message
        d_weight_hh = torch.addmm(d_weight_ih[:, :dim], d_alone.t(), message[:, :dim].index_select(0, without))
    gradients = {"weight_ih": d_weight_ih, "weight_hh": d_weight_hh, "bias_ih": d_bias, "bias_hh": d_bias.clone()}
    if needs.intersection(TABLES):
        d_rows = d_sum @ merged(of.weight_ih, of.weight_hh)
        if without is not None:
            d_own = d_h.index_select(0, without) if keep else d_alone @ of.weight_hh
            d_rows[:, :dim].index_copy_(0, without, d_own)
        gradients |= table_gradients(of, d_rows, needs)
    return gradients | time_gradients(of, d_sum, deltas, needs)


def merged(weight_ih: torch.Tensor, weight_hh: torch.Tensor) -> torch.Tensor:
    """W_i with W_h added to its self block, which act on one row where a node has mail."""
    weight = weight_ih.clone()
    weight[:, : weight_hh.shape[1]].add_(weight_hh)
    return weight


def rows_without(has_mail: torch.Tensor) -> torch.Tensor | None:
    """The nodes without mail, or None where there are none."""
    return None if bool(has_mail.all()) else (~has_mail).nonzero().squeeze(1)


@kernel(
    Config({"BLOCK_U": 8}, num_warps=4),
    Config({"BLOCK_U": 4}, num_warps=2),
    Config({"BLOCK_U": 16}, num_warps=8),
)
def tanh_backward_kernel(
    p_grad, p_h, p_has_mail, p_count, p_sum, p_own, num_rows, grad_stride,
    DIM: tl.constexpr, KEEP: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """d = g (1 − h²) [U, D], the gradient of the sum that tanh is taken of; 0 from the count on.

    Where nodes without mail keep their memory, theirs is 0, and what reaches the memory instead, g, is put down.
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
    b_h = tl.load(p_h + o_u * DIM + i_d[None, :], mask=m_row, other=0.0)
    b_d = b_g * (1 - b_h * b_h)
    if KEEP:
        has_mail = (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)[:, None]
        b_d = tl.where(has_mail, b_d, 0.0)
        if p_own is not None:
            tl.store(p_own + o_u * DIM + i_d[None, :], tl.where(has_mail, 0.0, b_g), mask=m_out)
    tl.store(p_sum + o_u * DIM + i_d[None, :], b_d, mask=m_out)


def _launch(of: MemoryRNN, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    """Through tanh, then what the updaters share."""
    d_h = grad.h if grad.h.stride(1) == 1 else grad.h.contiguous()
    (rows, dim), keep = out.h.shape, of.empty == "keep"
    d_sum, d_own = d_h.new_empty(rows, dim), d_h.new_empty(rows, dim) if keep and needs.intersection(TABLES) else None
    config = tanh_backward_kernel.config()
    tanh_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, d_h, out.h, of.has_mail, of.count, d_sum, d_own, rows, d_h.stride(0),
        DIM=dim, KEEP=keep, BLOCK_D=pow2(dim),
    )  # fmt: skip
    return launch_updater_backward(of, out.message, d_sum, d_own, needs)


BACKWARD = Backward(_reference, _launch, leaves=LEAVES, forgets=TABLES)
