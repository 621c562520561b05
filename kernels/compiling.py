"""Ahead-of-time compilation of recorded launches, and what the result takes: registers, stack, shared memory."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.kernels.launch import Config, Launch, triton

CAPABILITIES = (80, 90)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers a thread, bytes of stack a thread and of shared memory a program.

    `matrix` names its matrix instructions, "wgmma" or "mma", or is empty.
    """

    registers: int
    stack: int
    shared: int
    matrix: str


def compile_launch(launch: Launch, config: Config, capability: int) -> Resources:
    """Compile what a launch would run (see `compiled`), and read its resources."""
    made = compiled(launch, config, capability)
    registers, stack = _usage(made.asm["cubin"])
    text = made.asm["ptx"]
    matrix = "wgmma" if "wgmma.mma_async" in text else "mma" if "mma.sync" in text else ""
    return Resources(registers, stack, made.metadata.shared, matrix)


def compiled(launch: Launch, config: Config, capability: int) -> Any:
    """What triton makes of a launch, for a GPU of a compute capability (80, 90): `asm` has its "ptx" and "cubin".

    No GPU is needed. Arguments are specialised as a launch does it: aligned pointers, integers divisible by 16, the
    integer 1.

    Raises:
        RuntimeError: triton is not installed, or runs as its interpreter (TRITON_INTERPRET=1), which compiles nothing.
    """
    if triton is None or os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("compile_launch: it takes triton, and a process without TRITON_INTERPRET=1")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(inspect.signature(launch.kernel.function.fn).parameters)
    constants = {**launch.constants, **config.blocks}
    signature: dict[str, Any] = dict.fromkeys(constants, "constexpr")
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, value in enumerate(launch.arguments):
        name = names[position]
        signature[name] = _type(value)
        if signature[name] == "constexpr":
            constants[name] = value
        elif isinstance(value, tuple):
            aligned = [(position, index) for index, part in enumerate(value) if _divisible(part)]
            attributes |= {path: [["tt.divisibility", 16]] for path in aligned}
        elif _divisible(value):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel.function, {name: signature[name] for name in names}, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=config.options)


def _type(value: Any) -> Any:
    if isinstance(value, tuple):  # of tensors
        return tuple(_type(part) for part in value)
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _divisible(value: Any) -> bool:
    return (
        (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0
        if not isinstance(value, float)
        else False
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack, as `cuobjdump` (in triton's wheel) reads them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"compile_launch: cuobjdump printed no resource usage: {text[:200]!r}")
    return int(found[1]), int(found[2])
