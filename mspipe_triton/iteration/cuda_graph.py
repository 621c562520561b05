"""Repeated steps: a CUDA graph that is replayed, or the step itself where there is no graph."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch

from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.kernels.runtime.checks import debugging

_WARM = 3  # the first step compiles and creates the optimizer's state, the next lets the allocator settle


class Snapshot:
    """Copies of tensors' current values, which `restore` writes back into the same memory.

    Args:
        on_host: keep the copies in host memory, which saves device memory.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], on_host: bool = False) -> None:
        self.pairs = [
            (each, each.detach().to("cpu", copy=True) if on_host else each.detach().clone()) for each in tensors
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the values back."""
        for tensor, value in self.pairs:
            tensor.copy_(value)


class Replay:
    """Run `step`, which has no arguments, always works on the same memory and never waits for the device.

    Args:
        device: the step's device; on the CPU the step itself is called.
        captured: whether to capture the step on a GPU.
        ranks: those whose exchanges are part of the step; all capture it, or none.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, captured: bool, ranks: Ranks = ALONE) -> None:
        self.step, self.device, self.captured = step, device, captured and device.type == "cuda"
        self.ranks, self.bytes = ranks, (0, 0)
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self, begin: Callable[[], object]) -> str | None:
        """Run the step a few times to compile all kernels, then capture it without running it; no bytes count.

        The caller restores what the step changes. A step that a rank cannot capture is launched kernel by kernel from
        then on, by all of them.

        Args:
            begin: called before every step to set up its input.

        Returns:
            The reason why the step was not captured, in one line, or None.
        """
        self.graph = None  # a graph captured before holds other memory
        if self.device.type != "cuda":
            return None
        before = replace(self.ranks.traffic)
        try:
            return self._prepare(begin)
        finally:
            self.ranks.traffic.set(before)

    def __call__(self) -> None:
        """Run the step once, without waiting for the device."""
        if self.graph is not None:
            self.graph.replay()
            self.ranks.traffic.add(*self.bytes)
        else:
            self.step()

    def _prepare(self, begin: Callable[[], object]) -> str | None:
        """Warm up and capture; see `prepare`."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                begin()
                self.step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        if not self.captured:
            return None
        graph = torch.cuda.CUDAGraph()
        failure = self._capture(graph, side, begin)
        if self.ranks.any(failure is not None):
            return failure or "another rank could not capture its step"
        self.graph = graph
        return None

    def _capture(self, graph: torch.cuda.CUDAGraph, side: torch.cuda.Stream, begin: Callable[[], object]) -> str | None:
        """Capture the step on a stream; returns the reason why that failed, in one line, or None."""
        if debugging():
            return "debugging is on, and its checks read values on the host"
        begin()
        pool, main = torch.cuda.graph_pool_handle(), torch.cuda.current_stream(self.device)
        traffic, before = self.ranks.traffic, replace(self.ranks.traffic)
        # NCCL's watchdog, a thread of its own, may ask for the state of earlier exchanges during the capture.
        mode = "global" if self.ranks.alone else "thread_local"
        try:
            with _isolation(), torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode=mode):
                self.step()
        except RuntimeError as error:
            _abandon(main, pool)
            context = error.__context__  # ending a capture after an error raises a second error
            cause = context if isinstance(context, RuntimeError) else error
            return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        self.bytes = (traffic.gathered - before.gathered, traffic.reduced - before.reduced)
        return None


@contextmanager
def _isolation() -> Iterator[None]:
    """Keep a capture apart from other graphs: share no memory with them, and destroy none of them meanwhile.

    Destroying a graph breaks a running capture, and the garbage collector would destroy graphs in reference cycles.
    cuBLAS keeps one workspace per stream, in the memory of the graph that used it first; clearing the workspaces before
    and after gives each graph its own.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        if enabled:
            gc.enable()


def _abandon(main: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Clean up after a failed capture: up to torch 2.13 its stream may stay the current one, and the allocator may
    treat the capture as running, and later refuse to free memory."""
    torch.cuda.set_stream(main)
    with suppress(RuntimeError):  # raised where torch has already ended the capture
        torch._C._cuda_endAllocateToPool(main.device_index, pool)
    torch.cuda.synchronize(main.device)


class SideStream:
    """A second stream beside a device's current one; without a GPU, or if not `enabled`, all work runs in order."""

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if enabled and device.type == "cuda" else None

    @contextmanager
    def __call__(self) -> Iterator[Callable[[], None]]:
        """Send work to the second stream; it may not depend on work queued later on the current stream.

        In a capture this makes a parallel branch of the graph. The context yields a function that joins the two streams
        again; the caller must call it.
        """
        if self.stream is None:
            yield lambda: None
            return
        main, side = torch.cuda.current_stream(self.device), self.stream
        side.wait_stream(main)
        with torch.cuda.stream(side):
            yield lambda: main.wait_stream(side)
