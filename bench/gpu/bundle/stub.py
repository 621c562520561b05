"""Triton's real launch path without a GPU: its JIT compiles for sm_90 and calls its launchers, whose driver is a stub.

Tensors are on the CPU and kernels compute nothing: memory that torch leaves uninitialised is zeroed, and operations
that sample, count or choose return the results of their references. The cache gets the same keys that a process on a
GPU looks up.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.operation import OPERATIONS

SOURCE = Path(__file__).with_name("stub_libcuda.c")
LIBRARY = "libcuda.so.1"
# Operations that return sizes and table rows, on which kernel arguments and control flow depend.
STEERING = ("draw_batch", "sample_recent", "sample_uniform", "unique_nodes", "aggregate_messages")
CAPABILITY = 90


def unavailable() -> str | None:
    """Return the reason that this process cannot use a stub, in one line, or None."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "this process runs Triton's interpreter"
    return missing()


def missing() -> str | None:
    """Return the requirement of a stub that this machine lacks, in one line, or None."""
    if launch.triton is None:
        return "triton is not installed"
    if compiler() is None:
        return "there is no C compiler (gcc or clang), and CC names none"
    if not (headers() / "cuda.h").exists():
        return f"triton has no cuda.h in {headers().name}"
    return None


def compiler() -> str | None:
    """Return the C compiler that Triton would use."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def headers() -> Path:
    """Return the folder of triton's cuda.h."""
    return Path(launch.triton.__file__).parent / "backends" / "nvidia" / "include"


@functools.lru_cache
def library() -> ctypes.CDLL:
    """Compile and load the stub of the CUDA driver; launchers then find it by its name."""
    digest = hashlib.sha256(SOURCE.read_bytes() + str(headers()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"mspipe-stub-{os.getuid()}-{digest}")
    if not folder.exists():
        part = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        command = [str(compiler()), "-shared", "-fPIC", "-O1", f"-I{headers()}", str(SOURCE), "-o", str(part / LIBRARY)]
        subprocess.run([*command, f"-Wl,-soname,{LIBRARY}"], check=True)
        (part / "libcuda.so").symlink_to(LIBRARY)
        try:
            part.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(part)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)  # Triton links its launchers against it
    return ctypes.CDLL(str(folder / LIBRARY), mode=ctypes.RTLD_GLOBAL)


def launches() -> int:
    """Return the number of launches that have reached the stub in this process."""
    return int(library().stub_launches())


def activate() -> None:
    """Replace the driver with the stub for the rest of this process.

    Raises:
        RuntimeError: this process cannot use a stub.
    """
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(f"bench.gpu.bundle.stub: {reason}")
    library()
    warnings.filterwarnings("ignore", message="CUDA initialization")  # torch finds the stub too, and calls it too old
    launch.triton.runtime.driver.set_active(_driver())
    launch.serve("cuda", "cpu")
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(owner, name, _zero(getattr(owner, name)))
    for name in STEERING:
        _steer(name)


def _driver() -> Any:
    """Build Triton's own CUDA driver, without its queries of torch for a device."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver

    class Stub(driver.CudaDriver):
        def __init__(self) -> None:
            self.utils, self.launcher_cls = driver.CudaUtils(), driver.CudaLauncher

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", CAPABILITY, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: object = None) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    return Stub()


def _zero(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap a function that returns an uninitialised tensor, to return zeros."""

    @functools.wraps(make)
    def make_zeros(*arguments: Any, **keywords: Any) -> torch.Tensor:
        return make(*arguments, **keywords).zero_()

    return make_zeros


def _steer(name: str) -> None:
    """Make an operation launch its kernels, but return its reference's results."""
    operation = OPERATIONS[name]
    launch_kernels = operation.launch

    def launch_and_compute(*arguments: Any) -> Any:
        launch_kernels(*arguments)
        return operation.reference(*arguments)

    operation.launch = launch_and_compute
