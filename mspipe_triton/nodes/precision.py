"""Rows kept in bfloat16, as code sees them that computes with them itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


def widened(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a bfloat16 table in `dtype`; others, times and ids among them, as they are."""
    return rows.to(dtype) if rows.dtype == torch.bfloat16 else rows


@dataclass(frozen=True)
class WideRecord:
    """A record whose bfloat16 rows are read in `dtype`, one by one, when they are asked for."""

    record: Any
    dtype: torch.dtype

    def __getattr__(self, name: str) -> Any:
        part = getattr(self.record, name)
        return widened(part, self.dtype) if isinstance(part, torch.Tensor) else part
