"""Tests of every operation and of resident training through Triton's real JIT for sm_90, with a stub of the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.bundle import stub
from mspipe_triton.kernels.runtime.launch import KERNELS

ROOT = Path(__file__).resolve().parents[3]


def through_the_jit(*arguments: str) -> dict[str, Any]:
    """Run `through_the_jit` and return the JSON that it prints."""
    reason = stub.missing()
    if reason is not None:
        pytest.skip(reason)
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu.through_the_jit", *arguments],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-3000:]
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_every_operation_launches_kernels_with_the_hashes_of_compiling_ahead_of_time() -> None:
    result = through_the_jit("operations")
    assert set(result["kernels"]) == set(KERNELS)
    assert result["differ"] == []
    keys = result["keys"]  # of a bundle: Triton's, and one per kernel
    assert {"version", "triton", "ptxas", "environment"} <= keys.keys()
    assert {f"kernel {name}" for name in KERNELS} <= keys.keys()
    assert len({keys[f"kernel {name}"] for name in KERNELS}) == len(KERNELS)


TRAINING_KERNELS = {
    "tgn": {"fused_gru_kernel", "attention_kernel", "attention_backward_kernel", "link_loss_kernel", "last_kernel"},
    "jodie": {"fused_rnn_kernel", "link_loss_kernel", "last_kernel"},
    "apan": {"attention_kernel", "attention_backward_kernel", "link_loss_kernel", "ring_kernel"},
    "tgat": {"attention_kernel", "attention_backward_kernel", "link_loss_kernel"},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "jodie" else pytest.mark.slow) for kind in TRAINING_KERNELS]
)
def test_a_resident_epoch_and_its_evaluation_launch_kernels(kind: str) -> None:
    result = through_the_jit("step", kind)
    assert result["losses"] == 6
    assert result["trained"] > 0
    assert result["scored"] > 0
    assert result["trained"] + result["scored"] == sum(result["kernels"].values())
    assert TRAINING_KERNELS[kind] <= result["kernels"].keys()


def test_a_missing_requirement_of_the_stub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stub.unavailable() == "this process runs Triton's interpreter"
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(stub.shutil, "which", lambda name: None)
    assert stub.missing() == "there is no C compiler (gcc or clang), and CC names none"
    with pytest.raises(RuntimeError, match="stub: "):
        stub.activate()
