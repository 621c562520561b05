"""The CPU's results that a GPU is judged by: computed once, kept in a folder, and computed anew where that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.setup import Setup
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import fingerprint
from mspipe_triton.kernels.runtime.launch import references
from mspipe_triton.tuning.rounding import Expected

Results = dict[str, Any]  # tensors, numbers, texts, and lists and dicts of these


def reference(setup: Setup, name: str, stream: EventStream, compute: Callable[[], Results]) -> Results:
    """The results of a name on a stream, by the torch references on the CPU.

    The folder's are taken where they are of the very same stream: `kept` in what comes back tells.
    """
    about = {"stream": fingerprint(stream), "quick": setup.quick}
    path = None if setup.references is None else setup.references / f"{name}.pt"
    if path is not None and path.exists():
        found: Results = torch.load(path)
        if found["about"] == about:
            return {**found, "kept": True}
    with references():
        computed = {**compute(), "about": about}
    if path is not None and setup.target == "cpu":
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(computed, path)
    return {**computed, "kept": False}


def as_results(right: Expected) -> Results:
    """An `Expected` as results that can be kept."""
    dtypes = {name: _text(dtype) for name, dtype in right.dtypes.items()}
    return {"truth": right.truth, "change": dict(right.change), "dtypes": dtypes, "dtype": _text(right.dtype)}


def as_expected(results: Results) -> Expected:
    """The `Expected` of kept results."""
    dtypes = {name: getattr(torch, text) for name, text in results["dtypes"].items()}
    return Expected(results["truth"], results["change"], dtypes, getattr(torch, results["dtype"]))


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
