"""Memory that a run's process has used, and the versions that its result depends on."""

from __future__ import annotations

import platform
import resource
import sys

import numpy as np
import torch

import mspipe_triton


def peak_rss_mb() -> float:
    """Return the process's largest resident memory so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peak_device_mb(device: torch.device) -> float:
    """Return the most GPU memory that torch has allocated so far, MiB; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mspipe_triton": mspipe_triton.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
