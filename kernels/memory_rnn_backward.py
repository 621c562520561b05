"""The backward pass of `memory_rnn`: gradients of weights, biases, fetched rows and time encoder."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.launch import Config, cdiv, kernel, on_triton, pow2, tl
from mspipe_triton.kernels.time_encoding import encode_time_backward
from mspipe_triton.kernels.updater_backward import empty_updater_gradients, launch_updater_backward


def memory_rnn_backward_reference(
    grad: torch.Tensor, h: torch.Tensor, message: torch.Tensor, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """`memory_rnn_backward` in torch."""
    dim = h.shape[1]
    if count is not None:
        valid = torch.arange(grad.shape[0], device=grad.device) < count
        grad, deltas = torch.where(valid.unsqueeze(1), grad, 0.0), torch.where(valid, deltas, 0.0)
    without = rows_without(has_mail)
    d_sum = torch.ops.aten.tanh_backward(grad, h)
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
    d_rows, d_frequency, d_phase = (grad.new_empty(0) for _ in range(3))
    if needs_rows:
        d_rows = d_sum @ merged(weight_ih, weight_hh)
        if without is not None:
            d_own = grad.index_select(0, without) if keep else d_alone @ weight_hh
            d_rows[:, :dim].index_copy_(0, without, d_own)
    if needs_time:
        d_time = d_sum @ weight_ih[:, -frequency.numel() :]
        d_frequency, d_phase = encode_time_backward(d_time, deltas.to(d_time.dtype), frequency, phase)
    return [d_weight_ih, d_weight_hh, d_bias, d_bias.clone(), d_rows, d_frequency, d_phase]


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


def launch_memory_rnn_backward(
    grad: torch.Tensor, h: torch.Tensor, message: torch.Tensor, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """`memory_rnn_backward` by kernels: through tanh, then what the updaters share."""
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    rows, dim = h.shape
    d_sum, own = grad.new_empty(rows, dim), grad.new_empty(rows, dim) if keep and needs_rows else None
    config = tanh_backward_kernel.config()
    tanh_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, grad, h, has_mail, count, d_sum, own, rows, grad.stride(0),
        DIM=dim, KEEP=keep, BLOCK_D=pow2(dim),
    )  # fmt: skip
    return launch_updater_backward(
        d_sum, own, message, deltas, has_mail, frequency, phase, weight_ih, weight_hh, count, needs_rows, needs_time
    )


@torch.library.custom_op("mspipe_triton::memory_rnn_backward", mutates_args=())
def memory_rnn_backward(
    grad: torch.Tensor, h: torch.Tensor, message: torch.Tensor, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of weight_ih, weight_hh, bias_ih, bias_hh, and if needed of the fetched rows [U, X], frequency, phase.

    Args:
        grad: of h [U, D]. h, message: as the forward pass left and saved them.
        others: as `memory_rnn` has them.
        needs_rows, needs_time: what is not needed comes back empty.
    """
    run = launch_memory_rnn_backward if on_triton(grad) else memory_rnn_backward_reference
    return run(
        grad, h, message, deltas, has_mail, frequency, phase, weight_ih, weight_hh, count, keep, needs_rows, needs_time
    )


@memory_rnn_backward.register_fake
def _(
    grad: torch.Tensor, h: torch.Tensor, message: torch.Tensor, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    return empty_updater_gradients(message, frequency, weight_ih, weight_hh, needs_rows, needs_time)


refuse_second_derivative(memory_rnn_backward)
