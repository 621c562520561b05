"""Placement of tensors: tables in host memory or on the device, and the transfer of their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels import gather_rows

GATHERS, PLACES = ("copy", "kernel"), ("host", "device")


@dataclass(frozen=True)
class LazyTable:
    """Host table whose rows are converted once they are on the device, so that it may be a memory-mapped file.

    Args:
        stored: [M, F], as stored.
        convert: computes the rows that training reads from stored rows on the device, each from itself alone.
        dtype: of these rows.
    """

    stored: torch.Tensor
    convert: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """[M, F]."""
        return self.stored.shape

    def new_zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return zeros of the dtype of converted rows."""
        return torch.zeros(shape, dtype=self.dtype)


RowTable = torch.Tensor | LazyTable


@dataclass(frozen=True)
class Placement:
    """Host tables and the device that computes: the tables are pinned for a GPU, and plain if the device is the CPU.

    Copies and kernels run on the current stream without waiting for it. Only `store`, whose result the host reads, and
    `settle` wait.

    Args:
        device: computes on the rows.
        how: way of host rows to a GPU: "copy", gathered by the host and then copied, or "kernel", gathered from pinned
            memory by a kernel; the same on the CPU.
        resident: True keeps the tables on the device, so that no rows are transferred.

    Raises:
        ConfigError: `how` is unknown.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    how: str = "copy"
    resident: bool = False

    def __post_init__(self) -> None:
        if self.how not in GATHERS:
            raise ConfigError(f"gather {self.how!r} is not one of {', '.join(GATHERS)}")

    @property
    def apart(self) -> bool:
        """True if the device has memory of its own."""
        return self.device.type != "cpu"

    @property
    def by_kernel(self) -> bool:
        """True if a kernel on the device reads the host tables."""
        return self.apart and self.how == "kernel"

    def pin(self, table: torch.Tensor) -> torch.Tensor:
        """Pin a host table that the device copies from; returns the same tensor if nothing is copied."""
        return table.pin_memory() if self.apart and not self.resident else table

    def home(self, table: torch.Tensor) -> torch.Tensor:
        """Put a table where node state is: in pinned host memory, or on the device."""
        return table.to(self.device) if self.resident else self.pin(table)

    def placed(self, table: torch.Tensor, where: str) -> torch.Tensor:
        """Prepare a host table for `gather`: pinned ("host") or on the device ("device"); the same tensor on the CPU.

        Raises:
            ConfigError: `where` is unknown.
        """
        if where not in PLACES:
            raise ConfigError(f"features {where!r} is not one of {', '.join(PLACES)}")
        return table.to(self.device) if self.resident or where == "device" else self.pin(table)

    def numbers(self, rows: torch.Tensor) -> torch.Tensor:
        """Row numbers in the form that `gather` needs, so that they are copied once for several tables."""
        return self.load(rows) if self.by_kernel else rows

    def gather(self, table: RowTable, rows: torch.Tensor) -> torch.Tensor:
        """Copy rows [M] of a table into a new tensor on the device.

        Args:
            table: pinned on the host, or on the device; a lazy table on the host, unless `by_kernel`.
            rows: on the host, or as `numbers` returns them.
        """
        if isinstance(table, LazyTable):
            return table.convert(self.gather(table.stored, rows))
        if not self.apart or not table.is_cpu:
            return table.index_select(0, self.load(rows))
        if self.by_kernel:
            return gather_rows(table, self.load(rows))
        staged = torch.empty((rows.numel(), *table.shape[1:]), dtype=table.dtype, pin_memory=True)
        torch.index_select(table, 0, rows, out=staged)
        return staged.to(self.device, non_blocking=True)

    def span(self, table: RowTable, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of a table on the device; a view if they need no copy."""
        if isinstance(table, LazyTable):
            return table.convert(self.load(table.stored[start:stop]))
        return self.load(table[start:stop])

    def settle(self) -> None:
        """Wait until the device has read the gathered rows; returns at once if the host gathered them."""
        if self.by_kernel:
            torch.cuda.current_stream(self.device).synchronize()

    def load(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a host tensor to the device; a device tensor is returned unchanged."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.apart and tensor.is_cpu else tensor

    def store(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a device tensor to the host and wait for the copy."""
        return tensor.cpu()
