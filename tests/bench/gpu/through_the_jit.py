"""Launches through Triton's real JIT beside a stub of the driver, in a process that has no interpreter; prints JSON.

`python -m tests.bench.gpu.through_the_jit operations|step` needs triton, a C compiler and triton's cuda.h.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from bench.aot.launches import CASES, distinct, launches
from bench.gpu.bundle import kit, stub
from bench.gpu.setup import TINY, drawn, of_shape, resident
from bench.roofline import matmul_precision
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.kernels.runtime import compiling, launch


def operations() -> dict[str, Any]:
    """Every operation, forward and backward, in TF32; and each kernel's hash beside the one compiled ahead of time."""
    found: dict[str, Any] = {"kernels": [], "differ": []}
    compiled: dict[str, str] = {}
    launch.triton.knobs.compilation.listener = lambda *, metadata, **_: compiled.update(
        {metadata["name"]: metadata["hash"]}
    )
    with matmul_precision("high"):
        for each in distinct(launches(CASES[0])):
            before = stub.launches()
            each.kernel.launch((1,), each.config, *each.arguments, **each.constants)
            assert stub.launches() == before + 1, each.kernel.name
            by_jit = compiled[each.kernel.name]
            if compiling.compiled(each, each.config, stub.CAPABILITY).hash != by_jit:
                found["differ"].append(each.kernel.name)
            found["kernels"].append(each.kernel.name)
    return {**found, "keys": kit.keys()}


def step(kind: str) -> dict[str, Any]:
    """A resident epoch of training and the scores of validation after it: launches by kernel, and losses that ended."""
    names: dict[str, int] = {}
    plain = launch.Kernel.launch

    def counted(self: launch.Kernel, *arguments: Any, **named: Any) -> None:
        names[self.name] = names.get(self.name, 0) + 1
        plain(self, *arguments, **named)

    launch.Kernel.launch = counted  # type: ignore[method-assign]
    run, before = resident(drawn(TINY.name, True), "cpu", 40, of_shape(kind, TINY)), stub.launches()
    losses = run.train_epoch(1).losses
    trained = stub.launches() - before
    predict_split(run, "val", 3)
    return {"kernels": names, "trained": trained, "scored": stub.launches() - before - trained, "losses": len(losses)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    stub.activate()
    print(json.dumps(operations() if sys.argv[1] == "operations" else step(sys.argv[2])))
