"""What torch's profiler saw of a step that was replayed: its kernels and copies, and what made the host wait."""

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


def profiled(run: Callable[[], Any], times: int) -> dict[str, Any]:
    """Profile a run that is repeated on a GPU: see `counted`. Profiling once first lets the profiler settle."""
    found: dict[str, Any] = {}
    for repeats in (1, times):
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profile:
            with torch.profiler.record_function(MARK):
                for _ in range(repeats):
                    run()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json")
            profile.export_chrome_trace(str(path))
            found = counted(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], repeats)
    return found


def counted(events: Iterable[Mapping[str, Any]], times: int) -> dict[str, Any]:
    """What a Chrome trace holds of `times` runs inside the mark.

    Returns:
        nodes: kernels, copies and fills a run, None where their number is no multiple of `times` (some were lost).
        device_seconds: their durations together, a run.
        kernels: by name, how many a run and their microseconds, the longest first.
        waits: calls by which the host waited for the device. to_host: copies from the device to the host.
    """
    whole = [event for event in events if event.get("ph") == "X"]
    mark = next(event for event in whole if event.get("name") == MARK and event.get("cat") == "user_annotation")
    on_device = [event for event in whole if event.get("cat") in ON_DEVICE]
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in on_device:
        by_name[event["name"][:120]].append(float(event["dur"]))
    inside = [event for event in whole if event.get("cat") in ON_HOST and _within(event, mark)]
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    return {
        "nodes": None if not on_device or len(on_device) % times else len(on_device) // times,
        "device_seconds": sum(sum(each) for each in by_name.values()) * 1e-6 / times,
        "kernels": {name: {"count": len(each) / times, "microseconds": sum(each) / times} for name, each in ordered},
        "waits": sorted(event["name"] for event in inside if "Synchronize" in event["name"]),
        "to_host": sum("DtoH" in event["name"] for event in on_device),
    }


def _within(event: Mapping[str, Any], mark: Mapping[str, Any]) -> bool:
    return bool(mark["ts"] <= event["ts"] <= mark["ts"] + mark["dur"])
