"""Shared by the kernels' tests: fusion off, reference and kernel in turn, and comparisons of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mspipe_triton.kernels.runtime import fusion, launch
from mspipe_triton.tuning.rounding import expected
from tests.kernels.comparing import Derived, Named


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Start every test with fusion off, whatever ran before it in this process, and leave it as it was."""
    before = fusion.fusion_enabled()
    fusion.enable_fusion(False)
    yield
    fusion.enable_fusion(before)


@pytest.fixture(params=["torch", "triton"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs by the reference, then by the kernel in the interpreter."""
    if request.param == "triton" and launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    launch.use_triton(request.param == "triton")
    yield request.param
    launch.use_triton(None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is allocated unwritten holds NaN, or a large negative integer, or true."""

    def poisoning(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def filled(*arguments: object, **options: object) -> torch.Tensor:
            tensor = allocate(*arguments, **options)
            if tensor.device.type != "cpu":
                return tensor
            return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**30))

        return filled

    monkeypatch.setattr(torch, "empty", poisoning(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoning(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))


@pytest.fixture(scope="session")
def derived() -> Derived:
    """Compare a kernel's tensors by name with a float64 computation, called several times, that gives the truth and how
    far rounding may take results from it; `like` has the same in the right types."""

    def compare(actual: Named, like: Named, run: Callable[[], Named]) -> None:
        assert actual.keys() == like.keys()
        found = expected(run, like).errors(actual)
        assert found.keys() == actual.keys()
        wrong = {name: entry for name, entry in found.items() if not entry["passed"]}
        assert not wrong, f"largest error and what is allowed: {wrong}"

    return compare


@pytest.fixture(scope="session")
def agree() -> Callable[[Named, Named], None]:
    """Compare float64 tensors by name, to 1e-9 of the largest magnitude (of 1 where all are smaller)."""

    def compare(actual: Named, expected: Named) -> None:
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
