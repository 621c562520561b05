"""Ways to run an operation (torch, torch.compile, Triton), and the check that all compute the same."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.cases.operation import Operation
from bench.cases.registry import to_device
from mspipe_triton.kernels.runtime import fusion, launch
from mspipe_triton.tuning.kernels.calls import duplicate, each, exact
from mspipe_triton.tuning.kernels.gate import poisoned
from mspipe_triton.tuning.rounding import Errors, Expected, Named, expected

Call = Callable[..., Any]
CPU = torch.device("cpu")
# Variants that run our kernels, and the argument of `use_triton` for each.
KERNELS = {"triton": None, "triton-split": None, "interpreter": True}


@contextmanager
def variant(name: str) -> Iterator[None]:
    """Run the operations of a block as "eager" (plain torch), "fused" (torch with compiled loops), "compile" (eager
    around the function that `callee` compiled), "triton", "triton-split" or "interpreter" (Triton's, on the CPU)."""
    before = fusion.fusion_enabled()
    fusion.enable_fusion(name == "fused")
    launch.use_triton(KERNELS.get(name, False))
    try:
        yield
    finally:
        launch.use_triton(None)
        fusion.enable_fusion(before)


def callee(operation: Operation, name: str) -> Call:
    """Function to call for a variant: the public one, or the compiled reference."""
    call: Any = getattr(importlib.import_module("mspipe_triton.kernels"), operation.name)
    if name == "compile":
        return _compile(call.reference)
    return functools.partial(call, variant="split") if name == "triton-split" else call


_compile = functools.lru_cache(torch.compile)


def copy_mutated(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with copies of the tensors that the operation mutates."""
    return {key: each(value, duplicate) if key in operation.mutated else value for key, value in arguments.items()}


def with_leaves(arguments: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments in which the tensors of these names require a gradient."""
    return {
        key: value.detach().requires_grad_() if key in names and value is not None else value
        for key, value in arguments.items()
    }


def name_outputs(operation: Operation, result: Any) -> Named:
    """Name the values that a call returned."""
    values = result if isinstance(result, tuple) else (result,)
    return dict(zip(operation.outputs, values, strict=False))  # an operation that only writes returns None


def probes(operation: Operation, call: Call, arguments: Mapping[str, Any], seed: int = 0) -> Named:
    """Random gradients of the differentiable outputs."""
    random = torch.Generator().manual_seed(seed)
    outputs = name_outputs(operation, call(**with_leaves(arguments, operation.leaves)))
    return {
        name: torch.randn(value.shape, generator=random, dtype=torch.float64).to(value.detach())
        for name, value in outputs.items()
        if value.requires_grad
    }


def outcome(operation: Operation, call: Call, arguments: Mapping[str, Any], grads: Named | None = None) -> Named:
    """Call an operation; return its outputs, the arguments that it mutated, and with `grads` every gradient."""
    leaves = tuple(name for name in operation.leaves if arguments[name] is not None) if grads else ()
    inputs = with_leaves(copy_mutated(operation, arguments), leaves)
    results = name_outputs(operation, call(**inputs))
    if grads:
        sources = [inputs[name] for name in leaves]
        gradients = torch.autograd.grad([results[name] for name in grads], sources, list(grads.values()))
        results |= {f"d_{name}": grad for name, grad in zip(leaves, gradients, strict=True)}
    for name in operation.mutated:
        values = inputs[name] if isinstance(inputs[name], list) else [inputs[name]]
        results |= {f"{name}.{place}" if len(values) > 1 else name: value for place, value in enumerate(values)}
    return {name: value.detach() for name, value in results.items() if value is not None}  # None: an absent table


def step(operation: Operation, call: Call, arguments: Mapping[str, Any], grads: Named | None) -> Callable[[], Any]:
    """Make a run for timing: the forward pass, and with `grads` training's backward pass too."""
    if grads is None:

        def forward() -> Any:
            with torch.no_grad():
                return call(**arguments)

        return forward
    inputs = with_leaves(arguments, operation.trained)
    leaves, seeds = [inputs[name] for name in operation.trained], list(grads.values())

    def both() -> Any:
        outputs = name_outputs(operation, call(**inputs))
        return torch.autograd.grad([outputs[name] for name in grads], leaves, seeds)

    return both


def result(operation: Operation, way: str, arguments: Mapping[str, Any], grads: Named | None) -> Named:
    """Outcome of a variant; kernels start from poisoned outputs (a compiler would compile the poison)."""
    with variant(way), poisoned() if way in KERNELS else nullcontext():
        return outcome(operation, callee(operation, way), arguments, grads)


@dataclass(frozen=True)
class Judge:
    """Results that an operation must compute, from these gradients of its outputs."""

    grads: Named | None
    expected: Expected

    def __call__(self, actual: Named) -> Errors:
        """Errors of a result, and their limits."""
        return self.expected.errors(actual)


def judge(operation: Operation, arguments: Mapping[str, Any], seed: int = 0, where: torch.device = CPU) -> Judge:
    """Compute the results that judge a variant's `outcome` on these arguments.

    Args:
        seed: seed of the outputs' gradients. where: device that computes the truth.
    """
    call, grads, precise_grads = callee(operation, "eager"), None, None
    with variant("eager"):
        if operation.leaves:
            grads = probes(operation, call, arguments, seed)
            precise_grads = {name: grad.to(where).double() for name, grad in grads.items()}
        like = outcome(operation, call, arguments, grads)
        precise = exact(to_device(arguments, where))
        return Judge(grads, expected(lambda: outcome(operation, call, precise, precise_grads), like))


def unjudged(operation: Operation, arguments: Mapping[str, Any], seed: int = 0, where: torch.device = CPU) -> Judge:
    """Judge with nothing to compare, for launches that compute nothing; arguments as in `judge`."""
    with variant("eager"):
        grads = probes(operation, callee(operation, "eager"), arguments, seed) if operation.leaves else None
    return Judge(grads, Expected({}, {}, {}, torch.float32))


def in_training(operation: Operation) -> Operation:
    """Operation with only the gradients that training needs."""
    return replace(operation, leaves=operation.trained)


def failures(errors: Errors) -> Errors:
    """Errors that did not pass."""
    return {name: entry for name, entry in errors.items() if not entry["passed"]}
