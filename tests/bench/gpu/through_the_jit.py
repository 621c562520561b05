"""Launches through Triton's real JIT with a stub of the driver, in a process without the interpreter; prints JSON.

`python -m tests.bench.gpu.through_the_jit operations|step` needs triton, a C compiler and triton's cuda.h.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from bench.aot.launches import CASES, distinct, launches
from bench.gpu.bundle import kit, stub
from bench.gpu.setup import TINY, model_arguments, random_stream, resident
from bench.roofline import matmul_precision
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.kernels.runtime import compiling, launch


def operations() -> dict[str, Any]:
    """Launch every operation in TF32, forward and backward; compare kernel hashes with compiling ahead of time."""
    result: dict[str, Any] = {"kernels": [], "differ": []}
    hashes: dict[str, str] = {}
    launch.triton.knobs.compilation.listener = lambda *, metadata, **_: hashes.update(
        {metadata["name"]: metadata["hash"]}
    )
    with matmul_precision("high"):
        for call in distinct(launches(CASES[0])):
            before = stub.launches()
            call.kernel.launch((1,), call.config, *call.arguments, **call.constants)
            assert stub.launches() == before + 1, call.kernel.name
            if compiling.compiled(call, call.config, stub.CAPABILITY).hash != hashes[call.kernel.name]:
                result["differ"].append(call.kernel.name)
            result["kernels"].append(call.kernel.name)
    return {**result, "keys": kit.keys()}


def step(kind: str) -> dict[str, Any]:
    """Train a resident epoch and score validation; return launches by kernel, and numbers of launches and losses."""
    counts: dict[str, int] = {}
    original = launch.Kernel.launch

    def count_launch(self: launch.Kernel, *arguments: Any, **keywords: Any) -> None:
        counts[self.name] = counts.get(self.name, 0) + 1
        original(self, *arguments, **keywords)

    run = resident(random_stream(TINY.name, True), "cpu", 40, model_arguments(kind, TINY))
    launch.Kernel.launch = count_launch  # type: ignore[method-assign]  # counts calls
    start = stub.launches()
    losses = run.train_epoch(1).losses
    middle = stub.launches()
    predict_split(run, "val", 3)
    return {
        "kernels": counts, "trained": middle - start, "scored": stub.launches() - middle, "losses": len(losses),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    stub.activate()
    print(json.dumps(operations() if sys.argv[1] == "operations" else step(sys.argv[2])))
