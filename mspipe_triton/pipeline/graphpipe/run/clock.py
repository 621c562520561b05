"""Clock of a process: moments that cost little to take, as seconds that all processes of a host share."""

from __future__ import annotations

import time

import torch


class Clock:
    """Moments on the CPU, or in the order of a GPU's work.

    On a GPU a moment is an event, which is reached when the work before it is done; `seconds` then waits for it.
    Between hosts, clocks agree as well as the hosts' own.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._offset = time.time() - time.perf_counter()
        if device.type == "cuda":
            self._base = torch.cuda.Event(enable_timing=True)
            self._base.record(torch.cuda.current_stream(device))
            self._base.synchronize()
            self._offset = time.time()

    def now(self) -> float | torch.cuda.Event:
        """Return this moment."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, moment: float | torch.cuda.Event) -> float:
        """Return a moment in seconds of the host's wall clock."""
        if isinstance(moment, float):
            return self._offset + moment
        moment.synchronize()
        return self._offset + float(self._base.elapsed_time(moment)) / 1e3
