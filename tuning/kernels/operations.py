"""The calls of our operations that training makes: recorded as they come by, and timed."""

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
from mspipe_triton.tuning.kernels.calls import Call, duplicate, each, pinned, tensors

NAMESPACE = "mspipe_triton"


def recorded(run: Callable[[], Any]) -> list[Call]:
    """The calls of our operations as kernels that `run` makes on this thread, backward passes included.

    Of a run whose stages have threads of their own only this thread's share is seen; the serial schedule has one.

    Of calls alike in operation, dtypes, flags and shapes the last one is kept, whose tables are no longer empty as an
    epoch's first are. First dimensions, of which batches differ, are alike within one power of two. Arguments are
    copied as they were at the call, strides and alignment too; tables in pinned host memory, which can be larger than
    the device, are shared unless the call writes them. What fusion compiles runs uncompiled meanwhile.
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
    """Sees every operation below autograd; ours are kept."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[tuple[Any, ...], Call] = {}
        self.copies = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func.namespace == NAMESPACE:
            self._keep(func, args, given)
        return func(*args, **given)

    def _keep(self, operation: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        names = [entry.name for entry in operation._schema.arguments]
        call = Call(operation, {**dict(zip(names, args, strict=False)), **kwargs})
        if not any(on_triton(tensor) for value in call.arguments.values() for tensor in tensors(value)):
            return
        key = (call.name, *(_kind(value) for value in call.arguments.values()))
        kept = {
            name: each(value, functools.partial(self._copy, shared=name not in call.mutated))
            for name, value in call.arguments.items()
        }
        seen = self.calls.pop(key, None)
        self.calls[key] = replace(call, arguments=kept, times=1 if seen is None else seen.times + 1)

    def _copy(self, tensor: torch.Tensor, shared: bool) -> torch.Tensor:
        """A copy outside autograd that remembers whether a gradient was asked for; the last one while it is unchanged.

        `shared` lets a table in pinned memory stand for itself.
        """
        asks = tensor.requires_grad
        if shared and pinned(tensor):
            return tensor.detach().requires_grad_(asks)
        version, known = tensor._version, self.copies.get(tensor)
        if known is None or known[0] != version:
            known = version, duplicate(tensor.detach()).requires_grad_(asks)
            self.copies[tensor] = known
        copy: torch.Tensor = known[1]
        return copy


def _kind(value: Any) -> Any:
    """What calls that are alike share of an argument."""
    if isinstance(value, (list, tuple)):
        return tuple(_kind(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    first = value.shape[0].bit_length() if value.dim() else 0
    strides = value.stride(0) if value.dim() > 1 else 0
    return value.dtype, value.device, value.requires_grad, first, value.shape[1:], strides


def seconds(call: Call) -> float:
    """The median of a call's time: replays of a CUDA graph, or launches where it waits for the GPU; a CPU's clock."""
    run = call.step()
    run()
    if call.device.type != "cuda":
        return statistics.median(_by_clock(run) for _ in range(3))
    bench = triton.testing.do_bench_cudagraph if synchronises(run) is None else triton.testing.do_bench
    return float(bench(run, return_mode="median")) * 1e-3


def _by_clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def synchronises(run: Callable[[], Any]) -> str | None:
    """What waits for the GPU inside a run, or None; such a run cannot be captured. Call it once before, to warm up."""
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
