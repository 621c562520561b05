"""Every operation and resident training through Triton's real JIT for sm_90, with a stub in the place of the driver."""

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


def through(*arguments: str) -> dict[str, Any]:
    """The JSON that `through_the_jit` prints."""
    why = stub.missing()
    if why is not None:
        pytest.skip(why)
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu.through_the_jit", *arguments],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_every_operation_is_launched_under_the_hash_of_compiling_ahead_of_time() -> None:
    found = through("operations")
    assert set(found["kernels"]) == set(KERNELS)
    assert found["differ"] == []
    keys = found["keys"]  # of a bundle: Triton's, and every kernel's own
    assert {"version", "triton", "ptxas", "environment"} <= keys.keys()
    assert {f"kernel {name}" for name in KERNELS} <= keys.keys()
    assert len({keys[f"kernel {name}"] for name in KERNELS}) == len(KERNELS)


TRAINED = {
    "tgn": {"fused_gru_kernel", "attention_kernel", "attention_backward_kernel", "link_loss_kernel", "last_kernel"},
    "jodie": {"fused_rnn_kernel", "link_loss_kernel", "last_kernel"},
    "apan": {"attention_kernel", "attention_backward_kernel", "link_loss_kernel", "ring_kernel"},
    "tgat": {"attention_kernel", "attention_backward_kernel", "link_loss_kernel"},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "jodie" else pytest.mark.slow) for kind in TRAINED]
)
def test_a_resident_epoch_and_its_scores_are_launched(kind: str) -> None:
    found = through("step", kind)
    assert found["losses"] == 6
    assert found["trained"] > 0
    assert found["scored"] > 0
    assert found["trained"] + found["scored"] == sum(found["kernels"].values())
    assert TRAINED[kind] <= found["kernels"].keys()


def test_what_the_stub_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stub.unavailable() == "this process runs Triton's interpreter"
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(stub.shutil, "which", lambda name: None)
    assert stub.missing() == "there is no C compiler (gcc or clang), and CC names none"
    with pytest.raises(RuntimeError, match="stub: "):
        stub.activate()
