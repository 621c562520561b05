"""dropout_scale's kernel in the interpreter against its reference, bit for bit; test_philox.py tests the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import dropout_scale
from mspipe_triton.kernels.numbers.dropout_scale import dropout_kernel
from mspipe_triton.kernels.numbers.philox import philox_words
from mspipe_triton.kernels.runtime import launch
from tests.kernels.sampling.graph_case import WAITING, launches_of, operations_of

DRAWS = [2**32 - 1, 6, 2, 7]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]

needs_triton = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


def check(shape: tuple[int, ...], probability: float, dtype: torch.dtype, draws: list[int] | None = None) -> None:
    words = torch.tensor(draws or DRAWS)
    scale = dropout_scale.launch(words, shape, probability, dtype)
    assert scale.dtype == dtype
    assert scale.shape == shape
    assert torch.equal(scale, dropout_scale.reference(words, shape, probability, dtype))


@needs_triton
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (123,), (511,), (513,), (3, 5, 7)], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_shapes(shape: tuple[int, ...]) -> None:
    check(shape, 0.3, torch.float32)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("probability", [0, 0.1, 0.3502345401201442, 0.5, 1 - 2**-20])
@pytest.mark.usefixtures("poisoned")
def test_multipliers_are_rounded_as_torch_rounds_them(probability: float, dtype: torch.dtype) -> None:
    """Include a probability for which 1 / (1 − p) in float32 is not the float32 nearest to the exact quotient."""
    check((300,), probability, dtype)


@needs_triton
@settings(deadline=None, max_examples=20)
@given(
    draws=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
    probability=st.floats(0, 1, exclude_max=True),
    count=st.integers(0, 9),
)
def test_any_draws(draws: list[int], probability: float, count: int) -> None:
    check((count,), probability, torch.float64, draws)


@needs_triton
def test_a_word_at_the_threshold_survives_and_one_below_is_dropped() -> None:
    words = torch.stack(philox_words(torch.tensor(DRAWS), torch.arange(2)), 1).view(-1).tolist()
    for element, word in enumerate(words):
        for threshold, survives in ((word, True), (word + 1, False)):
            scale = dropout_scale.launch(torch.tensor(DRAWS), (8,), threshold / 2**32, torch.float32)
            assert bool(scale[element]) is survives


@needs_triton
@pytest.mark.parametrize("config", dropout_kernel.configs["float32"], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dropout_kernel.chosen, "float32", config)
    check((1100,), 0.3, torch.float32)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_the_public_function_runs_the_kernel() -> None:
    words = torch.tensor(DRAWS)
    expected = dropout_scale.reference(words, (5, 3), 0.3, torch.float32)
    assert torch.equal(dropout_scale(words, (5, 3), 0.3, torch.float32), expected)


def test_one_launch_and_no_wait() -> None:
    words = torch.tensor(DRAWS)
    dropout_scale.launch(words, (1,), 0.3, torch.float32)  # the host computes the multiplier once
    assert launches_of(lambda: dropout_scale.launch(words, (5, 3), 0.3, torch.float32)) == (
        ["dropout_kernel"],
        {"new_empty"},
    )
    assert not operations_of(lambda: dropout_scale.reference(words, (5, 3), 0.3, torch.float32)) & WAITING


@pytest.mark.parametrize("shape", [(), (5, 3), (0, 2)], ids=str)
def test_the_operation_passes_opcheck_and_compiles_as_one_graph(shape: tuple[int, ...]) -> None:
    words = torch.tensor(DRAWS)
    torch.library.opcheck(torch.ops.mspipe_triton.dropout_scale.default, (words, shape, 0.3, torch.float32))
    compiled = torch.compile(
        lambda draws: dropout_scale(draws, shape, 0.3, torch.float64), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(words), dropout_scale.reference(words, shape, 0.3, torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": torch.zeros(4)}, "draws is torch.float32; give int64"),
        ({"draws": torch.zeros(3).long()}, r"draws has shape \(3,\); give \(4,\)"),
        ({"draws": torch.zeros(8).long()[::2]}, r"draws \(4,\) has strides \(2,\); its last must be 1"),
        ({"shape": (3, -1)}, r"shape is \(3, -1\); give sizes of at least 0"),
        ({"probability": 1.0}, "probability must be at least 0 and below 1, not 1.0"),
        ({"probability": -0.1}, "probability must be at least 0 and below 1, not -0.1"),
        ({"dtype": torch.int64}, "dtype must be a floating type, not torch.int64"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"draws": torch.tensor(DRAWS), "shape": (3,), "probability": 0.5, "dtype": torch.float32}
    with pytest.raises(ValueError, match=f"^dropout_scale: {message}"):
        dropout_scale(**(arguments | change))
