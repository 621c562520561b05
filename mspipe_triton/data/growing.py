"""Growing tensor: rows in a buffer with spare capacity, to which others are appended in constant time on average."""

from __future__ import annotations

import torch


class Growing:
    """A tensor [M, ...] whose last rows can be replaced by more rows; its buffer grows by half at least.

    Args:
        rows: [M, ...] the first rows, which are copied.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self._buffer, self._size = rows.clone(memory_format=torch.contiguous_format), rows.shape[0]

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
            self._buffer = buffer
        self._buffer[start:stop] = rows
        self._size = stop

    def __len__(self) -> int:
        """Number of rows, M."""
        return self._size
