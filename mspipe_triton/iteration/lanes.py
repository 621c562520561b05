"""Lanes that stages run on: host threads with their own number of torch threads, and CUDA streams with events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mspipe_triton.kernels.runtime.fusion import enable_thread_fusion
from mspipe_triton.pipeline.lane import Lane


class HostLane(Lane):
    """A thread that computes with `threads` torch threads; `limit` changes their number while stages run.

    Only one thread of a process may use several: OpenMP keeps a team for each thread that does, and once the teams
    together outnumber the cores, parallel regions sleep instead of spinning while they wait (training then took twice
    as long). Compiled loops run with as many threads as torch has in the lane's thread, so such a thread may run them
    or not, as `compiled` says.
    """

    def __init__(self, threads: int, compiled: bool) -> None:
        self.most, self.threads, self.compiled = threads, threads, compiled

    def limit(self, threads: int) -> None:
        """See `Lane`; they are torch's."""
        self.threads = min(self.most, threads)

    def open(self) -> None:
        """Set the calling thread up."""
        torch.get_num_threads()  # or the thread's first parallel operation would reset it to the process's number
        torch.set_num_threads(self.threads)
        enable_thread_fusion(self.compiled)

    def before(self, marks: Sequence[Any]) -> None:
        """Set the lane's number of torch threads, if it has changed."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


class TurnLane(HostLane):
    """A host lane that shares its thread with other lanes, and restores the thread's number of torch threads."""

    def open(self) -> None:
        """Remember the thread's number of torch threads."""
        self.outer = torch.get_num_threads()
        super().open()

    def close(self) -> None:
        """Restore the thread's number of torch threads."""
        torch.set_num_threads(self.outer)


@dataclass(frozen=True)
class Mark:
    """CUDA events at the start and the end of a stage's work on its stream."""

    start: torch.cuda.Event
    end: torch.cuda.Event


class StreamLane(HostLane):
    """A thread that queues its stages' device work on its own stream, after the marks of other streams.

    Args:
        device: the GPU.
        waits: whether the thread waits for the device at the end of each stage. The training thread must not, so that
            the next stage can be queued meanwhile; copy threads must, since the host works on the copied data.
        threads, compiled: as in `HostLane`, for the work on the host.
    """

    def __init__(self, device: torch.device, waits: bool, threads: int, compiled: bool) -> None:
        super().__init__(threads, compiled)
        self.device, self.waits = device, waits
        self.stream = torch.cuda.Stream(device)
        self.outer: torch.cuda.Stream | None = None

    def open(self) -> None:
        """Make the stream the thread's current one, after the work already queued on the device."""
        super().open()
        self.outer = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(self.outer)
        torch.cuda.set_stream(self.stream)
        self.base = self._event()
        self.base.synchronize()
        self.base_time = time.perf_counter()

    def close(self) -> None:
        """Restore the thread's former stream, which waits for the work still queued here."""
        if self.outer is not None:
            torch.cuda.set_stream(self.outer)
            self.outer.wait_stream(self.stream)

    def before(self, marks: Sequence[Mark | None]) -> None:
        """Queue the stage after the marks; a lane that waits does so here, so that waiting is not part of its time."""
        for mark in marks:
            if mark is None:
                continue
            if self.waits:
                mark.end.synchronize()
            else:
                self.stream.wait_event(mark.end)
        self.start = self._event()

    def after(self) -> Mark:
        """Return the mark of the stage that was just queued."""
        mark = Mark(self.start, self._event())
        if self.waits:
            mark.end.synchronize()
        return mark

    def interval(self, mark: Mark, start: float, end: float) -> tuple[float, float]:
        """Return start and end on the device; a lane that waits returns the host's, which cover the device's work."""
        if self.waits:
            return start, end
        device_start = self.base_time + self.base.elapsed_time(mark.start) / 1e3
        # Measured from the stage's own start: the events' clock is coarse over long times.
        return device_start, device_start + mark.start.elapsed_time(mark.end) / 1e3

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event


def lanes(
    device: torch.device, compute: str, others: Sequence[str], threads: int, host_threads: int
) -> dict[str, Lane]:
    """One lane per resource: `threads` torch threads for the one that computes, `host_threads` for each other one."""
    if device.type == "cpu":
        return {compute: HostLane(threads, True), **{name: HostLane(host_threads, False) for name in others}}
    return {
        compute: StreamLane(device, False, threads, True),
        **{name: StreamLane(device, True, host_threads, False) for name in others},
    }


def serial_lanes(
    device: torch.device, compute: str, others: Sequence[str], threads: int, host_threads: int
) -> dict[str, Lane]:
    """Lanes of a serial run, all on one thread; on a GPU the thread waits for every stage, so each is timed alone."""
    if device.type == "cpu":
        return {compute: TurnLane(threads, True), **{name: TurnLane(host_threads, True) for name in others}}
    return dict.fromkeys([compute, *others], StreamLane(device, True, threads, True))
