"""A call of one of our operations, which can run again with its kernels or its reference and names all its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from mspipe_triton.kernels.runtime.launch import Launch, recording
from mspipe_triton.tuning.rounding import Expected, Named, expected, plain_references

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a custom operation with its own arguments, which running it does not change.

    Args:
        operation: of the namespace mspipe_triton.
        arguments: by the names of its schema.
        times: the number of recorded calls like this one.
    """

    operation: torch._ops.OpOverload
    arguments: Mapping[str, Any]
    times: int = 1

    @property
    def name(self) -> str:
        """The operation's name, without its namespace."""
        return str(self.operation._schema.name).split("::")[1]

    @property
    def backward(self) -> bool:
        """True if this is the backward pass of another operation.

        It reads what the forward kernel saved, which differs from what the reference saves, so it only runs as a part
        of the forward operation.
        """
        return self.name.endswith("_backward")

    @property
    def device(self) -> torch.device:
        """The device that computes; tables may be in pinned host memory."""
        devices = [tensor.device for value in self.arguments.values() for tensor in tensors(value)]
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    @cached_property
    def mutated(self) -> tuple[str, ...]:
        """The arguments that the call writes."""
        schema = self.operation._schema.arguments
        return tuple(entry.name for entry in schema if entry.alias_info is not None and entry.alias_info.is_write)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The arguments that require a gradient, if the call saves for a backward pass."""
        if not self.arguments.get("save", False):
            return ()
        items = self.arguments.items()
        return tuple(name for name, value in items if isinstance(value, torch.Tensor) and value.requires_grad)

    def with_variant(self, variant: str) -> Call:
        """Return the same call with a variant of the operation's kernels."""
        return replace(self, arguments={**self.arguments, "variant": variant})

    def step(self) -> Callable[[], Any]:
        """Return a function that runs the operation alone; its calls share one copy of the mutated arguments."""
        arguments = self._copies(self.arguments)

        def run() -> Any:
            with torch.no_grad():
                return self.operation(**arguments)

        return run

    def run(self) -> Named:
        """Run the call and return its outputs, mutated arguments and gradients, by name.

        If the call is differentiated, only outputs with a gradient count; a kernel saves the others for its backward
        pass. The output gradients are random but always the same.
        """
        return self._results(self.arguments)

    def reference(self) -> Named:
        """Return the results of the torch reference, in the same dtypes."""
        with plain_references():
            return self._results(self._convert(lambda tensor: tensor))

    def truth(self) -> Named:
        """Return the results of the torch reference in float64; integers keep their dtype."""
        with plain_references():
            return self._results(exact(self._convert(lambda tensor: tensor)))

    @cached_property
    def expected(self) -> Expected:
        """The expected results of `run`."""
        return expected(self.truth, self.reference())

    def launches(self, whole: bool = False) -> list[Launch]:
        """Return the kernel launches of the operation alone, or of `run` if `whole`, without launching anything."""
        with recording() as launches:
            if whole:
                self.run()
            else:
                self.step()()
        return launches

    def _copies(self, arguments: Mapping[str, Any], leaves: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return arguments for one run: mutated ones copied, `leaves` requiring a gradient."""
        copies = {}
        for name, value in arguments.items():
            value = each(value, torch.Tensor.detach)
            value = each(value, duplicate) if name in self.mutated else value
            copies[name] = value.requires_grad_() if name in leaves else value
        return copies

    def _results(self, arguments: Mapping[str, Any]) -> Named:
        arguments = self._copies(arguments, self.leaves)
        with torch.set_grad_enabled(bool(self.leaves)):
            result = self.operation(**arguments)
        values = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
        results = {f"output {place}": value for place, value in enumerate(values)}
        if self.leaves:
            results = {name: value for name, value in results.items() if value.requires_grad}
            random = torch.Generator().manual_seed(0)
            output_grads = [torch.randn(value.shape, generator=random).to(value) for value in results.values()]
            leaves = [arguments[name] for name in self.leaves]
            grads = torch.autograd.grad(list(results.values()), leaves, output_grads, materialize_grads=True)
            results |= {f"d_{name}": grad for name, grad in zip(self.leaves, grads, strict=True)}
        for name in self.mutated:
            results |= {f"{name} {place}": tensor for place, tensor in enumerate(tensors(arguments[name]))}
        return {name: value.detach() for name, value in results.items()}

    def _convert(self, change: Change) -> dict[str, Any]:
        """Return the arguments on the device that computes, with `change` applied to floating tensors."""
        arguments = {}
        for name, value in self.arguments.items():
            value = each(value, lambda tensor: tensor.detach().to(self.device))
            value = each(value, lambda tensor: change(tensor) if tensor.is_floating_point() else tensor)
            arguments[name] = value.requires_grad_() if name in self.leaves else value
        return arguments


def exact(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with floating tensors and dtypes in float64."""
    result = {}
    for name, value in arguments.items():
        value = each(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        wide = isinstance(value, torch.dtype) and value.is_floating_point
        result[name] = torch.float64 if wide else value
    return result


def duplicate(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides, alignment and kind of memory, and with the data between rows."""
    if tensor.numel() == 0:
        return tensor.clone()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    lead = tensor.data_ptr() % 16 // tensor.element_size()
    storage = torch.empty(lead + span, dtype=tensor.dtype, device=tensor.device, pin_memory=is_pinned(tensor))
    storage[lead:].copy_(tensor.as_strided((span,), (1,)))
    return storage.as_strided(tensor.shape, tensor.stride(), lead)


def is_pinned(tensor: torch.Tensor) -> bool:
    """Return True if a tensor is in pinned host memory."""
    return torch.cuda.is_available() and tensor.is_cpu and tensor.is_pinned()


def each(value: Any, change: Change) -> Any:
    """Apply `change` to a tensor or to each tensor in a list; return any other value unchanged."""
    if isinstance(value, (list, tuple)):
        return [each(item, change) for item in value]
    return change(value) if isinstance(value, torch.Tensor) else value


def tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in an argument, which may be a list."""
    return [item for item in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(item, torch.Tensor)]
