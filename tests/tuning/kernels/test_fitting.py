"""Configurations refused ahead of time: for stack, too much shared memory, or failing to compile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.compiling import SHARED_LIMIT, Resources
from mspipe_triton.kernels.runtime.launch import Config
from mspipe_triton.tuning.kernels import gate
from mspipe_triton.tuning.kernels.calls import Call
from tests.tuning.kernels.kernel_case import RECENT, sampler_call

ROOT = Path(__file__).resolve().parents[3]


pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    launch.use_triton(True)
    yield
    launch.use_triton(None)


@pytest.fixture(scope="module")
def sampling() -> Call:
    launch.use_triton(True)
    return sampler_call()


@pytest.mark.parametrize(
    ("shipped", "candidate", "reason"),
    [
        ((0, 1000), (0, SHARED_LIMIT[90]), None),
        ((0, 1000), (0, SHARED_LIMIT[90] + 1), "it needs 232,449 bytes of shared memory; the GPU has 232,448"),
        ((0, 1000), (8, 1000), "its registers spill: 8 bytes of stack"),
        ((8, 1000), (8, 1000), None),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    sampling: Call, monkeypatch: pytest.MonkeyPatch, shipped: tuple[int, int], candidate: tuple[int, int],
    reason: str | None,
) -> None:  # fmt: skip
    before, large = RECENT.config(), Config({"BLOCK": 128})

    def compile_launch(launch: Any, config: Config, capability: int) -> Resources:
        assert launch.config is config
        return Resources(32, *(candidate if config is large else shipped), "")

    monkeypatch.setattr(gate, "compile_launch", compile_launch)
    assert gate.unfit(RECENT, "float32", large, [sampling], 90) == reason
    assert RECENT.config() is before


def test_without_a_compiler_nothing_is_refused(sampling: Call) -> None:
    assert gate.compute_capability() is None
    assert gate.unfit(RECENT, "float32", Config({"BLOCK": 128}), [sampling], 90) is None, "in the interpreter"


FITTING = """
import torch
import mspipe_triton.kernels
from mspipe_triton.kernels.runtime.launch import KERNELS, Config
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.gate import unfit

rows, dim, width = 64, 100, 208
table, index = torch.zeros(rows, dim), torch.zeros(rows, dtype=torch.int64)
arguments = dict(
    memory=table, memory_rows=index, partner=table, partner_rows=index, features=table[:, :4], feature_rows=index,
    deltas=torch.zeros(rows), has_mail=index > 0, frequency=torch.zeros(4), phase=torch.zeros(4),
    weight_ih=torch.zeros(3 * dim, width), weight_hh=torch.zeros(3 * dim, dim), bias_ih=torch.zeros(3 * dim),
    bias_hh=torch.zeros(3 * dim), empty="update", count=None, save=False, variant=VARIANT,
)
torch.set_float32_matmul_precision("high")
call = Call(torch.ops.mspipe_triton.memory_gru.default, arguments)
for config in CONFIGS:
    kernel = KERNELS[KERNEL]
    print(unfit(kernel, "float32", config or kernel.configs["float32"][0], [call], 90))
"""


@pytest.mark.parametrize(
    ("kernel", "variant", "configs", "reasons"),
    [
        (
            "gates_kernel", "split",
            'None, Config({"BLOCK_U": 24}, num_warps=2), Config({"BLOCK_U": 16}, num_warps=1)',
            ["None", "it does not compile", "its registers spill"],
        ),
        pytest.param(
            "fused_gru_kernel", "fused",
            'None, Config({"BLOCK_U": 64, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=2), '
            'Config({"BLOCK_U": 128, "BLOCK_D": 64, "BLOCK_K": 64}, num_warps=8, num_stages=4)',
            ["None", "its registers spill", "bytes of shared memory"], marks=pytest.mark.slow,
        ),
    ],
    ids=["gates_kernel", "fused_gru_kernel"],
)  # fmt: skip
def test_the_compiler_refuses_ahead_of_time(kernel: str, variant: str, configs: str, reasons: list[str]) -> None:
    source = FITTING.replace("KERNELS[KERNEL]", f"KERNELS[{kernel!r}]")
    source = source.replace("VARIANT", repr(variant)).replace("CONFIGS", f"[{configs}]")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", source]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    assert len(lines) == len(reasons)
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True)), lines
