"""Scores and loss of link prediction in one operation: the predictor's products, ReLU, scores and cross-entropy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from mspipe_triton.kernels.link.backward import BACKWARD, Scored, real_part
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.device import add_product, real_rows
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import differentiable

_NAME = "link_loss"


class LinkLoss(NamedTuple):
    """Scores and loss of a batch of B events by TGN's link predictor (Rossi et al., 2020).

    Each of the n real events has the scores s⁺ = s(src, dst) and s⁻ = s(src, negative):

        s(a, b) = w_out · ReLU(W_src a + b_src + W_dst b + b_dst) + b_out
        loss = (1/n) Σ_i softplus(−s⁺_i) + softplus(s⁻_i)          (0 where n = 0)

    which is the mean binary cross-entropy of the positive scores against 1 plus that of the negative scores against 0.
    W_src a is computed once for both scores.

    Args:
        embedded: [3B, D], the embeddings of sources, then destinations, then negatives; any row stride.
        count: [1] integer on the device, the number of real events, which come first; None for all. Other events' rows
            of `embedded` are not read.
        weight_src, weight_dst [D, D], bias_src, bias_dst [D], weight_out [1, D], bias_out [1]: torch.nn.Linear's;
            float32 or float64, which is also the dtype of `embedded` and of the computation.

    Returns:
        loss [] and scores [2, B], the positive ones first, 0 for events that are not real. Nothing is mutated. The loss
        is differentiable once in `embedded` and in all weights and biases; rows of events that are not real get
        gradient 0. Scores have no gradient. Bitwise the same in every run.

    Raises:
        ValueError: `embedded` does not have three rows per event, a wrong shape, dtype, layout or device; with
            debugging on, a count that is negative or above B.
    """

    embedded: torch.Tensor
    count: torch.Tensor | None  # type: ignore[assignment]  # overrides tuple.count
    weight_src: torch.Tensor
    bias_src: torch.Tensor
    weight_dst: torch.Tensor
    bias_dst: torch.Tensor
    weight_out: torch.Tensor
    bias_out: torch.Tensor


def _reference(args: LinkLoss, save: bool) -> Scored:
    events, dim = args.embedded.shape[0] // 3, args.embedded.shape[1]
    valid, number = real_part(args.count, events)
    hidden = (args.embedded[events:] @ args.weight_dst.t()).view(2, events, dim)
    hidden += torch.addmm(args.bias_src + args.bias_dst, args.embedded[:events], args.weight_src.t())
    hidden.relu_()
    scores = torch.mv(hidden.view(-1, dim), args.weight_out[0]).add_(args.bias_out).view(2, events)
    gains = logsigmoid(scores[0]) + logsigmoid(-scores[1])
    if valid is not None:
        scores, gains = torch.where(valid, scores, 0.0), torch.where(valid, gains, 0.0)
    return Scored(-gains.sum() / number, scores, hidden if save else hidden.new_empty(0))


@kernel(
    Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 64, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space=spaces.UPDATER,
    ieee=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def link_scores_kernel(
    p_embedded, p_count, p_weight_src, p_bias_src, p_weight_dst, p_bias_dst, p_weight_out, p_partial, p_hidden, events,
    DIM: tl.constexpr, STRIDE: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h± = ReLU(W_src z_src + b_src + W_dst z± + b_dst) for BLOCK_U real events and BLOCK_D hidden numbers, and their
    parts w_out · h± of the scores, [tiles of D, 2, B]; W_src z_src is computed once for both."""
    stop = real_rows(p_count, events)
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
    b_pos, b_neg = tl.where(b_pos < 0, 0.0, b_pos), tl.where(b_neg < 0, 0.0, b_neg)  # unlike tl.maximum, keeps NaN
    if SAVE:
        p_own, m_own = p_hidden + o_u[:, None] * DIM + i_d[None, :], m_u[:, None] & m_d[None, :]
        tl.store(p_own, b_pos, mask=m_own)
        tl.store(p_own + ahead * DIM, b_neg, mask=m_own)
    b_out = tl.load(p_weight_out + i_d, mask=m_d, other=0.0)[None, :]
    p_score = p_partial + 2 * tl.program_id(1) * ahead + i_u
    tl.store(p_score, tl.sum(b_pos * b_out, 1), mask=m_u)
    tl.store(p_score + ahead, tl.sum(b_neg * b_out, 1), mask=m_u)


