"""Conversion of bfloat16 rows to the dtype of computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


def widen(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert bfloat16 rows to `dtype`; rows of other dtypes, such as times and ids, are returned unchanged."""
    return rows.to(dtype) if rows.dtype == torch.bfloat16 else rows


@dataclass(frozen=True)
class WideRecord:
    """A record whose bfloat16 fields are converted to `dtype` on access."""

    record: Any
    dtype: torch.dtype

    def __getattr__(self, name: str) -> Any:
        part = getattr(self.record, name)
        return widen(part, self.dtype) if isinstance(part, torch.Tensor) else part
