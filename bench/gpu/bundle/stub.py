"""Triton's real launch path without a GPU: its JIT compiles for sm_90 and calls its launchers, whose driver is a stub.

Tensors lie on the CPU and kernels compute nothing: what torch leaves empty is filled with zeros, and operations that
sample, count and choose give what their references do. The cache that this fills has the very keys that a process on a
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
# Operations whose results are sizes and rows of tables: kernels' arguments and control flow depend on them.
STEERING = ("draw_batch", "sample_recent", "sample_uniform", "unique_nodes", "aggregate_messages")
CAPABILITY = 90


def unavailable() -> str | None:
    """The reason that this process can have no stub, in a line, or None."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "this process runs Triton's interpreter"
    return missing()


def missing() -> str | None:
    """The thing that a stub needs and this machine lacks, in a line, or None."""
    if launch.triton is None:
        return "triton is not installed"
    if compiler() is None:
        return "there is no C compiler (gcc or clang), and CC names none"
    if not (headers() / "cuda.h").exists():
        return f"triton has no cuda.h in {headers().name}"
    return None


def compiler() -> str | None:
    """The C compiler that Triton would take."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def headers() -> Path:
    """The folder of triton's cuda.h."""
    return Path(launch.triton.__file__).parent / "backends" / "nvidia" / "include"


@functools.lru_cache
def library() -> ctypes.CDLL:
    """The stub of the CUDA driver, compiled and loaded: launchers then find it by its name."""
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
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)  # where Triton links its launchers against
    return ctypes.CDLL(str(folder / LIBRARY), mode=ctypes.RTLD_GLOBAL)


def launches() -> int:
    """Launches that have reached the stub in this process."""
    return int(library().stub_launches())


def activate() -> None:
    """Put the stub in the place of the driver for the rest of this process.

    Raises:
        RuntimeError: there can be none here.
    """
    why = unavailable()
    if why is not None:
        raise RuntimeError(f"bench.gpu.bundle.stub: {why}")
    library()
    warnings.filterwarnings("ignore", message="CUDA initialization")  # torch finds the stub too, and takes it for old
    launch.triton.runtime.driver.set_active(_driver())
    launch.serve("cuda", "cpu")
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(owner, name, _zeroed(getattr(owner, name)))
    for name in STEERING:
        _steering(name)


def _driver() -> Any:
    """Triton's own driver for CUDA, which never asks torch for a device."""
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


def _zeroed(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def made(*arguments: Any, **keywords: Any) -> torch.Tensor:
        return make(*arguments, **keywords).zero_()

    return made


def _steering(name: str) -> None:
    """Let an operation launch its kernels, and give what its reference does."""
    registered = OPERATIONS[name]
    launched = registered.launch

    def made(*arguments: Any) -> Any:
        launched(*arguments)
        return registered.reference(*arguments)

    registered.launch = made
