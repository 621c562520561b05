"""Timing of runs: by the host's clock on a CPU, by device events around replays of a CUDA graph on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.cases.registry import OPERATIONS
from bench.variants import Named, callee, step
from mspipe_triton.tuning.kernels.calls import each, tensors
from mspipe_triton.tuning.kernels.operations import synchronises

Run = Callable[[], Any]
# Calls per graph: enough that its own launch hardly counts.
MIN_REPLICAS, MAX_REPLICAS = 8, 64


def samples(run: Run, device: torch.device, seconds: float = 0.3, least: int = 5) -> list[float]:
    """Seconds per run, one sample per round, for about `seconds` and at least `least` rounds, after a warm-up.

    On a GPU a round has as many runs as fit in half a millisecond, between two events, so that the events' resolution
    and the gap before the first launch do not count.
    """
    run()
    duration = _between_events(run, 3) if device.type == "cuda" else _by_clock(run)
    inner = max(1, int(5e-4 / max(duration, 1e-7))) if device.type == "cuda" else 1
    rounds = min(max(least, int(seconds / max(duration * inner, 1e-7))), 1000)
    return [_between_events(run, inner) if device.type == "cuda" else _by_clock(run) for _ in range(rounds)]


def summary(durations: Sequence[float]) -> dict[str, float | int]:
    """Median, 20th and 80th percentile, and the medians of both halves, whose difference is the measurement's noise."""
    ordered, half = sorted(durations), max(1, len(durations) // 2)
    return {
        "p50": statistics.median(durations), "p20": ordered[len(ordered) // 5],
        "p80": ordered[min(len(ordered) - 1, len(ordered) * 4 // 5)], "rounds": len(durations),
        "first_half": statistics.median(durations[:half]), "second_half": statistics.median(durations[-half:]),
    }  # fmt: skip


def _by_clock(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _between_events(run: Run, count: int) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3 / count


def captured(runs: Sequence[Run]) -> tuple[Run, list[Any]]:
    """Capture runs in one CUDA graph; return its replay, and the runs' results, which every replay rewrites.

    The results stay alive, so every run writes to its own memory, as it reads its own inputs.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for run in (*runs, runs[0]):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run() for run in runs]
    return graph.replay, results


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Measure the peak of GPU memory that torch allocates in a block, in MiB, as "mib" of the yielded dict."""
    peak: dict[str, float] = {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield peak
    torch.cuda.synchronize()
    peak["mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20


@dataclass(frozen=True)
class PreparedRun:
    """A run ready for timing.

    Args:
        run: calls the operation `calls` times, each time on other inputs.
        timed: "graph" (one CUDA graph of all calls), "events" (device events around calls from the host, for
            operations that cannot be captured) or "clock" (the host's, on a CPU).
        cold: the inputs together are larger than a GPU's L2 cache, so that no call finds its inputs there.
        waits: torch's message about a wait for the GPU inside a call, which rules out a graph.
        peak_mib: GPU memory that one call needs beyond its inputs.
    """

    run: Run
    calls: int
    timed: str
    cold: bool
    waits: str | None = None
    peak_mib: float | None = None


def prepare(name: str, arguments: dict[str, Any], traffic: int, way: str, grads: Named | None) -> PreparedRun:
    """Prepare OPERATIONS[name] for timing; call this and time the run inside `variant(way)`.

    Args:
        arguments: its inputs. traffic: bytes that a call moves at least.
        grads: gradients of the outputs, for training's forward and backward pass; None for the forward pass alone.
    """
    operation = OPERATIONS[name]
    device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
    call = callee(operation, way)
    if device.type == "cpu":
        return PreparedRun(step(operation, call, arguments, grads), 1, "clock", cold=False)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = replicas(arguments, traffic, cache, torch.cuda.mem_get_info(device)[0] // 3)
    inputs = [arguments, *(cloned(arguments) for _ in range(count - 1))]
    runs = [step(operation, call, values, grads) for values in inputs]
    for _ in range(3):  # compile, and let torch.compile settle
        runs[0]()
    with peak_memory() as peak:
        runs[0]()
    waits, cold = synchronises(runs[0]), count * traffic > 2 * cache
    if waits is None:
        return PreparedRun(captured(runs)[0], count, "graph", cold, peak_mib=peak["mib"])

    def all_runs() -> None:
        for run in runs:
            run()

    return PreparedRun(all_runs, count, "events", cold, waits, peak["mib"])


def replicas(arguments: dict[str, Any], traffic: int, cache: int, room: int) -> int:
    """Number of input sets that keep a call from finding its inputs in a cache, as far as `room` allows (in bytes)."""
    size = sum(tensor.numel() * tensor.element_size() for value in arguments.values() for tensor in tensors(value))
    count = max(MIN_REPLICAS, -(-3 * cache // max(traffic, 1)))
    return max(1, min(count, MAX_REPLICAS, room // max(size, 1)))


def cloned(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with copies of their tensors."""
    return {key: each(value, torch.Tensor.clone) for key, value in arguments.items()}
