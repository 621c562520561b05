"""The lanes that stages run on: host threads with their own number of torch threads, and CUDA streams with events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mspipe_triton.kernels.runtime.fusion import enable_thread_fusion
from mspipe_triton.pipeline.lane import Lane


class HostLane(Lane):
    """A thread that computes with `threads` torch threads.

    One thread of a process alone may take several: OpenMP keeps a team for each thread that does, and where the teams
    together outnumber the cores, no parallel region spins for its members any more but sleeps (training then took
    twice as long). Compiled loops bring the team they were compiled for, so the other threads run none.
    """

    def __init__(self, threads: int, compiled: bool) -> None:
        self.threads, self.compiled = threads, compiled

    def open(self) -> None:
        """Set the calling thread up."""
        torch.get_num_threads()  # or its first parallel operation would take over the process's number
        torch.set_num_threads(self.threads)
        enable_thread_fusion(self.compiled)


class TurnLane(HostLane):
    """A host lane that has its thread in turns with others, so every stage sets its own number of torch threads."""

    def open(self) -> None:
        """Remember the number that the thread had."""
        self.outer = torch.get_num_threads()
        super().open()

    def close(self) -> None:
        """Give the thread that number back."""
        torch.set_num_threads(self.outer)

    def before(self, marks: Sequence[object]) -> None:
        """Take the thread over."""
        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Mark:
    """The events at the start and the end of a stage's work on its stream."""

    start: torch.cuda.Event
    end: torch.cuda.Event


class StreamLane(HostLane):
    """A thread that queues its stages' device work on a stream of its own, behind the marks of other streams.

    Args:
        device: the GPU.
        waits: whether the thread waits for the device at the end of each stage; the training stage's must not, so that
            the next one can be queued meanwhile, while copies have the host work on what they bring.
        threads, compiled: of the host's share, as for a host thread.
    """

    def __init__(self, device: torch.device, waits: bool, threads: int, compiled: bool) -> None:
        super().__init__(threads, compiled)
        self.device, self.waits = device, waits
        self.stream = torch.cuda.Stream(device)
        self.outer: torch.cuda.Stream | None = None

    def open(self) -> None:
        """Make the stream the thread's own, behind what the device has been given before."""
        super().open()
        self.outer = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(self.outer)
        torch.cuda.set_stream(self.stream)
        self.base = self._event()
        self.base.synchronize()
        self.base_time = time.perf_counter()

    def close(self) -> None:
        """Give the thread its former stream back, which waits for what is still queued."""
        if self.outer is not None:
            torch.cuda.set_stream(self.outer)
            self.outer.wait_stream(self.stream)

    def before(self, marks: Sequence[Mark | None]) -> None:
        """Queue the stage behind the marks; a lane that waits does so here, so that it is not the stage's own time."""
        for mark in marks:
            if mark is None:
                continue
            if self.waits:
                mark.end.synchronize()
            else:
                self.stream.wait_event(mark.end)
        self.start = self._event()

    def after(self) -> Mark:
        """The mark of the stage that has just been queued."""
        mark = Mark(self.start, self._event())
        if self.waits:
            mark.end.synchronize()
        return mark

    def measured(self, mark: Mark, start: float, end: float) -> tuple[float, float]:
        """The device's own start and end; a lane that waits has the host's, which hold both's work."""
        if self.waits:
            return start, end
        begun = self.base_time + self.base.elapsed_time(mark.start) / 1e3
        return begun, begun + mark.start.elapsed_time(mark.end) / 1e3  # the events' clock is coarse over long times

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event


def lanes(
    device: torch.device, compute: str, others: Sequence[str], threads: int, host_threads: int
) -> dict[str, Lane]:
    """A lane a resource: `threads` torch threads for the one that computes, `host_threads` for each of the others."""
    if device.type == "cpu":
        return {compute: HostLane(threads, True), **{name: HostLane(host_threads, False) for name in others}}
    return {
        compute: StreamLane(device, False, threads, True),
        **{name: StreamLane(device, True, host_threads, False) for name in others},
    }


def serial_lanes(
    device: torch.device, compute: str, others: Sequence[str], threads: int, host_threads: int
) -> dict[str, Lane]:
    """The lanes of a serial run, all on one thread; on a GPU it waits for every stage, so each has its own time."""
    if device.type == "cpu":
        return {compute: TurnLane(threads, True), **{name: TurnLane(host_threads, True) for name in others}}
    return dict.fromkeys([compute, *others], StreamLane(device, True, threads, True))
