"""CPU results to check a GPU against: computed once and stored in a folder, or computed again if it lacks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.setup import Setup
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import fingerprint
from mspipe_triton.kernels.runtime.launch import references
from mspipe_triton.tuning.rounding import Expected

Results = dict[str, Any]  # tensors, numbers, strings, and lists and dicts of these


def reference(setup: Setup, name: str, stream: EventStream, compute: Callable[[], Results]) -> Results:
    """Return the named results on a stream, computed by the torch references on the CPU.

    Results in the folder are used if they belong to the same stream; then "kept" is True.
    """
    about = {"stream": fingerprint(stream), "quick": setup.quick}
    path = None if setup.references is None else setup.references / f"{name}.pt"
    if path is not None and path.exists():
        results: Results = torch.load(path)
        if results["about"] == about:
            return {**results, "kept": True}
    with references():
        results = {**compute(), "about": about}
    if path is not None and setup.target == "cpu":
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(results, path)
    return {**results, "kept": False}


def as_results(expected: Expected) -> Results:
    """Convert an `Expected` to results that can be stored."""
    dtypes = {name: _text(dtype) for name, dtype in expected.dtypes.items()}
    dtype = _text(expected.dtype)
    return {"truth": expected.truth, "change": dict(expected.change), "dtypes": dtypes, "dtype": dtype}


def as_expected(results: Results) -> Expected:
    """Convert stored results back to an `Expected`."""
    dtypes = {name: getattr(torch, text) for name, text in results["dtypes"].items()}
    return Expected(results["truth"], results["change"], dtypes, getattr(torch, results["dtype"]))


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
