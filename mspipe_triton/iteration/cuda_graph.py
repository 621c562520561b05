"""A step that is carried out again and again: a CUDA graph that is replayed, or the step itself where there is none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import torch

from mspipe_triton.kernels.runtime.checks import debugging

_WARM = 3  # the first compiles and lets the optimizer make its state, the next lets the allocator settle


class Snapshot:
    """What tensors hold now, to be put back into the very same memory.

    Args:
        on_host: keep the copies in host memory, which spares the device's.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], on_host: bool = False) -> None:
        self.pairs = [
            (each, each.detach().to("cpu", copy=True) if on_host else each.detach().clone()) for each in tensors
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put it back."""
        for tensor, kept in self.pairs:
            tensor.copy_(kept)


class Replay:
    """Runs `step`, which takes no arguments, always works on the same memory and never waits for the device.

    Args:
        device: of the step; on the CPU the step itself is called.
        captured: whether to capture it on a GPU.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, captured: bool) -> None:
        self.step, self.device, self.captured = step, device, captured and device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self, begin: Callable[[], object]) -> str | None:
        """Run the step a few times, so that all kernels are compiled, and capture it once more without running it.

        What the step changes, the caller puts back. A step that cannot be captured is launched kernel by kernel from
        then on.

        Args:
            begin: called before every step; lets it find what it works on.

        Returns:
            Why it was not captured, in one line, or None.
        """
        self.graph = None  # one that was captured before holds other memory
        if self.device.type != "cuda":
            return None
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                begin()
                self.step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        if not self.captured:
            return None
        if debugging():
            return "debugging is on, whose checks read values on the host"
        begin()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        main = torch.cuda.current_stream(self.device)
        try:
            with _alone(), torch.cuda.graph(graph, pool=pool, stream=side):
                self.step()
        except RuntimeError as error:
            _abandon(main, pool)
            within = error.__context__  # a capture that ends after an error raises one more
            cause = within if isinstance(within, RuntimeError) else error
            return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        self.graph = graph
        return None

    def __call__(self) -> None:
        """Run the step once; nothing is waited for."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step()


@contextmanager
def _alone() -> Iterator[None]:
    """Nothing that a capture needs belongs to other graphs, and none of them is destroyed within it.

    Destroying a graph ends a capture that is under way, and the collector would destroy those that only cycles hold.
    cuBLAS keeps a workspace a stream, in the memory of the graph that used it first; given up before and after, each
    graph has its own.
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
    """Let torch forget a capture that failed: up to 2.13 its stream may stay the present one, and the allocator may
    go on as if it were under way, which later refuses to give memory back."""
    torch.cuda.set_stream(main)
    with suppress(RuntimeError):  # where torch has ended it already
        torch._C._cuda_endAllocateToPool(main.device_index, pool)
    torch.cuda.synchronize(main.device)


class Aside:
    """A stream beside the present one on a device; without a GPU, or where it is not wanted, all is queued in turn."""

    def __init__(self, device: torch.device, wanted: bool = True) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if wanted and device.type == "cuda" else None

    @contextmanager
    def __call__(self) -> Iterator[Callable[[], None]]:
        """Within it, work goes to the stream beside and needs nothing that is queued later on the present one.

        In a capture that is a parallel branch of the graph. The function that it gives joins both again and must be
        called.
        """
        if self.stream is None:
            yield lambda: None
            return
        main, beside = torch.cuda.current_stream(self.device), self.stream
        beside.wait_stream(main)
        with torch.cuda.stream(beside):
            yield lambda: main.wait_stream(beside)
