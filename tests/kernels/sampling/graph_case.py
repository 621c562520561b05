"""Torch operations and kernel launches of a call, and the operations that no CUDA graph can capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from mspipe_triton.kernels.runtime import launch

# These wait for the device: their result goes to the host, or its shape depends on values.
WAITING = {
    "_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_consecutive",
    "unique_dim", "bincount", "repeat_interleave",
}  # fmt: skip


class _OperationNames(TorchDispatchMode):
    """Names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations_of(call: Callable[[], Any]) -> set[str]:
    """Names of the torch operations of a call."""
    with _OperationNames() as mode:
        call()
    return mode.names


def launches_of(call: Callable[[], Any]) -> tuple[list[str], set[str]]:
    """Names of the kernels that a call launches, none of which runs, and of its torch operations."""
    with launch.recording() as launches:
        names = operations_of(call)
    return [entry.kernel.name for entry in launches], names
