"""Argument checks that all operations share; each error names the operation, the argument, its value and the fix."""

from __future__ import annotations

import os
from typing import Any

import torch

INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float32, torch.float64, torch.bfloat16)
COMPUTED = (torch.float32, torch.float64)
TIMES = (torch.int64, torch.float64)


class _State:
    """The process-wide switch for checks that read values and so wait for the device."""

    debug = os.environ.get("MSPIPE_TRITON_DEBUG", "0") not in ("", "0")


def enable_debug(enabled: bool = True) -> None:
    """Turn on checks of values (rows and nodes within their tables); each check waits for the device.

    Off at import, unless the environment sets MSPIPE_TRITON_DEBUG=1.
    """
    _State.debug = enabled


def debugging() -> bool:
    """Return True if checks may read values: debugging is on and nothing is tracing."""
    return _State.debug and not torch.compiler.is_compiling()


def named(args: Any, *names: str) -> dict[str, Any]:
    """Inputs of an operation, by name."""
    return {name: getattr(args, name) for name in names}


def shape(operation: str, **pairs: tuple[torch.Tensor | None, tuple[int, ...]]) -> None:
    """Refuse tensors whose shape differs from the expected one; None passes, as in all checks."""
    for name, (tensor, shape) in pairs.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{operation}: {name} has shape {tuple(tensor.shape)}; give {tuple(shape)}")


def dims(operation: str, count: int, /, **tensors: torch.Tensor | None) -> None:
    """Refuse tensors with a different number of dimensions."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dim() != count:
            raise ValueError(f"{operation}: {name} has shape {tuple(tensor.shape)}; give {count} dimensions")


def dtype(operation: str, allowed: tuple[torch.dtype, ...], /, **tensors: torch.Tensor | None) -> None:
    """Refuse tensors whose dtype is not allowed; None passes, as in all checks."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in allowed:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise ValueError(f"{operation}: {name} is {tensor.dtype}; give {names}, as with {name}.to({allowed[0]})")


def same_dtype(operation: str, **tensors: torch.Tensor | None) -> None:
    """Refuse tensors whose dtype differs from the first one's."""
    first, *others = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    for name, tensor in others:
        if tensor.dtype != first[1].dtype:
            raise ValueError(
                f"{operation}: {name} is {tensor.dtype} beside {first[0]} in {first[1].dtype}; "
                f"give both one dtype, as with {name}.to({first[0]}.dtype)"
            )


def layout(operation: str, **tensors: torch.Tensor | None) -> None:
    """Refuse vectors that are not contiguous, and tables whose rows are not; rows may have any stride."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        rows = tensor.dim() == 2 and (tensor.stride(1) == 1 or tensor.shape[1] <= 1)
        if not (rows or tensor.is_contiguous()):
            raise ValueError(
                f"{operation}: {name} {tuple(tensor.shape)} has strides {tensor.stride()}; "
                f"its last must be 1, as with {name}.contiguous()"
            )


def device(
    operation: str, where: torch.device, pinned: tuple[str, ...] = (), /, **tensors: torch.Tensor | None
) -> None:
    """Refuse tensors on a device other than `where`; those named in `pinned` may be in pinned host memory."""
    for name, tensor in tensors.items():
        if tensor is None or tensor.device == where:
            continue
        if name not in pinned or tensor.device.type != "cpu":
            raise ValueError(
                f"{operation}: {name} is on {tensor.device}, not on {where}; move it with .to({str(where)!r})"
            )
        if not tensor.is_pinned():
            raise ValueError(
                f"{operation}: {name} is in pageable host memory, which a kernel cannot read; "
                f"give {name}.pin_memory() or {name}.to({str(where)!r})"
            )


def dropout(operation: str, where: torch.device, rate: float, /, **draws: torch.Tensor | None) -> None:
    """Refuse a probability outside [0, 1), and missing or malformed Philox words."""
    if not 0 <= rate < 1:
        raise ValueError(f"{operation}: dropout must be at least 0 and below 1, not {rate}")
    for name, words in draws.items():
        if rate > 0 and words is None:
            raise ValueError(f"{operation}: dropout needs {name}, the Philox words [seed, purpose, epoch, iteration]")
        shape(operation, **{name: (words, (4,))})
    dtype(operation, (torch.int64,), **draws)
    layout(operation, **draws)
    device(operation, where, **draws)


def within(operation: str, name: str, values: torch.Tensor | None, stop: int, start: int | None = 0) -> None:
    """With debugging on, refuse integers outside [start, stop); negatives pass if `start` is None."""
    if not debugging() or values is None or values.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(values))
    if high >= stop or (start is not None and low < start):
        worst, end = (high, f"[{start or 0}, {stop})") if high >= stop else (low, f"[{start}, {stop})")
        padding = "" if start == 0 else "; negatives are padding"
        raise ValueError(f"{operation}: {name} holds {worst}, outside {end}{padding}; fix the ids before the call")
