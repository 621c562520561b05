"""Diagnosis of this machine: its device, memory, versions and compiler, and the choice of device for a run."""

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

_FEATURES, _EVENTS_PER_NODE = 172, 10  # of the stream by which the doctor measures device memory


def diagnose() -> dict[str, Any]:
    """Report device, versions and compiler of this machine, and the device and backend of a run here with the reason.

    The compiler is tested: a small function is compiled and its result compared. For a GPU the report has its free and
    total memory in MiB, and the number of events that fit in the free memory in resident training of TGN at the default
    settings, with 172 features per event and ten events per node.
    """
    path = compiler()
    works, why = _try_fusion() if path else (False, f"no C++ compiler ({os.environ.get('CXX') or 'g++'} was not found)")
    gpu = find_gpu()
    if gpu.fault is None:
        choice = f"Training runs on the GPU {gpu.name} unless --device cpu is set"
    else:
        choice = f"Training runs on the CPU, since {gpu.fault}"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu_threads": torch.get_num_threads(),
        "cuda_device": gpu.name or "none",
        **_device_memory(gpu.name is not None),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "not installed",
        "cxx_compiler": path or "none",
        "device": "cuda" if gpu.fault is None else "cpu",
        "backend": "torch",
        "fused": works,
        "why": f"{choice}; its loops on the CPU are {'' if works else 'not '}fused: {why}.",
    }


def _device_memory(has_gpu: bool) -> dict[str, Any]:
    """Free and total memory of the GPU, and the number of events that fit in the free memory; None without a GPU."""
    free_mib, total_mib, capacity = "device_free_mib", "device_total_mib", f"resident_events_of_{_FEATURES}_features"
    if not has_gpu:
        return dict.fromkeys((free_mib, total_mib, capacity))
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError as error:  # the GPU is full, or in exclusive use by another process
        why = str(error).partition("\n")[0]
        return {free_mib: f"unknown: {why}", total_mib: "unknown", capacity: "unknown"}
    return {free_mib: free / 2**20, total_mib: total / 2**20, capacity: _resident_events(free)}


def _resident_events(free: int) -> int:
    """Number of events that fit in `free` bytes in resident training, whose memory grows linearly with the events."""
    config, facts, many = RunConfig(), Facts(_FEATURES), 10**7
    base, total = (Footprint.planned(config, events, events // _EVENTS_PER_NODE, facts).needed for events in (0, many))
    return max(free - base, 0) * many // (total - base)


def _try_fusion() -> tuple[bool, str]:
    """Compile a fused function and compare it with eager execution; returns success, and a clause with the reason."""
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
        return True, "torch.compile works with this compiler"
    return False, fusion_failure() or "the compiled result is wrong"
