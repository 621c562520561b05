"""Fixtures of the kernels' tests: fusion off, reference and kernel in turn, and comparisons of tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mspipe_triton.kernels.runtime import fusion, launch
from mspipe_triton.tuning.rounding import expected
from tests.kernels.comparing import Derived, Tensors


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Turn fusion off for the test, and restore it afterwards."""
    before = fusion.fusion_enabled()
    fusion.enable_fusion(False)
    yield
    fusion.enable_fusion(before)


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with the reference, then with the kernel in the interpreter."""
    if request.param == "triton" and launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    launch.use_triton(request.param == "triton")
    yield request.param
    launch.use_triton(None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill uninitialised memory with NaN, a large negative integer or true."""

    def poison(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def fill(*arguments: object, **options: object) -> torch.Tensor:
            tensor = allocate(*arguments, **options)
            if tensor.device.type != "cpu":
                return tensor
            return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**30))

        return fill

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


@pytest.fixture(scope="session")
def derived() -> Derived:
    """Compare a kernel's tensors by name with `run`, a float64 computation that is called several times and gives both
    the truth and the rounding error allowed; `like` holds the same tensors in the kernel's types."""

    def compare(actual: Tensors, like: Tensors, run: Callable[[], Tensors]) -> None:
        assert actual.keys() == like.keys()
        errors = expected(run, like).errors(actual)
        assert errors.keys() == actual.keys()
        wrong = {name: entry for name, entry in errors.items() if not entry["passed"]}
        assert not wrong, f"largest errors and their limits: {wrong}"

    return compare


@pytest.fixture(scope="session")
def agree() -> Callable[[Tensors, Tensors], None]:
    """Compare float64 tensors by name, to 1e-9 of the largest magnitude (or of 1 if all are smaller)."""

    def compare(actual: Tensors, expected: Tensors) -> None:
        assert actual.keys() == expected.keys()
        wrong = {}
        for name, value in expected.items():
            assert actual[name].shape == value.shape, (name, actual[name].shape, value.shape)
            assert actual[name].dtype == value.dtype == torch.float64, name
            if value.numel():
                error = float((actual[name] - value).abs().max())
                if not error <= 1e-9 * max(1.0, float(value.abs().max())):
                    wrong[name] = error
        assert not wrong, f"largest absolute errors: {wrong}"

    return compare
