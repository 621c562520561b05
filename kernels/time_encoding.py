"""The time encoder φ(Δt) = cos(w·Δt + b), with the argument reduced before the cosine."""

from __future__ import annotations

import math

import torch

from mspipe_triton.kernels.fusion import fused

_TURN = 2.0 * math.pi


def encode_time(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """φ(Δt)_k = cos(w_k·Δt + b_k), the functional time encoding of TGAT and TGN.

    The angle is counted in turns, u = Δt·w/2π + b/2π, and only u − round(u) reaches the cosine. That subtraction is
    exact, so the error is that of the one product, as in the plain form; what it avoids is the slow path that a
    cosine takes for large arguments (seconds make angles of 10⁶ and more).

    Args:
        deltas: time differences [...], in the stream's unit, already in floating point.
        frequency: w [T], radians a unit of time.
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
    """Gradients of `encode_time` in w and b, each [T], from its output's gradient [..., T]:
    ∂φ/∂w = −sin(w·Δt + b)·Δt and ∂φ/∂b = −sin(w·Δt + b)."""
    by_phase = -torch.sin(_reduced_angle(deltas, frequency, phase)) * grad
    width = frequency.numel()
    return (by_phase * deltas.unsqueeze(-1)).view(-1, width).sum(0), by_phase.view(-1, width).sum(0)


def time_frequencies(dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Frequencies [dim], log-spaced from 10⁰ down to 10⁻⁹ radians a unit of time (the initialisation of TGAT)."""
    return torch.logspace(0, -9, dim, dtype=torch.float64).to(dtype)


def _reduced_angle(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    turns = deltas.to(frequency.dtype).unsqueeze(-1) * (frequency / _TURN) + phase / _TURN
    return (turns - turns.round()) * _TURN
