"""Where tensors live: tables in host memory, and the device that works on their rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels import gather_rows

GATHERS, PLACES = ("copy", "kernel"), ("host", "device")


@dataclass(frozen=True)
class Placement:
    """Host tables beside a device: pinned where the device is a GPU, and plain where it is the CPU itself.

    Copies and kernels run on the current stream and nothing waits for it, but for `store`, since the host reads what it
    returns, and `settle`.

    Args:
        device: works on the rows.
        how: rows of host tables come to a GPU: "copy", gathered by the host and then copied, or "kernel", gathered from
            pinned memory by a kernel; the same on the CPU.
        resident: the tables lie on the device too, so that nothing has to come to it.

    Raises:
        ConfigError: another `how`.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    how: str = "copy"
    resident: bool = False

    def __post_init__(self) -> None:
        if self.how not in GATHERS:
            raise ConfigError(f"gather {self.how!r}: rows come to a device by {' or '.join(GATHERS)}; give one of them")

    @property
    def apart(self) -> bool:
        """Whether the device has memory of its own."""
        return self.device.type != "cpu"

    @property
    def by_kernel(self) -> bool:
        """Whether the device reads host tables itself."""
        return self.apart and self.how == "kernel"

    def pin(self, table: torch.Tensor) -> torch.Tensor:
        """A host table that the device can copy from; the same tensor on the CPU, and where nothing is copied."""
        return table.pin_memory() if self.apart and not self.resident else table

    def home(self, table: torch.Tensor) -> torch.Tensor:
        """A table where node state lies: pinned on the host, or on the device."""
        return table.to(self.device) if self.resident else self.pin(table)

    def placed(self, table: torch.Tensor, where: str) -> torch.Tensor:
        """A host table pinned ("host") or on the device ("device"), for `gather`; the same tensor on the CPU.

        Raises:
            ConfigError: another `where`.
        """
        if where not in PLACES:
            raise ConfigError(f"features {where!r}: a table lies on {' or '.join(PLACES)}; give one of them")
        return table.to(self.device) if self.resident or where == "device" else self.pin(table)

    def numbers(self, rows: torch.Tensor) -> torch.Tensor:
        """Row numbers on the host as `gather` wants them, so that several tables take one copy of them."""
        return self.load(rows) if self.by_kernel else rows

    def gather(self, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows [M] of a table, on the device and in memory of their own.

        Args:
            table: pinned on the host, or on the device.
            rows: on the host, or where `numbers` put them.
        """
        if not self.apart or not table.is_cpu:
            return table.index_select(0, self.load(rows))
        if self.by_kernel:
            return gather_rows(table, self.load(rows))
        staged = torch.empty((rows.numel(), *table.shape[1:]), dtype=table.dtype, pin_memory=True)
        torch.index_select(table, 0, rows, out=staged)
        return staged.to(self.device, non_blocking=True)

    def settle(self) -> None:
        """Wait until the device has read what was gathered; nothing to wait for where the host has gathered it."""
        if self.by_kernel:
            torch.cuda.current_stream(self.device).synchronize()

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host tensor on the device; one that is there already as it is."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.apart and tensor.is_cpu else tensor

    def store(self, tensor: torch.Tensor) -> torch.Tensor:
        """A device tensor on the host, complete."""
        return tensor.cpu()
