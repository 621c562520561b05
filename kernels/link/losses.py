"""The two losses of link prediction, by an event's scores, with their slopes: in torch and as a kernel."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import real_rows
from mspipe_triton.kernels.runtime.launch import Config, device_function, kernel, tl


def event_losses(scores: torch.Tensor, log_weights: torch.Tensor | None) -> torch.Tensor:
    """The losses [B] of events, by their candidates' scores [1 + K, B] (see `LinkLoss`)."""
    if log_weights is not None:
        return -logsigmoid(-_gap(scores, log_weights)[0])
    others = logsigmoid(-scores[1:])
    return -(logsigmoid(scores[0]) + (others[0] if len(others) == 1 else others.mean(0)))


def slopes(scores: torch.Tensor, log_weights: torch.Tensor | None) -> torch.Tensor:
    """The losses' slopes [1 + K, B] by the scores."""
    if log_weights is not None:
        gap, shares = _gap(scores, log_weights)
        slope = torch.sigmoid(gap).unsqueeze(0)
        return torch.cat([-slope, shares.mul_(slope)])
    others = torch.sigmoid(scores[1:])
    if len(others) > 1:
        others /= len(others)
    return torch.cat([-torch.sigmoid(-scores[:1]), others])


def _gap(scores: torch.Tensor, log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """g = log Σ_{c ≥ 1} exp(s_c + a_c) − s_0 [B], whose softplus is the softmax's loss, and its slopes by s_c [K, B].

    Unlike the logarithm of all candidates' sum, this keeps the digits of a small loss.
    """
    weighted = scores[1:] + log_weights.t()
    top = weighted.amax(0)
    shares = (weighted - top).exp_()
    total = shares.sum(0)
    return total.log() + top - scores[0], shares.div_(total)


@kernel(
    Config({"BLOCK": 1024}, num_warps=8),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def link_loss_kernel(
    p_partial, p_count, p_bias_out, p_log_weights, p_scores, p_loss, p_slopes, events, NEGATIVES: tl.constexpr,
    TILES: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scores s_c as sums of their parts and b_out, 0 for events that are not real; the loss, 0 where n = 0, and n times
    its slopes by s_c, [1 + K, B]:

        (1/n) Σ softplus(−s_0) + (1/K) Σ_{c ≥ 1} softplus(s_c)    −σ(−s_0), σ(s_c) / K, or with log weights a
        (1/n) Σ softplus(g), g = log Σ_{c ≥ 1} exp(s_c + a_c) − s_0    −σ(g), σ(g) exp(s_c + a_c − s_0 − g)

    A single program handles all events, so the loss is summed in a fixed order."""
    stop, ahead = real_rows(p_count, events), tl.cast(events, tl.int64)
    b_bias, next_tile = tl.load(p_bias_out), (1 + NEGATIVES) * ahead
    b_sum = tl.zeros([BLOCK], p_loss.dtype.element_ty)
    for u in range(0, events, BLOCK):
        i_u = u + tl.arange(0, BLOCK)
        m_u, p_share = i_u < stop, p_partial + i_u
        p_score, p_slope = p_scores + i_u, p_slopes + i_u
        b_0 = _score(p_share, b_bias, m_u, next_tile, TILES)
        tl.store(p_score, tl.where(m_u, b_0, 0.0), mask=i_u < events)
        b_top, b_others = tl.full([BLOCK], float("-inf"), b_sum.dtype), tl.zeros_like(b_sum)
        for c in range(1, 1 + NEGATIVES):
            b_c = _score(p_share + c * ahead, b_bias, m_u, next_tile, TILES)
            tl.store(p_score + c * ahead, tl.where(m_u, b_c, 0.0), mask=i_u < events)
            if p_log_weights is not None:
                b_c += tl.load(p_log_weights + i_u.to(tl.int64) * NEGATIVES + c - 1, mask=m_u, other=0.0)
                b_higher = tl.maximum(b_top, b_c)
                b_others = b_others * tl.exp(b_top - b_higher) + tl.exp(b_c - b_higher)
                b_top = b_higher
            else:
                b_others += _softplus(b_c)
                if SAVE:
                    tl.store(p_slope + c * ahead, _logistic(b_c) / NEGATIVES, mask=m_u)
        if p_log_weights is not None:
            b_gap = b_top + tl.log(b_others) - b_0
            b_loss = _softplus(b_gap)
        else:
            b_gap = -b_0
            b_loss = _softplus(b_gap) + b_others / NEGATIVES
        b_sum += tl.where(m_u, b_loss, 0.0)
        if SAVE:
            b_slope = _logistic(b_gap)
            tl.store(p_slope, -b_slope, mask=m_u)
            if p_log_weights is not None:
                b_slope = b_slope / b_others
                for c in range(1, 1 + NEGATIVES):
                    b_c = _score(p_share + c * ahead, b_bias, m_u, next_tile, TILES)
                    b_c += tl.load(p_log_weights + i_u.to(tl.int64) * NEGATIVES + c - 1, mask=m_u, other=0.0)
                    tl.store(p_slope + c * ahead, tl.exp(b_c - b_top) * b_slope, mask=m_u)
    tl.store(p_loss, tl.sum(b_sum, 0) / tl.maximum(stop, 1))


@device_function
def _score(p_share, b_bias, m_u, next_tile, TILES: tl.constexpr):
    """Sum of a score's parts and b_out, for a block of events."""
    b_score = tl.zeros(m_u.shape, p_share.dtype.element_ty) + b_bias
    for _ in tl.static_range(TILES):
        b_score += tl.load(p_share, mask=m_u, other=0.0)
        p_share += next_tile
    return b_score


@device_function
def _softplus(x):
    """log(1 + eˣ) = max(x, 0) + log(1 + y) with y = e⁻|x|.

    log(1 + y) is computed as log(v) y / (v − 1) with the rounded v = 1 + y, whose error cancels, or y if v is 1.
    """
    y = tl.exp(-tl.abs(x))
    v = 1 + y
    b_log = tl.where(v == 1, y, tl.log(v) * y / tl.where(v == 1, 1.0, v - 1))
    return tl.where(x < 0, 0.0, x) + b_log


@device_function
def _logistic(x):
    """σ(x) = 1 / (1 + e⁻ˣ) without overflow."""
    b_power = tl.exp(-tl.abs(x))
    return tl.where(x < 0, b_power, 1.0) / (1 + b_power)
