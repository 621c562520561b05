"""Ahead-of-time compilation of recorded launches, and the registers, stack and shared memory that a kernel uses."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspipe_triton.kernels.runtime.launch import Config, Launch, triton

CAPABILITIES = (80, 90)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel: registers and bytes of stack per thread, bytes of shared memory per program.

    `matrix` names its matrix instructions, "wgmma" or "mma", or is empty.
    """

    registers: int
    stack: int
    shared: int
    matrix: str


def compile_launch(launch: Launch, config: Config, capability: int) -> Resources:
    """Compile a launch (see `compiled`) and return its resources."""
    binary = compiled(launch, config, capability)
    registers, stack = _usage(binary.asm["cubin"])
    text = binary.asm["ptx"]
    matrix = "wgmma" if "wgmma.mma_async" in text else "mma" if "mma.sync" in text else ""
    return Resources(registers, stack, binary.metadata.shared, matrix)


def compiled(launch: Launch, config: Config, capability: int) -> Any:
    """Compile a launch for a GPU of a compute capability (80, 90); the result's `asm` has its "ptx" and "cubin".

    No GPU is needed. Triton's own JIT code binds and specialises the arguments, so `hash` equals the key under which
    Triton caches the launched kernel.

    Raises:
        RuntimeError: triton is not installed, or runs as its interpreter (TRITON_INTERPRET=1), which compiles nothing.
    """
    if triton is None or os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("compile_launch: compiling needs triton; install it, and run without TRITON_INTERPRET=1")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    function, target = launch.kernel.function, GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(function.signature, function.params, backend)
    named = {**launch.constants, **config.blocks, **config.options}
    bound, specialisation, rest = bind(*launch.arguments, **named)
    options, signature, constants, attributes = function._pack_args(backend, named, bound, specialisation, rest)
    source = ASTSource(function, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack per thread, read by `cuobjdump` from triton's wheel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if usage is None:
        raise RuntimeError(f"compile_launch: cuobjdump printed no resource usage: {text[:200]!r}")
    return int(usage[1]), int(usage[2])
