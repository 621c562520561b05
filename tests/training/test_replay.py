"""When a step is warmed up, captured and replayed, on stand-ins for CUDA's streams and graphs that keep a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from mspipe_triton.training.replay import Aside, Replay

GPU = torch.device("cuda")


class Cuda:
    """One device: the stream that work goes to, graphs as lists of what was done while they were captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current, self.streams, self.refusal = "main", 0, ""
        for name in ("Stream", "CUDAGraph", "stream", "graph", "current_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def work(self, name: str) -> None:
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

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        log, self.log = self.log, []
        try:
            yield
            if self.refusal:
                raise RuntimeError(self.refusal)
            graph.captured = self.log
        finally:
            self.log = log

    def synchronize(self, device: torch.device) -> None:
        self.log.append("waited")


class Stream:
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


def test_a_step_is_warmed_up_beside_then_captured_and_replayed(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    assert replay.prepare(lambda: cuda.work("begin")) is None
    warm = ["begin on stream 1", "step on stream 1"]
    assert cuda.log == ["stream 1 waits for main", *3 * warm, "main waits for stream 1", "begin on main"]
    cuda.log.clear()
    replay()
    replay()
    assert cuda.log == 2 * ["replay of ['step on main']"]


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_what_is_not_to_be_captured_is_called(cuda: Cuda, device: torch.device) -> None:
    replay = Replay(lambda: cuda.work("step"), device, captured=device.type == "cpu")
    assert replay.prepare(lambda: cuda.work("begin")) is None
    assert ("begin on main" in cuda.log, cuda.streams) == (False, int(device == GPU))
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]


def test_a_capture_that_fails_is_told_in_a_line_and_the_step_is_called(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    cuda.refusal = "operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA\n"
    assert replay.prepare(lambda: None) == "operation not permitted when stream is capturing"
    assert cuda.log[-1] == "waited"
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]


def test_a_graph_of_before_is_forgotten_where_the_next_capture_fails(cuda: Cuda) -> None:
    replay = Replay(lambda: cuda.work("step"), GPU, captured=True)
    replay.prepare(lambda: None)
    cuda.refusal = "out of memory"
    assert replay.prepare(lambda: None) == "out of memory"
    cuda.log.clear()
    replay()
    assert cuda.log == ["step on main"]


def test_work_aside_begins_after_what_was_queued_and_is_joined(cuda: Cuda) -> None:
    aside = Aside(GPU)
    for _ in range(2):
        cuda.log.clear()
        with aside() as join:
            cuda.work("sample")
        cuda.work("train")
        join()
        assert cuda.log == [
            "stream 1 waits for main", "sample on stream 1", "train on main", "main waits for stream 1",
        ]  # fmt: skip
    assert cuda.streams == 1


def test_without_a_gpu_nothing_goes_aside(cuda: Cuda) -> None:
    with Aside(torch.device("cpu"))() as join:
        cuda.work("sample")
    join()
    assert cuda.log == ["sample on main"]
