"""How a run is timed: by the host's clock on a CPU, by device events around replays of a CUDA graph on a GPU."""

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
# A graph of many calls takes far longer than its own launch.
MIN_REPLICAS, MAX_REPLICAS = 8, 64


def samples(run: Run, device: torch.device, seconds: float = 0.3, least: int = 5) -> list[float]:
    """Seconds a run, once a round, for about `seconds` and at least `least` rounds; warmed up before.

    On a GPU a round is as many runs as take half a millisecond, between two events, so that the events' resolution and
    the gap in front of the first launch do not count.
    """
    run()
    taken = _between_events(run, 3) if device.type == "cuda" else _by_clock(run)
    inner = max(1, int(5e-4 / max(taken, 1e-7))) if device.type == "cuda" else 1
    rounds = min(max(least, int(seconds / max(taken * inner, 1e-7))), 1000)
    return [_between_events(run, inner) if device.type == "cuda" else _by_clock(run) for _ in range(rounds)]


def summary(taken: Sequence[float]) -> dict[str, float | int]:
    """Median, 20th and 80th percentile, and the medians of both halves, whose difference is the measurement's noise."""
    ordered, half = sorted(taken), max(1, len(taken) // 2)
    return {
        "p50": statistics.median(taken), "p20": ordered[len(ordered) // 5],
        "p80": ordered[min(len(ordered) - 1, len(ordered) * 4 // 5)], "rounds": len(taken),
        "first_half": statistics.median(taken[:half]), "second_half": statistics.median(taken[-half:]),
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
    """A function that replays the runs as one CUDA graph, and what they return (rewritten by every replay).

    The results stay alive, so every run writes memory of its own, as its inputs are its own.
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
    """The MiB of a GPU that torch allocated at most beyond what was there, as "mib" of the yielded dict."""
    found: dict[str, float] = {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found["mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20


@dataclass(frozen=True)
class Prepared:
    """A run ready for timing.

    Args:
        run: does the operation `calls` times, each on inputs of its own.
        timed: "graph" (one CUDA graph of all calls), "events" (device events around calls from the host, for what
            cannot be captured) or "clock" (the host's, on a CPU).
        cold: the inputs together are larger than a GPU's L2 cache, so that no call finds its own there.
        waits: what waits for the GPU inside a call and so forbade the graph.
        peak_mib: memory that one call takes beyond its inputs, on a GPU.
    """

    run: Run
    calls: int
    timed: str
    cold: bool
    waits: str | None = None
    peak_mib: float | None = None


def prepare(name: str, arguments: dict[str, Any], touched: int, how: str, grads: Named | None) -> Prepared:
    """Make OPERATIONS[name] ready for timing; call it and time the result inside `variant(how)`.

    Args:
        arguments: its inputs. touched: bytes that a call moves at least.
        grads: of the outputs, for training's forward and backward pass; None for the forward pass alone.
    """
    operation = OPERATIONS[name]
    device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
    call = callee(operation, how)
    if device.type == "cpu":
        return Prepared(step(operation, call, arguments, grads), 1, "clock", cold=False)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = replicas(arguments, touched, cache, torch.cuda.mem_get_info(device)[0] // 3)
    runs = [step(operation, call, made, grads) for made in (arguments, *(cloned(arguments) for _ in range(count - 1)))]
    for _ in range(3):  # compiles, and lets torch.compile settle
        runs[0]()
    with peak_memory() as found:
        runs[0]()
    waits, cold = synchronises(runs[0]), count * touched > 2 * cache
    if waits is None:
        return Prepared(captured(runs)[0], count, "graph", cold, peak_mib=found["mib"])

    def all_runs() -> None:
        for run in runs:
            run()

    return Prepared(all_runs, count, "events", cold, waits, found["mib"])


def replicas(arguments: dict[str, Any], touched: int, cache: int, room: int) -> int:
    """How many sets of inputs keep a call from finding its own in a cache, as far as there is room (both in bytes)."""
    held = sum(tensor.numel() * tensor.element_size() for value in arguments.values() for tensor in tensors(value))
    wanted = max(MIN_REPLICAS, -(-3 * cache // max(touched, 1)))
    return max(1, min(wanted, MAX_REPLICAS, room // max(held, 1)))


def cloned(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments whose tensors are copies."""
    return {key: each(value, torch.Tensor.clone) for key, value in arguments.items()}
