"""The time encoder φ(Δt) = cos(w·Δt + b), with the argument reduced before the cosine, in torch and inside kernels."""

from __future__ import annotations

import math

import torch

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import real_rows
from mspipe_triton.kernels.runtime.fusion import fused
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, kernel, pow2, tl

_TURN = 2.0 * math.pi


def encode_time(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """φ(Δt)_k = cos(w_k·Δt + b_k), the functional time encoding of TGAT and TGN.

    The angle is counted in turns, u = Δt·w/2π + b/2π, and the cosine is computed of u − round(u). This subtraction is
    exact, so the error is that of the single product, as in the plain form, but it avoids the cosine's slow path for
    large arguments (times in seconds give angles of 10⁶ and more).

    Args:
        deltas: time differences [...], in the stream's unit, already in floating point.
        frequency: w [T], radians per unit of time.
        phase: b [T], radians.

    Returns:
        [..., T], in the dtype of `frequency`.
    """
    return torch.cos(_reduced_angle(deltas, frequency, phase))


@fused("frequency", "phase")
def fused_encode_time(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """`encode_time` without a gradient, in one pass."""
    return encode_time(deltas, frequency, phase)


def encode_time_backward(
    grad: torch.Tensor, deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `encode_time` in w and b, each [T], from the output's gradient [..., T]:
    ∂φ/∂w = −sin(w·Δt + b)·Δt and ∂φ/∂b = −sin(w·Δt + b)."""
    by_phase = -torch.sin(_reduced_angle(deltas, frequency, phase)) * grad
    width = frequency.numel()
    return (by_phase * deltas.unsqueeze(-1)).view(-1, width).sum(0), by_phase.view(-1, width).sum(0)


def time_frequencies(dim: int, dtype: torch.dtype = torch.float32, decades: float = 9.0) -> torch.Tensor:
    """Frequencies [dim], log-spaced over `decades` down from 1 radian per unit of time (TGAT starts with nine)."""
    return torch.logspace(0, -decades, dim, dtype=torch.float64).to(dtype)


def _reduced_angle(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    turns = deltas.to(frequency.dtype).unsqueeze(-1) * (frequency / _TURN) + phase / _TURN
    return (turns - turns.round()) * _TURN


@device_function
def turns_block(b_delta, p_frequency, p_phase, i_k, m_k):
    """Angles [rows, BLOCK] in turns, Δt·w/2π + b/2π, for time differences [rows] and components i_k [BLOCK]."""
    b_w = _turn_share(tl.load(p_frequency + i_k, mask=m_k, other=0.0))
    b_b = _turn_share(tl.load(p_phase + i_k, mask=m_k, other=0.0))
    return b_delta[:, None] * b_w[None, :] + b_b[None, :]


@device_function
def _turn_share(b):
    """b / 2π, correctly rounded as in torch: for times of 10⁶ and more, a difference of one bit changes the angle.

    1/2π is split in two parts, and a fused multiply-add adds the second product before rounding: a quotient for the
    cost of a product (Brisebarre and Muller, 2008; tested on every float32 of two binades). float32's 2π is not
    float64's.
    """
    if b.dtype == tl.float64:
        return tl.fma(b, tl.full(b.shape, 0.15915494309189535, b.dtype), b * -3.635205175920738e-18)
    return tl.fma(b, tl.full(b.shape, 0.15915493667125702, b.dtype), b * 1.991748765917123e-09)


@device_function
def cos_turns(u):
    """cos(2πu) of a block of angles in turns, float32 or float64; for kernels.

    r = |u| − ⌊|u|⌋ is exact, and cos(2πu) = sin(2π(¼ − min(r, 1 − r))) needs the sine's series only on a quarter turn.
    The hardware's cosine loses two digits, and the library's exact cosine spills to local memory.
    """
    r = tl.abs(u) - tl.floor(tl.abs(u))
    return _sin_quarter(0.25 - tl.minimum(r, 1.0 - r))


@device_function
def sin_turns(u):
    """sin(2πu) of a block of angles in turns, float32 or float64; for kernels."""
    r = tl.abs(u) - tl.floor(tl.abs(u))
    half = tl.where(r > 0.5, r - 0.5, r)
    sine = _sin_quarter(tl.minimum(half, 0.5 - half))
    return tl.where((u < 0) ^ (r > 0.5), -sine, sine)


@device_function
def _sin_quarter(w):
    """sin(2πw) for |w| ≤ ¼ by its Taylor series: to w¹³ in float32, to w²³ in float64, each below a rounding error."""
    y = w * 6.283185307179586
    s = y * y
    if w.dtype == tl.float64:
        p = -3.868170170630684e-23 * s + 1.9572941063391263e-20
        p = p * s - 8.22063524662433e-18
        p = p * s + 2.8114572543455206e-15
        p = p * s - 7.647163731819816e-13
        p = p * s + 1.605904383682161e-10
    else:
        p = 1.605904383682161e-10
    p = p * s - 2.505210838544172e-08
    p = p * s + 2.7557319223985893e-06
    p = p * s - 0.0001984126984126984
    p = p * s + 0.008333333333333333
    p = p * s - 0.16666666666666666
    return y + y * s * p


@kernel(
    Config({"BLOCK_M": 16, "PART": 256}, num_warps=4),
    Config({"BLOCK_M": 32, "PART": 512}, num_warps=8),
    space={"BLOCK_M": (4, 8, 16, 32, 64), "PART": (64, 128, 256, 512, 1024), **spaces.PLAIN},
    float64=[Config({"BLOCK_M": 8, "PART": 256}, num_warps=4)],
)
def encode_time_backward_kernel(
    p_grad, p_deltas, p_frequency, p_phase, p_count, p_partial, num_rows, grad_stride,
    TIME: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Part s of Σ_m −sin(w·Δt_m + b) g_m Δt_m and of Σ_m −sin(w·Δt_m + b) g_m, as [2, T]."""
    COMPUTE: tl.constexpr = p_partial.dtype.element_ty
    i_t = tl.arange(0, BLOCK_T)
    m_t = i_t < TIME
    b_frequency = tl.zeros([BLOCK_T], COMPUTE)
    b_phase = tl.zeros([BLOCK_T], COMPUTE)
    begin = tl.program_id(0) * PART
    stop = tl.minimum(begin + PART, real_rows(p_count, num_rows))
    for m in range(begin, stop, BLOCK_M):
        i_m = m + tl.arange(0, BLOCK_M)
        m_m = i_m < stop
        b_delta = tl.load(p_deltas + i_m, mask=m_m, other=0.0).to(COMPUTE)
        p_g = p_grad + i_m.to(tl.int64)[:, None] * grad_stride + i_t[None, :]
        b_g = tl.load(p_g, mask=m_m[:, None] & m_t[None, :], other=0.0)
        b_g = -sin_turns(turns_block(b_delta, p_frequency, p_phase, i_t, m_t)) * b_g
        b_phase += tl.sum(b_g, 0)
        b_frequency += tl.sum(b_g * b_delta[:, None], 0)
    p_out = p_partial + tl.program_id(0) * (2 * TIME) + i_t
    tl.store(p_out, b_frequency, mask=m_t)
    tl.store(p_out + TIME, b_phase, mask=m_t)


def launch_encode_time_backward(
    grad: torch.Tensor, deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, count: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`encode_time_backward` by a kernel for grad [M, T] (any row stride) and deltas [M]: parts, then their sum, the
    same in every run. Rows beyond `count` [1] are not read."""
    config = encode_time_backward_kernel.config(arithmetic(grad.dtype))
    parts = cdiv(grad.shape[0], config["PART"])
    partial = grad.new_empty(parts, 2, frequency.numel())
    encode_time_backward_kernel.launch(
        (parts,), config, grad, deltas, frequency, phase, count, partial, grad.shape[0], grad.stride(0),
        TIME=frequency.numel(), BLOCK_T=pow2(frequency.numel()),
    )  # fmt: skip
    return partial[:, 0].sum(0), partial[:, 1].sum(0)
