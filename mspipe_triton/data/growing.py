"""Growing tensor: rows in a buffer with spare capacity, to which others are appended in constant time on average."""

from __future__ import annotations

from typing import Any

import torch


class Growing:
    """A tensor [M, ...] whose last rows can be replaced by more rows; its buffer grows by half at least.

    Args:
        rows: [M, ...] the first rows, which are copied.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self._buffer, self._size = rows.clone(memory_format=torch.contiguous_format), rows.shape[0]
        self._array = _array(self._buffer)

    @property
    def rows(self) -> torch.Tensor:
        """The M rows, a view of the buffer that is valid until rows are appended or replaced."""
        return self._buffer[: self._size]

    def append(self, rows: torch.Tensor) -> None:
        """Append rows [K, ...]."""
        self.replace(self._size, rows)

    def replace(self, start: int, rows: torch.Tensor) -> None:
        """Replace the rows from place `start` on, which is at most M, by rows [K, ...]."""
        stop, capacity = start + rows.shape[0], self._buffer.shape[0]
        if stop > capacity:
            buffer = self._buffer.new_empty((max(stop, capacity + capacity // 2), *self._buffer.shape[1:]))
            buffer[:start] = self._buffer[:start]
            self._buffer, self._array = buffer, _array(buffer)
        self._array[start:stop] = rows if isinstance(self._array, torch.Tensor) else rows.numpy()
        self._size = stop

    def __len__(self) -> int:
        """Number of rows, M."""
        return self._size


def _array(buffer: torch.Tensor) -> Any:
    """Return an array that shares a buffer's memory, since it takes a few rows in less time; numpy has no bfloat16."""
    return buffer if buffer.dtype == torch.bfloat16 else buffer.numpy()
