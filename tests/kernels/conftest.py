"""Shared by the kernels' tests: fusion is off unless a test turns it on, and one comparison of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mspipe_triton.kernels import fusion

Named = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Start every test with fusion off, whatever ran before it in this process, and leave it as it was."""
    before = fusion.fusion_enabled()
    fusion.enable_fusion(False)
    yield
    fusion.enable_fusion(before)


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
