"""What torch does inside a call, and of that what no CUDA graph can capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from mspipe_triton.kernels.runtime import launch

# They wait for the device: their result goes to the host, or its shape depends on values.
WAITING = {
    "_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_consecutive",
    "unique_dim", "bincount", "repeat_interleave",
}  # fmt: skip


class _Seen(TorchDispatchMode):
    """The names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def dispatched(call: Callable[[], Any]) -> set[str]:
    """The names of the operations that a call makes."""
    with _Seen() as seen:
        call()
    return seen.names


def launched(call: Callable[[], Any]) -> tuple[list[str], set[str]]:
    """The kernels that a call launches, none of which runs, and the torch operations beside them."""
    with launch.recording() as recorded:
        names = dispatched(call)
    return [entry.kernel.name for entry in recorded], names
