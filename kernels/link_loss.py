"""Scores and loss of link prediction in one operation: the predictor's products, ReLU, scores, cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid

from mspipe_triton.kernels.checks import (
    COMPUTED,
    INTEGERS,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_same_dtype,
    check_shape,
)  # fmt: skip
from mspipe_triton.kernels.eager import differentiable, eager, eager_backward
from mspipe_triton.kernels.launch import (
    Config,
    add_product,
    arithmetic,
    cdiv,
    device_function,
    input_precision,
    kernel,
    on_triton,
    tl,
)  # fmt: skip
from mspipe_triton.kernels.link_loss_backward import (
    link_loss_backward,
    link_loss_backward_reference,
    real_events,
    real_part,
)

_NAME = "link_loss"
Scored = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def link_loss_reference(
    embedded: torch.Tensor, count: torch.Tensor | None, weight_src: torch.Tensor, bias_src: torch.Tensor,
    weight_dst: torch.Tensor, bias_dst: torch.Tensor, weight_out: torch.Tensor, bias_out: torch.Tensor, save: bool,
) -> Scored:  # fmt: skip
    """`link_loss` in torch: loss, scores, and for the backward pass the hidden rows h⁺, h⁻ [2, B, D]."""
    events, dim = embedded.shape[0] // 3, embedded.shape[1]
    valid, number = real_part(count, events)
    hidden = (embedded[events:] @ weight_dst.t()).view(2, events, dim)
    hidden += torch.addmm(bias_src + bias_dst, embedded[:events], weight_src.t())
    hidden.relu_()
    scores = torch.mv(hidden.view(-1, dim), weight_out[0]).add_(bias_out).view(2, events)
    gains = logsigmoid(scores[0]) + logsigmoid(-scores[1])
    if valid is not None:
        scores, gains = torch.where(valid, scores, 0.0), torch.where(valid, gains, 0.0)
    return -gains.sum() / number, scores, hidden if save else hidden.new_empty(0)


@kernel(
    Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 64, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    ieee=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def link_scores_kernel(
    p_embedded, p_count, p_weight_src, p_bias_src, p_weight_dst, p_bias_dst, p_weight_out, p_partial, p_hidden, events,
    DIM: tl.constexpr, STRIDE: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h± = ReLU(W_src z_src + b_src + W_dst z± + b_dst) of BLOCK_U real events and BLOCK_D hidden numbers, and their
    share w_out · h± of the scores, [tiles of D, 2, B]; W_src z_src is computed once for both."""
    stop = real_events(p_count, events)
    if tl.program_id(0) * BLOCK_U >= stop:
        return
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_u, m_d, o_u, ahead = i_u < stop, i_d < DIM, i_u.to(tl.int64), tl.cast(events, tl.int64)
    p_row, o_weight = p_embedded + o_u[:, None] * STRIDE, i_d[None, :] * DIM
    b_pos = tl.zeros([BLOCK_U, BLOCK_D], p_partial.dtype.element_ty)
    for k in range(0, DIM, BLOCK_K):
        i_k = k + tl.arange(0, BLOCK_K)
        m_row, m_weight = m_u[:, None] & (i_k < DIM)[None, :], (i_k < DIM)[:, None] & m_d[None, :]
        b_w = tl.load(p_weight_src + o_weight + i_k[:, None], mask=m_weight, other=0.0)
        b_z = tl.load(p_row + i_k[None, :], mask=m_row, other=0.0)
        b_pos = add_product(b_pos, b_z, b_w, PRECISION)
    b_neg = b_pos
    for k in range(0, DIM, BLOCK_K):
        i_k = k + tl.arange(0, BLOCK_K)
        m_row, m_weight = m_u[:, None] & (i_k < DIM)[None, :], (i_k < DIM)[:, None] & m_d[None, :]
        b_w = tl.load(p_weight_dst + o_weight + i_k[:, None], mask=m_weight, other=0.0)
        p_z = p_row + ahead * STRIDE + i_k[None, :]
        b_pos = add_product(b_pos, tl.load(p_z, mask=m_row, other=0.0), b_w, PRECISION)
        b_z = tl.load(p_z + ahead * STRIDE, mask=m_row, other=0.0)
        b_neg = add_product(b_neg, b_z, b_w, PRECISION)
    b_bias = tl.load(p_bias_src + i_d, mask=m_d, other=0.0) + tl.load(p_bias_dst + i_d, mask=m_d, other=0.0)
    b_pos, b_neg = b_pos + b_bias[None, :], b_neg + b_bias[None, :]
    b_pos, b_neg = tl.where(b_pos < 0, 0.0, b_pos), tl.where(b_neg < 0, 0.0, b_neg)  # NaN stays what it is
    if SAVE:
        p_own, m_own = p_hidden + o_u[:, None] * DIM + i_d[None, :], m_u[:, None] & m_d[None, :]
        tl.store(p_own, b_pos, mask=m_own)
        tl.store(p_own + ahead * DIM, b_neg, mask=m_own)
    b_out = tl.load(p_weight_out + i_d, mask=m_d, other=0.0)[None, :]
    p_score = p_partial + 2 * tl.program_id(1) * ahead + i_u
    tl.store(p_score, tl.sum(b_pos * b_out, 1), mask=m_u)
    tl.store(p_score + ahead, tl.sum(b_neg * b_out, 1), mask=m_u)