@kernel(
    Config({"BLOCK": 1024}, num_warps=8),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def link_loss_kernel(
    p_partial, p_count, p_bias_out, p_scores, p_loss, events, TILES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Scores as sums of their parts and b_out, 0 for events that are not real; loss = (1/n) Σ softplus(−s⁺) +
    softplus(s⁻), 0 where n = 0. A single program handles all events, so the loss is summed in a fixed order."""
    stop, ahead = real_rows(p_count, events), tl.cast(events, tl.int64)
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

    log(1 + y) is computed as log(v) y / (v − 1) with the rounded v = 1 + y, whose error cancels, or y if v is 1.
    """
    y = tl.exp(-tl.abs(x))
    v = 1 + y
    b_log = tl.where(v == 1, y, tl.log(v) * y / tl.where(v == 1, 1.0, v - 1))
    return tl.where(x < 0, 0.0, x) + b_log


def _launch(args: LinkLoss, save: bool) -> Scored:
    """Launch two kernels: hidden rows and parts of the scores, then scores and loss. Bitwise the same in every run."""
    out, embedded = _empty(args, save), args.embedded
    events, dim = out.scores.shape[1], embedded.shape[1]
    config = link_scores_kernel.config(arithmetic(embedded.dtype))
    tiles = cdiv(dim, config["BLOCK_D"])
    partial = embedded.new_empty(tiles, 2, events)
    link_scores_kernel.launch(
        (cdiv(events, config["BLOCK_U"]), tiles), config,
        embedded, args.count, args.weight_src.contiguous(), args.bias_src, args.weight_dst.contiguous(), args.bias_dst,
        args.weight_out, partial, out.hidden, events, DIM=dim, STRIDE=embedded.stride(0), SAVE=save,
        PRECISION=input_precision(embedded.dtype),
    )  # fmt: skip
    link_loss_kernel.launch(
        (1,), link_loss_kernel.config(), partial, args.count, args.bias_out, out.scores, out.loss, events, TILES=tiles
    )
    return out


def _empty(args: LinkLoss, save: bool) -> Scored:
    """Allocate the outputs."""
    events, dim, new = args.embedded.shape[0] // 3, args.embedded.shape[1], args.embedded.new_empty
    return Scored(new(()), new(2, events), new((2, events, dim) if save else 0))


def _check(args: LinkLoss) -> None:
    weights = checks.named(args, *args._fields[2:])
    checks.dims(_NAME, 2, embedded=args.embedded)
    rows, dim = args.embedded.shape
    if rows % 3 or not dim:
        raise ValueError(
            f"{_NAME}: embedded has shape {(rows, dim)}; give three rows per event (sources, destinations, negatives), "
            "with at least one column"
        )
    shapes = zip(weights.values(), [(dim, dim), (dim,), (dim, dim), (dim,), (1, dim), (1,)], strict=True)
    checks.shape(_NAME, count=(args.count, (1,)), **dict(zip(weights, shapes, strict=True)))
    checks.dtype(_NAME, checks.COMPUTED, weight_src=args.weight_src)
    checks.same_dtype(_NAME, **weights, embedded=args.embedded)
    checks.dtype(_NAME, checks.INTEGERS, count=args.count)
    checks.layout(_NAME, embedded=args.embedded, **weights)
    checks.device(_NAME, args.embedded.device, (), count=args.count, **weights)
    checks.within(_NAME, "count", args.count, rows // 3 + 1)


link_loss = differentiable(
    _NAME, LinkLoss, reference=_reference, launch=_launch, fake=_empty, check=_check, on="embedded",
    returns=lambda out: (out.loss, out.scores), backward=BACKWARD,
)  # fmt: skip
