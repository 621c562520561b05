"""JODIE's memory update in one operation: row fetch, messages from a compact mailbox, time encoding, RNN cell."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.time_encoding import encode_time
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import real_rows
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import Backward, Gradients, differentiable
from mspipe_triton.kernels.updaters.backward import launch_gradients, table_gradients, time_gradients, valid_gradient
from mspipe_triton.kernels.updaters.inputs import LEAVES, TABLES, check_updater, read_rows
from mspipe_triton.kernels.updaters.product import ROW_CONFIGS, launch_update, message_product, table_rows, tanh


class MemoryRNN(NamedTuple):
    """h(u) = RNN(mail(u), memory(u)) for U nodes, the memory update of JODIE (Kumar et al., 2019) in the form of TGN.

    For rows m, p, e of the memory, partner and feature tables, and x = [m ‖ p ‖ e ‖ φ(Δt)] with mail, 0 without:

        h = tanh(W_i x + b_i + W_h m + b_h)

    The mail's self part is the node's own memory row (the compact mailbox), so W_h and the self block of W_i act on
    the same row: their sum is computed once per call, for a single product.

    Args:
        memory: table [·, D]; partner: table [·, D]; features: table [·, E], E may be 0. Any row stride; float32,
            float64 or bfloat16 each; on the device of the weights or in pinned host memory.
        memory_rows, partner_rows, feature_rows: [U] integer rows to read, or None if the table has one row per
            node. A negative row is read as row 0; its node must have no mail or be beyond `count`.
        deltas: [U] floating, mail time − memory time, subtracted by the caller before rounding.
        has_mail: [U] bool.
        frequency, phase: [T], of the time encoder.
        weight_ih [D, 2D + E + T], weight_hh [D, D], bias_ih [D], bias_hh [D]: torch.nn.RNNCell's; float32 or float64,
            which is also the dtype of the computation.
        empty: "update" runs the cell on the zero message for a node without mail, "keep" returns its memory row.
        count: [1] integer on the device, the number of real nodes, which come first; None for all. h is 0 beyond it.

    Returns:
        h [U, D]. Nothing is mutated. Differentiable in the weights, the biases, frequency, phase and the three tables;
        the backward pass reads h and rows that the forward pass saved, so the tables may change in between.

    Raises:
        ValueError: an unknown `empty`, widths do not add up, a wrong dtype, layout or device; with
            debugging on, a row outside its table.
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


class Updated(NamedTuple):
    """h [U, D] and, if a backward pass will follow, message [U, X]."""

    h: torch.Tensor
    message: torch.Tensor


def _reference(args: MemoryRNN, save: bool) -> Updated:
    edges = read_rows(args.features, args.feature_rows) if args.features.shape[1] else None
    memory, partner = read_rows(args.memory, args.memory_rows), read_rows(args.partner, args.partner_rows)
    message = _message(memory, partner, edges, args.deltas, args.frequency, args.phase)
    if args.count is not None:
        valid = (torch.arange(args.has_mail.numel(), device=args.has_mail.device) < args.count).unsqueeze(1)
        message = torch.where(valid, message, 0.0)
    bias = args.bias_ih + args.bias_hh
    h = torch.addmm(bias, message, _merge_weights(args.weight_ih, args.weight_hh).t())
    no_mail = _nodes_without_mail(args.has_mail)
    if no_mail is not None:
        no_mail_memory = message[:, : args.memory.shape[1]].index_select(0, no_mail)
        h.index_copy_(0, no_mail, torch.addmm(bias, no_mail_memory, args.weight_hh.t()))
    h.tanh_()
    if no_mail is not None and args.empty == "keep":
        h.index_copy_(0, no_mail, no_mail_memory)
    if args.count is not None:
        h = torch.where(valid, h, 0.0)
    return Updated(h, message if save else h.new_empty(0))


