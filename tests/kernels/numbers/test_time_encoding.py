"""encode_time against a 50-digit cosine, with a tolerance that counts its roundings."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from mspipe_triton.kernels import encode_time
from mspipe_triton.kernels.numbers.time_encoding import encode_time_backward, fused_encode_time, time_frequencies

DELTAS = [0.0, 1.0, 59.5, 3600.0, 86400.0, 16777217.0, 1e8 + 1, 31556952.0, 999_999_937.0, 1e9, -12345.0]


def inputs(dtype: torch.dtype, count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    phase = torch.linspace(-3, 3, count, dtype=torch.float64)
    return torch.tensor(DELTAS, dtype=torch.float64).to(dtype), time_frequencies(count, dtype), phase.to(dtype)


def exact(function: str, deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Compute cos or sin of w·Δt + b from the tensors' exact numbers in 50 digits, then round to float64."""
    with mpmath.workdps(50):
        pairs = [(mpmath.mpf(w), mpmath.mpf(b)) for w, b in zip(frequency.tolist(), phase.tolist(), strict=True)]
        wave = getattr(mpmath, function)
        rows = [[float(wave(w * mpmath.mpf(delta) + b)) for w, b in pairs] for delta in deltas.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def tolerance(deltas: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Sum of the rounding errors, each at most u = half an epsilon relative to the rounded value.

    |w·Δt| has four: w / 2π, the product, the sum, and the constant 2π, whose error counts once, in the whole turns
    that are subtracted. |b| has three (the quotient, the sum, the constant). u − round(u) is exact; the reduced angle,
    at most π, is rounded once; the cosine is accurate to an ulp (2u). Second-order terms are below the 1 % allowed.
    """
    unit = torch.finfo(frequency.dtype).eps / 2
    angle = (deltas.double().unsqueeze(1) * frequency.double()).abs()
    return 1.01 * unit * (4 * angle + 3 * phase.double().abs() + math.pi + 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_within_the_roundings(dtype: torch.dtype) -> None:
    arguments = inputs(dtype)
    encoded, bound = encode_time(*arguments), tolerance(*arguments)
    meaningful = bound < 0.05  # beyond it float32 has no phase left, and only the range can be checked
    assert int(meaningful.sum()) > (0.6 if dtype == torch.float32 else 0.99) * meaningful.numel()
    error = (encoded.double() - exact("cos", *arguments)).abs()
    assert bool((error <= bound)[meaningful].all()), float((error / bound)[meaningful].max())
    assert bool((encoded.abs() <= 1).all())


@pytest.mark.parametrize("shape", [(0,), (1,), (123,), (129, 3), (0, 3)])
def test_shapes_and_the_plain_cosine(shape: tuple[int, ...]) -> None:
    deltas = torch.rand(shape, dtype=torch.float64) * 1e6
    frequency, phase = time_frequencies(7, torch.float64), torch.rand(7, dtype=torch.float64)
    encoded = encode_time(deltas, frequency, phase)
    assert encoded.shape == (*shape, 7)
    plain = torch.cos(deltas.unsqueeze(-1) * frequency + phase)
    # Both are within the tolerance of the exact cosine; angles are at most 10⁶ + 1.
    bound = 2 * tolerance(torch.tensor([1e6], dtype=torch.float64), frequency[:1], phase.max().view(1)).item()
    assert torch.equal(encoded, fused_encode_time(deltas, frequency, phase))
    assert bool(((encoded - plain).abs() <= bound).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deltas_dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_frequency(dtype: torch.dtype, deltas_dtype: torch.dtype) -> None:
    deltas = torch.tensor([1.0, 2.0], dtype=deltas_dtype)
    assert encode_time(deltas, time_frequencies(3, dtype), torch.zeros(3, dtype=dtype)).dtype == dtype


def test_gradcheck() -> None:
    deltas = torch.tensor([0.0, 0.5, 3.0, -7.25], dtype=torch.float64, requires_grad=True)
    frequency = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64, requires_grad=True)
    phase = torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encode_time, (deltas, frequency, phase))


@pytest.mark.parametrize("shape", [(0,), (1,), (123,), (129, 3)])
def test_the_backward_pass_sums_exact_sines(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(shape) + shape[0])
    deltas = torch.rand(shape, dtype=torch.float64, generator=generator) * 1000
    frequency, phase = time_frequencies(5, torch.float64), torch.linspace(-2, 2, 5, dtype=torch.float64)
    grad = torch.randn((*shape, 5), dtype=torch.float64, generator=generator)
    by_frequency, by_phase = encode_time_backward(grad, deltas, frequency, phase)
    sines = -exact("sin", deltas.view(-1), frequency, phase).view(-1, 5) * grad.view(-1, 5)
    torch.testing.assert_close(by_phase, sines.sum(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_frequency, (sines * deltas.view(-1, 1)).sum(0), rtol=1e-9, atol=1e-9)


def test_frequencies_are_log_spaced_from_1_to_a_billionth() -> None:
    frequency = time_frequencies(10, torch.float64)
    expected = torch.tensor([10.0**-power for power in range(10)], dtype=torch.float64)
    torch.testing.assert_close(frequency, expected, rtol=1e-12, atol=0)
    assert time_frequencies(100).dtype == torch.float32
