"""The start of a run: the seconds of torch's import, and those from the process's start to its first iteration."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mspipe_triton import IMPORTED

_TICKS = 19  # place of the process's start, in ticks since boot, after the name in /proc/self/stat


class _Torch:
    """Seconds of torch's import, or None if this module did not import it."""

    seconds: float | None = None


def load_torch() -> None:
    """Import torch and note the seconds, unless it is loaded already."""
    if "torch" in sys.modules:
        return
    start = time.perf_counter()
    import torch  # noqa: F401  # loads it

    _Torch.seconds = time.perf_counter() - start


def process_age() -> float:
    """Return the seconds since this process started, or, where the system does not tell, since it imported us."""
    ours = time.perf_counter() - IMPORTED
    if sys.platform != "linux":
        return ours
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start = int(fields[_TICKS]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return ours
    return max(ours, time.clock_gettime(time.CLOCK_BOOTTIME) - start)


class Start:
    """Passes on the progress of training, and notes the age of the process at the end of its first iteration.

    Args:
        progress: called with the epoch, the number of events and their mean loss, as this is.
    """

    def __init__(self, progress: Callable[[int, int, float], None]) -> None:
        self.progress = progress
        self.first_iteration: float | None = None

    def __call__(self, epoch: int, events: int, loss: float) -> None:
        """Note the end of the first iteration, and pass on the call."""
        if self.first_iteration is None:
            self.first_iteration = process_age()
        self.progress(epoch, events, loss)

    def to_json(self) -> dict[str, Any]:
        """Return the seconds of torch's import, and those to the end of the first iteration; None if not known."""
        return {"import_seconds": _Torch.seconds, "first_iteration_seconds": self.first_iteration}
