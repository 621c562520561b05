"""Ahead-of-time compilation of recorded launches, and what the result takes: registers, stack, shared memory."""

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

    No GPU is needed. The arguments are bound and specialised by the code that Triton's JIT itself takes, so that `hash`
    is the launch's own, under which a cache holds the kernel.

    Raises:
        RuntimeError: triton is not installed, or runs as its interpreter (TRITON_INTERPRET=1), which compiles nothing.
    """
    if triton is None or os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("compile_launch: it takes triton, and a process without TRITON_INTERPRET=1")
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
