"""What this machine can do, and why not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.devices import find_gpu
from mspipe_triton.models import Facts
from mspipe_triton.settings import compiler
from mspipe_triton.training.footprint import Footprint

_FEATURES, _EVENTS_A_NODE = 172, 10  # of the stream that the doctor measures a device by


def diagnose() -> dict[str, Any]:
    """Device, versions and compiler of this machine, and which device and backend a run will take here and why.

    The compiler is tried, not only looked for: a small function is compiled and its result compared. Of a GPU the free
    and all its memory, in MiB, are among the facts, and how many events with 172 features each, ten of them a node,
    resident training of TGN at the default settings holds in what is free.
    """
    found = compiler()
    works, why = _try_fusion() if found else (False, f"no C++ compiler ({os.environ.get('CXX') or 'g++'} is not there)")
    gpu = find_gpu()
    if gpu.fault is None:
        where = f"Training is on the GPU {gpu.name} unless --device cpu is given"
    else:
        where = f"Training is on the CPU, since {gpu.fault}"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu_threads": torch.get_num_threads(),
        "cuda_device": gpu.name or "none",
        **_device_memory(gpu.name is not None),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "not installed",
        "cxx_compiler": found or "none",
        "device": "cuda" if gpu.fault is None else "cpu",
        "backend": "torch",
        "fused": works,
        "why": f"{where}; its loops on the CPU are {'' if works else 'not '}fused, {why}.",
    }


def _device_memory(seen: bool) -> dict[str, Any]:
    """The GPU's free and whole memory, and the events that fit in what is free; None without a GPU."""
    free_mib, total_mib, held = "device_free_mib", "device_total_mib", f"resident_events_of_{_FEATURES}_features"
    if not seen:
        return dict.fromkeys((free_mib, total_mib, held))
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError as error:  # a GPU that is full, or lent to one process alone, does not tell
        why = str(error).partition("\n")[0]
        return {free_mib: f"unknown: {why}", total_mib: "unknown", held: "unknown"}
    return {free_mib: free / 2**20, total_mib: total / 2**20, held: _resident_events(free)}


def _resident_events(free: int) -> int:
    """How many events resident training holds in so many bytes: what it needs grows by the same with every event."""
    config, facts, many = RunConfig(), Facts(_FEATURES), 10**7
    least, more = (Footprint.planned(config, events, events // _EVENTS_A_NODE, facts).needed for events in (0, many))
    return max(free - least, 0) * many // (more - least)


def _try_fusion() -> tuple[bool, str]:
    """Whether a fused function compiles and gives what eager execution gives, and a clause saying why or why not."""
    from mspipe_triton.kernels.numbers.time_encoding import fused_encode_time, time_frequencies
    from mspipe_triton.kernels.runtime.fusion import enable_fusion, fusion_enabled, fusion_failure

    deltas, frequency = torch.arange(64.0).view(8, 8), time_frequencies(100)
    expected = fused_encode_time(deltas, frequency, torch.zeros(100))
    enable_fusion()
    if not fusion_enabled():
        return False, fusion_failure() or "torch.compile is switched off by TORCHDYNAMO_DISABLE"
    close = torch.allclose(fused_encode_time(deltas, frequency, torch.zeros(100)), expected, atol=1e-5)
    works = fusion_enabled() and close
    enable_fusion(False)
    if works:
        return True, "since torch.compile works with this compiler"
    return False, fusion_failure() or "since the compiled result is wrong"
