"""Choice of a run's device: the meaning of `--device auto` on this machine, and reasons why its GPU is unusable."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels.runtime import launch

_CAPABILITY = (8, 0)  # the lowest compute capability that the kernels are compiled for


@dataclass(frozen=True)
class Gpu:
    """The GPU that torch sees.

    Args:
        name: None if torch sees no GPU, "unknown" if the driver does not report it.
        fault: the reason why no run can use it, as a clause; None if it is usable.
    """

    name: str | None
    fault: str | None


def find_gpu() -> Gpu:
    """Find the GPU that torch sees, and try a small sum on it if no other fault is known."""
    with warnings.catch_warnings(record=True) as caught:  # torch warns, for instance, if the driver is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        messages = [_first_line(each.message) for each in caught]
        return Gpu("unknown", f"torch says {messages[0]!r}") if messages else Gpu(None, "torch sees no GPU here")
    try:
        name = torch.cuda.get_device_name()
        return Gpu(name, _fault(name))
    except RuntimeError as error:  # the GPU is full, lost, or in exclusive use by another process
        return Gpu("unknown", f"the GPU does not respond ({_first_line(error)})")


def resolve_device(config: RunConfig) -> tuple[RunConfig, str | None]:
    """Set the device to "cpu" or "cuda"; also returns a line for the user if `auto` found a GPU.

    Raises:
        ConfigError: the run needs a GPU and none is usable, or it needs a feature that does not run on a GPU.
    """
    device = config.train.device
    if device == "cpu":
        return config, None
    gpu = find_gpu()
    if device == "cuda":
        if gpu.fault is not None:
            raise ConfigError(f"device cuda: {gpu.fault}; use --device cpu, and see `mspipe-triton doctor`")
        return config, None
    if gpu.fault is None:
        line: str | None = f"Running on the GPU {gpu.name} (--device cpu for the CPU)."
    else:
        line = None if gpu.name is None else f"Running on the CPU: {gpu.fault}."
    train = replace(config.train, device="cuda" if gpu.fault is None else "cpu")
    return replace(config, train=train), line


def _fault(name: str) -> str | None:
    """Reason why no run can use the GPU of this name, as a clause, or None."""
    if torch.version.hip:
        return f"the kernels are for NVIDIA's GPUs, and torch is built for AMD's ({name})"
    if launch.triton is None:
        return f"the GPU {name} needs triton, which is not installed (`pip install triton`)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return f"TRITON_INTERPRET=1 keeps kernels off the GPU {name}"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < _CAPABILITY:
        needed = ".".join(map(str, _CAPABILITY))
        return f"the GPU {name} has compute capability {major}.{minor}, and the kernels need {needed}"
    _try_tensor()
    return None


def _try_tensor() -> None:
    """Compute a small sum on the GPU; raises RuntimeError if the GPU accepts no work."""
    torch.ones(2, device="cuda").sum().item()


def _first_line(message: object) -> str:
    return str(message).partition("\n")[0]
