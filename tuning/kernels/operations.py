"""Recording and timing the calls that training makes of our operations."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mspipe_triton.kernels.runtime.fusion import enable_fusion, fusion_enabled
from mspipe_triton.kernels.runtime.launch import on_triton, triton
from mspipe_triton.tuning.kernels.calls import Call, duplicate, each, is_pinned, tensors

NAMESPACE = "mspipe_triton"


def record_calls(run: Callable[[], Any]) -> list[Call]:
    """Return the calls that `run` makes of our operations as kernels on this thread, including backward passes.

    Stages on other threads are not seen; the serial schedule runs all stages on one thread.

    Among calls with the same operation, dtypes, flags and shapes the last one counts, since tables are empty at the
    start of an epoch. First dimensions, which differ between batches, match within one power of two. Arguments are
    copied at the call with their strides and alignment; tables in pinned host memory, which can be larger than the
    device, are shared unless the call writes them. Fused loops run uncompiled while recording.
    """
    recorder, before = _Recorder(), fusion_enabled()
    enable_fusion(False)
    try:
        with recorder:
            run()
    finally:
        enable_fusion(before)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # the copies were queued on the streams of the calls
    return list(recorder.calls.values())


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd and records ours."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[tuple[Any, ...], Call] = {}
        self.copies = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        if func.namespace == NAMESPACE:
            self._record(func, args, keywords)
        return func(*args, **keywords)

    def _record(self, operation: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        names = [entry.name for entry in operation._schema.arguments]
        call = Call(operation, {**dict(zip(names, args, strict=False)), **kwargs})
        if not any(on_triton(tensor) for value in call.arguments.values() for tensor in tensors(value)):
            return
        key = (call.name, *(_signature(value) for value in call.arguments.values()))
        copies = {
            name: each(value, functools.partial(self._copy, shared=name not in call.mutated))
            for name, value in call.arguments.items()
        }
        earlier = self.calls.pop(key, None)
        self.calls[key] = replace(call, arguments=copies, times=1 if earlier is None else earlier.times + 1)

    def _copy(self, tensor: torch.Tensor, shared: bool) -> torch.Tensor:
        """Return a detached copy with the same `requires_grad`; the previous one if the tensor has not changed.

        With `shared`, a table in pinned memory is not copied.
        """
        requires_grad = tensor.requires_grad
        if shared and is_pinned(tensor):
            return tensor.detach().requires_grad_(requires_grad)
        version, entry = tensor._version, self.copies.get(tensor)
        if entry is None or entry[0] != version:
            entry = version, duplicate(tensor.detach()).requires_grad_(requires_grad)
            self.copies[tensor] = entry
        copy: torch.Tensor = entry[1]
        return copy


def _signature(value: Any) -> Any:
    """Return the properties of an argument that equal calls share."""
    if isinstance(value, (list, tuple)):
        return tuple(_signature(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    first = value.shape[0].bit_length() if value.dim() else 0
    strides = value.stride(0) if value.dim() > 1 else 0
    return value.dtype, value.device, value.requires_grad, first, value.shape[1:], strides


def seconds(call: Call) -> float:
    """Return a call's median seconds: of CUDA graph replays, or of launches if it waits for the GPU; or on the CPU."""
    run = call.step()
    run()
    if call.device.type != "cuda":
        return statistics.median(_wall_time(run) for _ in range(3))
    bench = triton.testing.do_bench_cudagraph if synchronises(run) is None else triton.testing.do_bench
    return float(bench(run, return_mode="median")) * 1e-3


def _wall_time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def synchronises(run: Callable[[], Any]) -> str | None:
    """Return what in `run` waits for the GPU, which prevents capturing, or None; call it once before, to warm up."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None
