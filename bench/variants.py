"""The ways to run an operation (torch, torch.compile, Triton), and the check that they compute the same."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.cases.operation import Operation
from bench.cases.registry import moved
from mspipe_triton.kernels.runtime import fusion, launch
from mspipe_triton.tuning.kernels.calls import duplicate, each, exact
from mspipe_triton.tuning.kernels.gate import poisoned
from mspipe_triton.tuning.rounding import Errors, Expected, Named, expected

Call = Callable[..., Any]
CPU = torch.device("cpu")
# The variants that run our kernels, and what `use_triton` is told for them.
KERNELS = {"triton": None, "triton-split": None, "interpreter": True}


@contextmanager
def variant(name: str) -> Iterator[None]:
    """Within it, operations run as "eager" (plain torch), "fused" (torch with compiled loops), "compile" (eager around
    what `callee` compiled), "triton", "triton-split" or "interpreter" (Triton's, on the CPU)."""
    before = fusion.fusion_enabled()
    fusion.enable_fusion(name == "fused")
    launch.use_triton(KERNELS.get(name, False))
    try:
        yield
    finally:
        launch.use_triton(None)
        fusion.enable_fusion(before)


def callee(operation: Operation, name: str) -> Call:
    """The function to call for a variant: the public one, or the compiled reference."""
    call: Any = getattr(importlib.import_module("mspipe_triton.kernels"), operation.name)
    if name == "compile":
        return _compiled(call.reference)
    return functools.partial(call, variant="split") if name == "triton-split" else call


_compiled = functools.lru_cache(torch.compile)


def copied(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose mutated tensors are copies."""
    return {key: each(value, duplicate) if key in operation.mutated else value for key, value in arguments.items()}


def with_leaves(arguments: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments whose tensors of these names ask for a gradient."""
    return {
        key: value.detach().requires_grad_() if key in names and value is not None else value
        for key, value in arguments.items()
    }


def returned(operation: Operation, result: Any) -> Named:
    """What a call returned, by name."""
    values = result if isinstance(result, tuple) else (result,)
    return dict(zip(operation.outputs, values, strict=False))  # one that only writes returns None


def probes(operation: Operation, call: Call, arguments: Mapping[str, Any], seed: int = 0) -> Named:
    """A random gradient for every output that is differentiable."""
    random = torch.Generator().manual_seed(seed)
    outputs = returned(operation, call(**with_leaves(arguments, operation.leaves)))
    return {
        name: torch.randn(value.shape, generator=random, dtype=torch.float64).to(value.detach())
        for name, value in outputs.items()
        if value.requires_grad
    }


def outcome(operation: Operation, call: Call, arguments: Mapping[str, Any], grads: Named | None = None) -> Named:
    """Everything that a call computes: its outputs, what it mutated, and with `grads` every gradient."""
    leaves = tuple(name for name in operation.leaves if arguments[name] is not None) if grads else ()
    given = with_leaves(copied(operation, arguments), leaves)
    named = returned(operation, call(**given))
    if grads:
        asked = [given[name] for name in leaves]
        taken = torch.autograd.grad([named[name] for name in grads], asked, list(grads.values()))
        named |= {f"d_{name}": grad for name, grad in zip(leaves, taken, strict=True)}
    for name in operation.mutated:
        values = given[name] if isinstance(given[name], list) else [given[name]]
        named |= {f"{name}.{place}" if len(values) > 1 else name: value for place, value in enumerate(values)}
    return {name: value.detach() for name, value in named.items() if value is not None}  # no table, no value


def step(operation: Operation, call: Call, arguments: Mapping[str, Any], grads: Named | None) -> Callable[[], Any]:
    """A run for timing: forward alone, or with `grads` forward and training's backward pass."""
    if grads is None:

        def forward() -> Any:
            with torch.no_grad():
                return call(**arguments)

        return forward
    given = with_leaves(arguments, operation.trained)
    leaves, seeds = [given[name] for name in operation.trained], list(grads.values())

    def both() -> Any:
        outputs = returned(operation, call(**given))
        return torch.autograd.grad([outputs[name] for name in grads], leaves, seeds)

    return both


def result(operation: Operation, how: str, arguments: Mapping[str, Any], grads: Named | None) -> Named:
    """The outcome of a variant, the kernels' outputs poisoned before (a compiler would compile the poison)."""
    with variant(how), poisoned() if how in KERNELS else nullcontext():
        return outcome(operation, callee(operation, how), arguments, grads)


@dataclass(frozen=True)
class Judge:
    """The results that an operation must compute, and the gradients of its outputs to start from."""

    grads: Named | None
    expected: Expected

    def __call__(self, actual: Named) -> Errors:
        """The errors of a result and what is allowed."""
        return self.expected.errors(actual)


def judge(operation: Operation, arguments: Mapping[str, Any], seed: int = 0, where: torch.device = CPU) -> Judge:
    """Compute what a variant's `outcome` on these arguments is judged by.

    Args:
        seed: of the outputs' gradients. where: the device that computes the truth.
    """
    call, grads, precise_grads = callee(operation, "eager"), None, None
    with variant("eager"):
        if operation.leaves:
            grads = probes(operation, call, arguments, seed)
            precise_grads = {name: grad.to(where).double() for name, grad in grads.items()}
        like = outcome(operation, call, arguments, grads)
        precise = exact(moved(arguments, where))
        return Judge(grads, expected(lambda: outcome(operation, call, precise, precise_grads), like))


def unjudged(operation: Operation, arguments: Mapping[str, Any], seed: int = 0, where: torch.device = CPU) -> Judge:
    """A judge with nothing to compare, for launches that compute nothing; arguments as in `judge`."""
    with variant("eager"):
        grads = probes(operation, callee(operation, "eager"), arguments, seed) if operation.leaves else None
    return Judge(grads, Expected({}, {}, {}, torch.float32))


def in_training(operation: Operation) -> Operation:
    """The operation with the gradients that training asks for and no others."""
    return replace(operation, leaves=operation.trained)


def failures(found: Errors) -> Errors:
    """What of `errors` did not pass."""
    return {name: entry for name, entry in found.items() if not entry["passed"]}
