"""Checks of a kernel's configuration before timing: it fits the GPU, writes every output, and matches torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mspipe_triton.kernels.runtime.compiling import SHARED_LIMIT, Resources, compile_launch
from mspipe_triton.kernels.runtime.launch import Config, Kernel, Launch
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.rounding import Named

JUNK = 3  # a small integer, so that a kernel that reads unwritten memory is wrong but stays inside its tables
RUNS = 3  # per gate, so that a race has a chance to show


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill torch's empty tensors with NaN, `JUNK` or True, so that values that a kernel leaves unwritten show."""

    def filling(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def make_filled(*arguments: Any, **keywords: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*arguments, **keywords)
            return tensor.fill_(torch.nan if tensor.is_floating_point() else JUNK)

        return make_filled

    places: list[tuple[Any, str]] = [(torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")]
    originals = [getattr(owner, name) for owner, name in places]
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, filling(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def gate(call: Call) -> str | None:
    """Return why a call must not use the configurations in force, in one line, or None if its results are right.

    The call runs a few times on poisoned outputs. `Call.expected` judges the outputs, mutated arguments and gradients;
    without float additions in random order, the bits must also be the same each time.
    """
    first: Named = {}
    for _ in range(RUNS):
        with poisoned():
            actual = call.run()
        for name, entry in call.expected.errors(actual).items():
            if not entry["passed"]:
                return f"{call.name}: {name} {_fault(entry)}"
        first = first or actual
        for name, value in actual.items():
            if not call.leaves and not torch.equal(value, first[name]):
                return f"{call.name}: {name} changes from run to run"
    return None


def _fault(entry: Mapping[str, Any]) -> str:
    if "error" not in entry:
        return f"is {entry['dtype']} {entry['shape']}, unlike the result of torch"
    return f"is off by {entry['error']:.3g}, where {entry['allowed']:.3g} is allowed"


def compute_capability() -> int | None:
    """Return the compute capability (80, 90) of the GPU that kernels are compiled for, or None without compilation."""
    if not torch.cuda.is_available() or torch.version.hip or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def unfit(kernel: Kernel, variant: str, config: Config, calls: list[Call], capability: int) -> str | None:
    """Return why a configuration need not be tried in these calls, in one line: compiled ahead of time, it uses more
    stack than the shipped one, needs too much shared memory, or does not compile. None if it fits, or if the shipped
    one does not compile here either."""
    shipped = kernel.configs.get(variant, kernel.configs["float32"])[0]
    for call in calls:
        try:
            resources = _resources(kernel, variant, config, call, capability)
        except Exception as error:  # compilers raise various errors
            if _stack(kernel, variant, shipped, call, capability) is None:
                continue  # no compiler, or none for this GPU: the trial itself will show
            return f"it does not compile ({type(error).__name__}: {first_line(error)})"
        shared, limit = max((needs.shared for needs in resources), default=0), _shared_limit(capability)
        if shared > limit:
            return f"it needs {shared:,} bytes of shared memory; the GPU has {limit:,}"
        stack = max((needs.stack for needs in resources), default=0)
        if stack and stack > (_stack(kernel, variant, shipped, call, capability) or 0):
            return f"its registers spill: {stack:,} bytes of stack"
    return None


def _stack(kernel: Kernel, variant: str, config: Config, call: Call, capability: int) -> int | None:
    """Return the bytes of stack that a kernel uses in a call, or None if it does not compile."""
    try:
        return max((needs.stack for needs in _resources(kernel, variant, config, call, capability)), default=0)
    except Exception:  # as above
        return None


def _resources(kernel: Kernel, variant: str, config: Config, call: Call, capability: int) -> list[Resources]:
    """Return the resources of each specialisation that a call launches under a configuration."""
    before = kernel.chosen.get(variant)
    kernel.chosen[variant] = config  # sizes of buffers and constants follow from it
    try:
        launches = [launch for launch in call.launches() if launch.kernel is kernel and launch.config is config]
    finally:
        if before is None:
            del kernel.chosen[variant]
        else:
            kernel.chosen[variant] = before
    return [compile_launch(launch, config, capability) for launch in _distinct(launches)]


def _distinct(launches: list[Launch]) -> list[Launch]:
    def key(launch: Launch) -> tuple[Any, ...]:
        dtypes = [value.dtype if isinstance(value, torch.Tensor) else type(value) for value in launch.arguments]
        return (*dtypes, *sorted((name, str(value)) for name, value in launch.constants.items()))

    return list({key(launch): launch for launch in launches}.values())


def _shared_limit(capability: int) -> int:
    if capability in SHARED_LIMIT:
        return SHARED_LIMIT[capability]
    properties: Any = torch.cuda.get_device_properties(0)
    return int(properties.shared_memory_per_block_optin)


def first_line(error: BaseException) -> str:
    """Return an error's message as one line: the first, or the last if Triton puts the code position before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if lines[0].startswith("at ") else 0].strip()[:160]