@kernel(Config({"BLOCK": 1024}, num_warps=8), Config({"BLOCK": 512}, num_warps=4))
def link_loss_kernel(
    p_partial, p_count, p_bias_out, p_scores, p_loss, events, TILES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Scores, the sums of their shares and b_out, 0 from the count on; and loss = (1/n) Σ softplus(−s⁺) +
    softplus(s⁻), 0 where n = 0. One program takes all events, so that the loss is summed in one order."""
    stop, ahead = real_events(p_count, events), tl.cast(events, tl.int64)
    b_bias = tl.load(p_bias_out)
    b_sum = tl.zeros([BLOCK], p_loss.dtype.element_ty)
    for u in range(0, events, BLOCK):
        i_u = u + tl.arange(0, BLOCK)
        m_u, p_share = i_u < stop, p_partial + i_u
        b_pos, b_neg = tl.zeros_like(b_sum) + b_bias, tl.zeros_like(b_sum) + b_bias
        for _ in tl.static_range(TILES):
            b_pos += tl.load(p_share, mask=m_u, other=0.0)
            b_neg += tl.load(p_share + ahead, mask=m_u, other=0.0)
            p_share += 2 * ahead
        b_sum += tl.where(m_u, _softplus(-b_pos) + _softplus(b_neg), 0.0)
        tl.store(p_scores + i_u, tl.where(m_u, b_pos, 0.0), mask=i_u < events)
        tl.store(p_scores + ahead + i_u, tl.where(m_u, b_neg, 0.0), mask=i_u < events)
    tl.store(p_loss, tl.sum(b_sum, 0) / tl.maximum(stop, 1))


@device_function
def _softplus(x):
    """log(1 + eˣ) = max(x, 0) + log(1 + y) with y = e⁻|x|.

    log(1 + y) is taken as log(v) y / (v − 1) of the rounded v = 1 + y, whose error cancels, and y where v is 1.
    """
    y = tl.exp(-tl.abs(x))
    v = 1 + y
    b_log = tl.where(v == 1, y, tl.log(v) * y / tl.where(v == 1, 1.0, v - 1))
    return tl.where(x < 0, 0.0, x) + b_log


def launch_link_loss(
    embedded: torch.Tensor, count: torch.Tensor | None, weight_src: torch.Tensor, bias_src: torch.Tensor,
    weight_dst: torch.Tensor, bias_dst: torch.Tensor, weight_out: torch.Tensor, bias_out: torch.Tensor, save: bool,
) -> Scored:  # fmt: skip
    """`link_loss` by two kernels: hidden rows and shares of the scores, then scores and loss. The same bits in every
    run."""
    loss, scores, hidden = _empty_scored(embedded, save)
    events, dim = scores.shape[1], embedded.shape[1]
    config = link_scores_kernel.config(arithmetic(embedded.dtype))
    tiles = cdiv(dim, config["BLOCK_D"])
    partial = embedded.new_empty(tiles, 2, events)
    link_scores_kernel.launch(
        (cdiv(events, config["BLOCK_U"]), tiles), config,
        embedded, count, weight_src.contiguous(), bias_src, weight_dst.contiguous(), bias_dst, weight_out, partial,
        hidden, events, DIM=dim, STRIDE=embedded.stride(0), SAVE=save, PRECISION=input_precision(embedded.dtype),
    )  # fmt: skip
    link_loss_kernel.launch(
        (1,), link_loss_kernel.config(), partial, count, bias_out, scores, loss, events, TILES=tiles
    )
    return loss, scores, hidden


def _empty_scored(embedded: torch.Tensor, save: bool) -> Scored:
    """Unwritten: loss [], scores [2, B] and, if a backward pass will follow, the hidden rows [2, B, D]."""
    events, dim = embedded.shape[0] // 3, embedded.shape[1]
    hidden = embedded.new_empty((2, events, dim) if save else 0)
    return embedded.new_empty(()), embedded.new_empty(2, events), hidden


@torch.library.custom_op("mspipe_triton::link_loss", mutates_args=())
def _operation(
    embedded: torch.Tensor, count: torch.Tensor | None, weight_src: torch.Tensor, bias_src: torch.Tensor,
    weight_dst: torch.Tensor, bias_dst: torch.Tensor, weight_out: torch.Tensor, bias_out: torch.Tensor, save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = launch_link_loss if on_triton(embedded) else link_loss_reference
    return run(embedded, count, weight_src, bias_src, weight_dst, bias_dst, weight_out, bias_out, save)


@_operation.register_fake
def _(
    embedded: torch.Tensor, count: torch.Tensor | None, weight_src: torch.Tensor, bias_src: torch.Tensor,
    weight_dst: torch.Tensor, bias_dst: torch.Tensor, weight_out: torch.Tensor, bias_out: torch.Tensor, save: bool,
) -> Scored:  # fmt: skip
    return _empty_scored(embedded, save)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Scored) -> None:
    embedded, count, weight_src, _, weight_dst, _, weight_out, *_ = inputs
    ctx.save_for_backward(embedded, count, weight_src, weight_dst, weight_out, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: torch.Tensor | None, *_: None) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    run = link_loss_backward_reference if eager_backward(grad) else link_loss_backward
    d_embedded, *d_weights = run(grad, *ctx.saved_tensors)
    return d_embedded, None, *d_weights, None


_operation.register_autograd(_backward, setup_context=_setup)
_direct = differentiable(link_loss_reference, _setup, _backward)


def _check(
    embedded: torch.Tensor, count: torch.Tensor | None, weight_src: torch.Tensor, bias_src: torch.Tensor,
    weight_dst: torch.Tensor, bias_dst: torch.Tensor, weight_out: torch.Tensor, bias_out: torch.Tensor,
) -> None:  # fmt: skip
    """Refuse what the operation cannot take."""
    weights = {
        "weight_src": weight_src, "bias_src": bias_src, "weight_dst": weight_dst, "bias_dst": bias_dst,
        "weight_out": weight_out, "bias_out": bias_out,
    }  # fmt: skip
    check_dims(_NAME, 2, embedded=embedded)
    rows, dim = embedded.shape
    if rows % 3 or not dim:
        raise ValueError(
            f"{_NAME}: embedded has shape {(rows, dim)}; give three rows an event, of the sources, the destinations "
            "and the negatives, of one number or more"
        )
    shapes = zip(weights.values(), [(dim, dim), (dim,), (dim, dim), (dim,), (1, dim), (1,)], strict=True)
    check_shape(_NAME, count=(count, (1,)), **dict(zip(weights, shapes, strict=True)))
    check_dtype(_NAME, COMPUTED, weight_src=weight_src)
    check_same_dtype(_NAME, **weights, embedded=embedded)
    check_dtype(_NAME, INTEGERS, count=count)
    check_layout(_NAME, embedded=embedded, **weights)
    check_device(_NAME, embedded.device, (), count=count, **weights)
    check_range(_NAME, "count", count, rows // 3 + 1)


def link_loss(
    embedded: torch.Tensor,
    count: torch.Tensor | None,
    weight_src: torch.Tensor,
    bias_src: torch.Tensor,
    weight_dst: torch.Tensor,
    bias_dst: torch.Tensor,
    weight_out: torch.Tensor,
    bias_out: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and loss of a batch of B events by TGN's link predictor (Rossi et al., 2020).

    An event's score s⁺ is that of (src, dst), s⁻ that of (src, negative), of the n events that are real:

        s(a, b) = w_out · ReLU(W_src a + b_src + W_dst b + b_dst) + b_out
        loss = (1/n) Σ_i softplus(−s⁺_i) + softplus(s⁻_i)          (0 where n = 0)

    which is the binary cross-entropy of the positive scores against 1, a mean over events, and that of the negative
    ones against 0. W_src a is computed once for both scores.

    Args:
        embedded: [3B, D], the embeddings of sources, destinations and negatives, one behind the other; any row stride.
        count: [1] integer on the device, how many of the B events are real, which come first; None for all. What
            `embedded` has for the others is not read.
        weight_src, weight_dst [D, D], bias_src, bias_dst [D], weight_out [1, D], bias_out [1]: torch.nn.Linear's;
            float32 or float64, which is also what is computed in, and the dtype of `embedded`.

    Returns:
        loss [] and scores [2, B], the positive ones first, 0 from the count on. Nothing is mutated. The loss is
        differentiable, once, in `embedded` and in all weights and biases; the gradients of rows of events that are not
        real are 0. Scores have no gradient. The same bits in every run.

    Raises:
        ValueError: `embedded` is not three rows an event, a wrong shape, dtype, layout or device; with debugging on, a
            count that is negative or above B.
    """
    weights = (weight_src, bias_src, weight_dst, bias_dst, weight_out, bias_out)
    _check(embedded, count, *weights)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (embedded, *weights))
    run = _direct if eager(embedded) else _operation
    loss, scores, _ = run(embedded, count, *weights, save)
    return loss, scores
