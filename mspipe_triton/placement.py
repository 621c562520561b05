"""Where tensors live: tables in host memory, and the device that works on their rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Placement:
    """Host tables beside a device: pinned where the device is a GPU, and plain where it is the CPU itself.

    Copies run on the current stream and do not wait for it; `store` does, since the host reads what it returns.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def apart(self) -> bool:
        """Whether the device has memory of its own."""
        return self.device.type != "cpu"

    def pin(self, table: torch.Tensor) -> torch.Tensor:
        """A host table that the device can copy from; the same tensor on the CPU."""
        return table.pin_memory() if self.apart else table

    def gather(self, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows [M] of a host table, on the device and in memory of their own."""
        if not self.apart:
            return table.index_select(0, rows)
        staged = torch.empty((rows.numel(), *table.shape[1:]), dtype=table.dtype, pin_memory=True)
        torch.index_select(table, 0, rows, out=staged)
        return staged.to(self.device, non_blocking=True)

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host tensor on the device."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.apart else tensor

    def store(self, tensor: torch.Tensor) -> torch.Tensor:
        """A device tensor on the host, complete."""
        return tensor.cpu()
