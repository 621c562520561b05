"""Tuning of operations with several kernels: their variants and backward passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.launch import VARIANTS_CHOSEN, Config, Kernel
from mspipe_triton.tuning.kernels import tune as kernel_tuning
from mspipe_triton.tuning.kernels.calls import Call
from tests.tuning.kernels.kernel_case import tune, update_calls

pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    launch.use_triton(True)
    yield
    launch.use_triton(None)


def test_the_faster_variant_of_an_operation_is_chosen() -> None:
    forward = [call for call in update_calls() if not call.backward]

    def seconds(call: Call) -> float:
        return 1.0 if call.arguments["variant"] == "fused" else 0.5

    choice = tune(forward, seconds, 0.0)
    assert choice.variants == {"memory_gru": "split"}
    assert choice.facts["variants"]["memory_gru"]["split"]["gain"] == pytest.approx(1.0)
    assert tune(forward, lambda call: 1.0, 0.0).variants == {"memory_gru": "fused"}
    assert VARIANTS_CHOSEN == {"memory_gru": "fused"}
    facts = choice.facts["kernels"]
    assert {"fused_gru_kernel ieee", "message_kernel float32", "gates_kernel float32"} <= facts.keys()


def test_a_wrong_variant_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, run = [call for call in update_calls() if not call.backward], Kernel.launch

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if kernel.name == "message_kernel" and len(arguments) == 13:
            arguments[11][0, 0] = 9.0

    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    choice = tune(forward, lambda call: 1.0 if call.arguments["variant"] == "fused" else 0.5, 0.0)
    assert choice.variants == {"memory_gru": "fused"}
    assert "is off by" in choice.facts["variants"]["memory_gru"]["split"]["reason"]


def test_a_variant_that_does_not_run_is_not_chosen() -> None:
    def seconds(call: Call) -> float:
        if call.arguments["variant"] == "split":
            raise RuntimeError("no such instruction")
        return 1.0

    choice = tune([call for call in update_calls() if not call.backward], seconds, 0.0)
    assert choice.variants == {"memory_gru": "fused"}
    assert choice.facts["variants"]["memory_gru"]["split"]["reason"] == "RuntimeError: no such instruction"
    assert choice.facts["kernel_notices"] == ["memory_gru cannot be tuned: RuntimeError: no such instruction"]
    assert "message_kernel float32" not in choice.facts["kernels"]


def test_kernels_of_a_backward_pass_are_checked_in_the_whole_operation() -> None:
    calls = update_calls()
    backward = [call for call in calls if call.backward]
    facts = tune(backward, lambda call: 1.0, 100.0).facts["kernels"]
    assert facts
    assert {entry["reason"] for entry in facts.values()} == {"no call can check its results"}
    parts = {part.kernel.name: part for part in _tuner(calls)._parts()}
    part = parts["sum_parts_kernel"]
    assert [call.name for call in part.timed_calls] == ["memory_gru_backward"]
    assert [call.name for call in part.gated_calls] == ["memory_gru"] * 2
    assert {call.arguments["variant"] for call in parts["gates_kernel"].gated_calls} == {"split"}


def _tuner(calls: list[Call]) -> Any:
    return kernel_tuning._Tuner(calls, 1.0, None, 0, lambda *_: None, lambda call: 1.0, lambda: 0.0)
