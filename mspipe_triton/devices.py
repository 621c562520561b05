"""The device that a run takes: what `--device auto` stands for on this machine, and why a GPU there cannot serve."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels.runtime import launch

_LEAST = (8, 0)  # the compute capability that the kernels are compiled for, and later ones


@dataclass(frozen=True)
class Gpu:
    """The GPU that torch sees.

    Args:
        name: None where torch sees none, "unknown" where the driver does not tell.
        fault: why no run can take it, as a clause; None where it is usable.
    """

    name: str | None
    fault: str | None


def find_gpu() -> Gpu:
    """The GPU that torch sees, after it has done a small sum where nothing else speaks against it."""
    with warnings.catch_warnings(record=True) as warned:  # torch warns, for instance, of a driver that is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        told = [_first_line(each.message) for each in warned]
        return Gpu("unknown", f"torch says {told[0]!r}") if told else Gpu(None, "torch sees no GPU here")
    try:
        name = torch.cuda.get_device_name()
        return Gpu(name, _fault(name))
    except RuntimeError as error:  # a GPU that is full, lost, or lent to one process alone
        return Gpu("unknown", f"the GPU does not answer ({_first_line(error)})")


def resolve_device(config: RunConfig) -> tuple[RunConfig, str | None]:
    """The settings with "cpu" or "cuda" as device, and a line for the user where `auto` met a GPU.

    Raises:
        ConfigError: the run asks for a GPU and none is usable, or for what a GPU does not do.
    """
    device = config.train.device
    if device == "cpu":
        return config, None
    gpu = find_gpu()
    if device == "cuda":
        if gpu.fault is not None:
            raise ConfigError(f"device cuda: {gpu.fault}; take --device cpu, and see `mspipe-triton doctor`")
        return config, None
    if gpu.fault is None:
        line: str | None = f"Running on the GPU {gpu.name} (--device cpu takes the CPU)."
    else:
        line = None if gpu.name is None else f"Running on the CPU: {gpu.fault}."
    train = replace(config.train, device="cuda" if gpu.fault is None else "cpu")
    return replace(config, train=train), line


def _fault(name: str) -> str | None:
    """The reason that no run can take the GPU of this name, as a clause, or None."""
    if torch.version.hip:
        return f"the kernels are for NVIDIA's GPUs, and torch is built for AMD's ({name})"
    if launch.triton is None:
        return f"the GPU {name} needs triton, which is not installed (`pip install triton`)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return f"TRITON_INTERPRET=1 keeps kernels off the GPU {name}"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < _LEAST:
        return f"the GPU {name} has compute capability {major}.{minor}, and the kernels need {_LEAST[0]}.{_LEAST[1]}"
    _try_tensor()
    return None


def _try_tensor() -> None:
    """Do a small sum on the GPU, which raises RuntimeError where it takes no work."""
    torch.ones(2, device="cuda").sum().item()


def _first_line(message: object) -> str:
    return str(message).partition("\n")[0]
