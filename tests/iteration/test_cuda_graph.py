"""Warm-up, capture and replay of a step, on stand-ins for CUDA's streams and graphs that keep a log."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.iteration.cuda_graph import Replay, SideStream
from mspipe_triton.kernels import enable_debug

GPU = torch.device("cuda")


class Cuda:
    """One device: its current stream, and graphs as lists of the work during their capture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current, self.streams, self.refusal, self.mode = "main", 0, "", ""
        self.pools, self.workspaces, self.under_way = 0, set[str](), set[int]()
        for name in (
            "Stream", "stream", "set_stream", "current_stream", "CUDAGraph", "graph", "graph_pool_handle",
            "synchronize",
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name in ("_cuda_clearCublasWorkspaces", "_cuda_endAllocateToPool"):
            monkeypatch.setattr(torch._C, name, getattr(self, name), raising=False)

    def work(self, name: str) -> None:
        self.workspaces.add(self.current)
        self.log.append(f"{name} on {self.current}")

    def Stream(self, device: torch.device) -> Stream:
        assert device == GPU
        self.streams += 1
        return Stream(self, f"stream {self.streams}")

    def current_stream(self, device: torch.device) -> Stream:
        return Stream(self, self.current)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def CUDAGraph(self) -> Graph:
        return Graph(self)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream.name

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def graph(self, graph: Graph, pool: int, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """Capture like torch versions whose failed captures leave stream and allocator unchanged."""
        self.mode = capture_error_mode
        assert not self.workspaces, "another graph would own the workspaces"
        assert not self.under_way
        log, self.log = self.log, []
        main, self.current = self.current, stream.name
        self.under_way.add(pool)
        try:
            yield
        finally:
            graph.captured, self.log = self.log, log
            if self.refusal:
                raise RuntimeError(self.refusal)
            self.under_way.remove(pool)
            self.current = main

    def _cuda_clearCublasWorkspaces(self) -> None:
        self.workspaces.clear()

    def _cuda_endAllocateToPool(self, device: int, pool: int) -> None:
        assert device == 0
        if pool not in self.under_way:
            raise RuntimeError("not currently recording to mempool_id")
        self.under_way.remove(pool)

    def synchronize(self, device: torch.device) -> None:
        assert device == GPU
        self.log.append("waited")


class Stream:
    device, device_index = GPU, 0

    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.captured = cuda, list[str]()

    def replay(self) -> None:
        self.cuda.log.append(f"replay of {self.captured}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_a_step_is_warmed_up_on_a_side_stream_then_captured_and_replayed(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    assert replay.prepare(lambda: cuda.work("begin")) is None
    warm = ["begin on stream 1", "step on stream 1"]
    assert cuda.log == ["stream 1 waits for main", *3 * warm, "main waits for stream 1", "begin on main"]
    cuda.log.clear()
    replay()
    replay()
    assert cuda.log == 2 * ["replay of ['step on stream 1']"]
    assert not cuda.workspaces


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_a_step_that_is_not_captured_is_called(cuda: Cuda, device: torch.device) -> None:
    replay = Replay(lambda: cuda.work("step"), device, captured=device.type == "cpu")
    assert replay.prepare(lambda: cuda.work("begin")) is None
    assert ("begin on main" in cuda.log, cuda.streams) == (False, int(device == GPU))
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]


def test_a_failed_capture_is_reported_in_one_line_and_the_step_is_called(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    cuda.refusal = "operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA\n"
    assert replay.prepare(lambda: None) == "operation not permitted when stream is capturing"
    assert cuda.log[-1] == "waited"
    assert not cuda.under_way, "the allocator would treat the capture as running"
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]
    cuda.refusal = ""
    assert replay.prepare(lambda: None) is None


@pytest.mark.parametrize("refusal", ["", "operation failed due to a previous error during capture"])
def test_a_step_that_fails_during_capture_gives_the_reason(cuda: Cuda, refusal: str) -> None:
    def step() -> None:
        if cuda.under_way:
            cuda.refusal = refusal
            raise RuntimeError("this waits for the device")

    replay = Replay(step, GPU, captured=True)
    assert replay.prepare(lambda: None) == "this waits for the device"
    assert (cuda.current, cuda.under_way) == ("main", set())


def test_no_garbage_is_collected_during_capture(cuda: Cuda) -> None:
    """The garbage collector may destroy a graph, which breaks the capture."""
    collecting: list[bool] = []
    replay = Replay(lambda: collecting.append(gc.isenabled()), GPU, captured=True)
    for cuda.refusal in ("", "out of memory"):
        replay.prepare(lambda: None)
        assert collecting[-2:] == [True, False]
        assert gc.isenabled()


def test_debugging_prevents_captures(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    enable_debug()
    try:
        assert replay.prepare(lambda: None) == "debugging is on, and its checks read values on the host"
    finally:
        enable_debug(False)
    assert cuda.pools == 0


class TwoRanks(Ranks):
    """Ranks of which the other one has a flag of its own."""

    other = False

    def __init__(self) -> None:
        super().__init__(count=2)

    def any(self, flag: bool) -> bool:
        return flag or TwoRanks.other


@pytest.mark.parametrize("other", [False, True])
def test_all_ranks_capture_a_step_or_none(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, other: bool) -> None:
    monkeypatch.setattr(TwoRanks, "other", other)
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True, ranks=TwoRanks())
    assert replay.prepare(lambda: None) == ("another rank could not capture its step" if other else None)
    assert cuda.mode == "thread_local", "NCCL's threads may not end the capture"
    cuda.log.clear()
    replay()
    assert cuda.log == (["step on main"] if other else ["replay of ['step on stream 1']"])


def test_bytes_are_counted_when_they_are_sent(cuda: Cuda) -> None:
    ranks = TwoRanks()
    replay = Replay(lambda: ranks.traffic.add(10, 3), GPU, captured=True, ranks=ranks)
    replay.prepare(lambda: None)
    assert (ranks.traffic.gathered, ranks.traffic.reduced) == (0, 0), "neither warm-up nor capture are of the run"
    replay()
    replay()
    assert (ranks.traffic.gathered, ranks.traffic.reduced) == (20, 6)


def test_a_failed_capture_discards_the_previous_graph(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    replay.prepare(lambda: None)
    cuda.refusal = "out of memory"
    assert replay.prepare(lambda: None) == "out of memory"
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]


def test_side_stream_work_starts_after_queued_work_and_is_joined(cuda: Cuda) -> None:
    side_stream = SideStream(GPU)
    for _ in range(2):
        cuda.log.clear()
        with side_stream() as join:
            cuda.work("sample")
        cuda.work("train")
        join()
        assert cuda.log == [
            "stream 1 waits for main", "sample on stream 1", "train on main", "main waits for stream 1",
        ]  # fmt: skip
    assert cuda.streams == 1


@pytest.mark.parametrize("arguments", [(torch.device("cpu"), True), (GPU, False)])
def test_without_a_gpu_or_if_disabled_all_work_runs_in_order(cuda: Cuda, arguments: tuple[torch.device, bool]) -> None:
    with SideStream(*arguments)() as join:
        cuda.work("sample")
    join()
    assert cuda.log == ["sample on main"]
    assert cuda.streams == 0
