"""Fusion in several threads at once: what one thread changes for its calls ends with them, and seconds count once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from mspipe_triton.kernels.runtime import fusion


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    fusion.enable_fusion(True)
    yield
    fusion.enable_fusion(False)
    fusion.limit_compiling()


def together(*functions: Callable[[], object]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_calls_that_overlap_leave_torch_as_it_was(fused: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, last = threading.Event(), threading.Event()

    def body(x: torch.Tensor) -> torch.Tensor:  # the first caller ends first, while the second is inside
        if x.numel() == 1:
            assert inside.wait(20)
        else:
            inside.set()
            assert last.wait(20)
        return x

    monkeypatch.setattr(fusion, "_compiled", lambda function: function)
    late = fusion.fused()(body)
    fusion.limit_compiling(0.0)

    def first() -> None:
        late(torch.ones(1))
        last.set()

    together(first, lambda: late(torch.ones(2)))
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_seconds_that_threads_compile_at_once_count_once(fused: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, by_thread = threading.Lock(), list[float]()

    def compiling(x: torch.Tensor) -> torch.Tensor:
        with lock:  # torch's own: one thread compiles, and the others wait
            time.sleep(0.2)
            torch._dynamo.utils.counters["stats"]["unique_graphs"] += 1
        return x

    monkeypatch.setattr(fusion, "_compiled", lambda function: function)
    function, before = fusion.fused()(compiling), fusion.compile_seconds()

    def run() -> None:
        function(torch.ones(3))
        by_thread.append(fusion.compile_seconds(this_thread=True))

    start = time.perf_counter()
    together(run, run)
    assert 0.35 < fusion.compile_seconds() - before <= time.perf_counter() - start
    assert max(by_thread) > 0.35, "a stage that waits for another thread's compiling is not charged for it"
