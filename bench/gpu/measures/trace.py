"""Profile of a replayed step by torch's profiler: its kernels and copies, and the calls that made the host wait."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

MARK = "the replays"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ON_HOST = ("cuda_runtime", "cuda_driver")


def profile(run: Callable[[], Any], times: int) -> dict[str, Any]:
    """Profile repeated runs on a GPU, after one that warms up the profiler; returns the result of `summarise`."""
    result: dict[str, Any] = {}
    for repeats in (1, times):
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profiler:
            with torch.profiler.record_function(MARK):
                for _ in range(repeats):
                    run()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(path))
            result = summarise(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], repeats)
    return result


def summarise(events: Iterable[Mapping[str, Any]], times: int) -> dict[str, Any]:
    """Summarise the events of a Chrome trace for `times` runs inside the mark.

    Returns:
        nodes: kernels, copies and fills per run; None if their number is not a multiple of `times` (some were lost).
        device_seconds: their total duration per run.
        kernels: per name, the count and microseconds per run, the longest first.
        waits: calls in which the host waited for the device. to_host: number of copies from the device to the host.
    """
    spans = [event for event in events if event.get("ph") == "X"]
    mark = next(event for event in spans if event.get("name") == MARK and event.get("cat") == "user_annotation")
    on_device = [event for event in spans if event.get("cat") in ON_DEVICE]
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in on_device:
        by_name[event["name"][:120]].append(float(event["dur"]))
    inside = [event for event in spans if event.get("cat") in ON_HOST and _within(event, mark)]
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    return {
        "nodes": None if not on_device or len(on_device) % times else len(on_device) // times,
        "device_seconds": sum(sum(durations) for durations in by_name.values()) * 1e-6 / times,
        "kernels": {
            name: {"count": len(durations) / times, "microseconds": sum(durations) / times}
            for name, durations in ordered
        },
        "waits": sorted(event["name"] for event in inside if "Synchronize" in event["name"]),
        "to_host": sum("DtoH" in event["name"] for event in on_device),
    }


def _within(event: Mapping[str, Any], mark: Mapping[str, Any]) -> bool:
    return bool(mark["ts"] <= event["ts"] <= mark["ts"] + mark["dur"])
