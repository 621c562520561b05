"""Pipelined runs: the stages of a plan train a module on processes of `torch.distributed`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mspipe_triton.pipeline.graphpipe.run.checkpoint import module_state

_PUBLIC = {"module_state": "checkpoint"}

__all__ = ["module_state"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package does not load torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