@fused("frequency", "phase")
def _message(
    memory: torch.Tensor, partner: torch.Tensor, edges: torch.Tensor | None, deltas: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """[m ‖ p ‖ e ‖ φ(Δt)] of every node, with mail or without."""
    parts = [memory, partner, *([] if edges is None else [edges]), encode_time(deltas, frequency, phase)]
    return torch.cat([part.to(frequency.dtype) for part in parts], 1)


def _backward(args: MemoryRNN, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    dim, message, keep = out.h.shape[1], out.message, args.empty == "keep"
    d_h, deltas = valid_gradient(args, grad.h)
    no_mail = _nodes_without_mail(args.has_mail)
    d_sum = torch.ops.aten.tanh_backward(d_h, out.h)
    if no_mail is not None and keep:
        d_sum.index_fill_(0, no_mail, 0.0)
    d_bias = d_sum.sum(0)
    if no_mail is None:
        d_weight_ih = d_sum.t() @ message
        d_weight_hh = d_weight_ih[:, :dim].clone()
    else:
        d_no_mail = d_sum.index_select(0, no_mail)
        d_sum.index_fill_(0, no_mail, 0.0)  # their message counts as 0, whatever `message` has
        d_weight_ih = d_sum.t() @ message
        d_weight_hh = torch.addmm(d_weight_ih[:, :dim], d_no_mail.t(), message[:, :dim].index_select(0, no_mail))
    gradients = {"weight_ih": d_weight_ih, "weight_hh": d_weight_hh, "bias_ih": d_bias, "bias_hh": d_bias.clone()}
    if needs.intersection(TABLES):
        d_rows = d_sum @ _merge_weights(args.weight_ih, args.weight_hh)
        if no_mail is not None:
            d_own = d_h.index_select(0, no_mail) if keep else d_no_mail @ args.weight_hh
            d_rows[:, :dim].index_copy_(0, no_mail, d_own)
        gradients |= table_gradients(args, d_rows, needs)
    return gradients | time_gradients(args, d_sum, deltas, needs)


def _merge_weights(weight_ih: torch.Tensor, weight_hh: torch.Tensor) -> torch.Tensor:
    """W_i with W_h added to its self block; both act on the same row of a node with mail."""
    weight = weight_ih.clone()
    weight[:, : weight_hh.shape[1]].add_(weight_hh)
    return weight


def _nodes_without_mail(has_mail: torch.Tensor) -> torch.Tensor | None:
    """Indices of the nodes without mail, or None if all have mail."""
    return None if bool(has_mail.all()) else (~has_mail).nonzero().squeeze(1)


@kernel(
    Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 64, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_D": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space=spaces.UPDATER,
    ieee=[Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def fused_rnn_kernel(
    p_memory, p_memory_rows, p_partner, p_partner_rows, p_features, p_feature_rows, p_deltas, p_has_mail,
    p_frequency, p_phase, p_packed, p_bias_ih, p_bias_hh, p_count, p_h, p_message, num_rows,
    DIM: tl.constexpr, PARTNER: tl.constexpr, FEATURES: tl.constexpr, TIME: tl.constexpr,
    MEMORY_STRIDE: tl.constexpr, PARTNER_STRIDE: tl.constexpr, FEATURE_STRIDE: tl.constexpr, SELF: tl.constexpr,
    MATE: tl.constexpr, EVENT: tl.constexpr, TIMES: tl.constexpr, DEPTH: tl.constexpr, KEEP: tl.constexpr,
    SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h = tanh([x ‖ m'] W + b_i + b_h) for BLOCK_U nodes and BLOCK_D outputs; 0 beyond the count."""
    COMPUTE: tl.constexpr = p_h.dtype.element_ty
    stop = real_rows(p_count, num_rows)
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_u, m_d = i_u < stop, i_d < DIM
    p_out = p_h + i_u.to(tl.int64)[:, None] * DIM + i_d[None, :]
    m_out = (i_u < num_rows)[:, None] & m_d[None, :]
    if tl.program_id(0) * BLOCK_U >= stop:
        tl.store(p_out, tl.zeros([BLOCK_U, BLOCK_D], COMPUTE), mask=m_out)
        return
    m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    p_own = p_memory + table_rows(p_memory_rows, i_u, m_u)[:, None] * MEMORY_STRIDE
    b_sum = message_product(
        tl.zeros([BLOCK_U, BLOCK_D], COMPUTE), p_own, p_partner, p_partner_rows, p_features, p_feature_rows,
        p_deltas, p_frequency, p_phase, p_packed + i_d[None, :] * DEPTH, p_message, i_u, stop, m_u, m_mail,
        DIM, PARTNER, FEATURES, TIME, PARTNER_STRIDE, FEATURE_STRIDE, SELF, MATE, EVENT, TIMES, SAVE, PRECISION,
        BLOCK_K,
    )  # fmt: skip
    b_bias = tl.load(p_bias_ih + i_d, mask=m_d, other=0.0) + tl.load(p_bias_hh + i_d, mask=m_d, other=0.0)
    b_h = tanh(b_sum + b_bias[None, :])
    if KEEP:
        m_kept = (m_u & (m_mail == 0))[:, None] & m_d[None, :]
        b_m = tl.load(p_own + i_d[None, :], mask=m_kept, other=0.0).to(COMPUTE)
        b_h = tl.where(m_mail[:, None], b_h, b_m)
    tl.store(p_out, tl.where(m_u[:, None], b_h, 0.0), mask=m_out)


@kernel(*ROW_CONFIGS, space=spaces.ROWS)
def tanh_backward_kernel(
    p_grad, p_h, p_has_mail, p_count, p_sum, p_own, num_rows, grad_stride,
    DIM: tl.constexpr, KEEP: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """d = g (1 − h²) [U, D], the gradient of tanh's argument; 0 beyond the count.

    With KEEP, nodes without mail get d = 0, and their g is written to `p_own` as the gradient of their memory.
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


def _launch(args: MemoryRNN, save: bool) -> Updated:
    out = _empty(args, save)
    launch_update(fused_rnn_kernel, args, 1, out, save)
    return out


def _launch_backward(args: MemoryRNN, out: Updated, grad: Updated, needs: frozenset[str]) -> Gradients:
    """Launch the backward pass of tanh, then the part that the updaters share."""
    d_h = grad.h if grad.h.stride(1) == 1 else grad.h.contiguous()
    (rows, dim), keep = out.h.shape, args.empty == "keep"
    d_sum, d_own = d_h.new_empty(rows, dim), d_h.new_empty(rows, dim) if keep and needs.intersection(TABLES) else None
    config = tanh_backward_kernel.config()
    tanh_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, d_h, out.h, args.has_mail, args.count, d_sum, d_own, rows,
        d_h.stride(0), DIM=dim, KEEP=keep, BLOCK_D=pow2(dim),
    )  # fmt: skip
    return launch_gradients(args, out.message, d_sum, d_own, needs)


def _empty(args: MemoryRNN, save: bool) -> Updated:
    """Allocate the outputs."""
    (out, width), rows = args.weight_ih.shape, args.has_mail.numel()
    return Updated(args.weight_ih.new_empty(rows, out), args.weight_ih.new_empty((rows, width) if save else 0))


def _check(args: MemoryRNN) -> None:
    check_updater("memory_rnn", 1, args)


memory_rnn = differentiable(
    "memory_rnn", MemoryRNN, reference=_reference, launch=_launch, fake=_empty, check=_check, on="weight_ih",
    returns=lambda out: out.h, backward=Backward(_backward, _launch_backward, LEAVES, forgets=TABLES),
)  # fmt: skip
