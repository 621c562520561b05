"""A call of one of our operations: run again, by its kernels or by its reference, with all that it computes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from mspipe_triton.kernels.runtime.launch import Launch, recording
from mspipe_triton.tuning.rounding import Expected, Named, expected, plainly

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a custom operation, with arguments of its own, which no run of it changes.

    Args:
        operation: of the namespace mspipe_triton.
        arguments: by the names of its schema.
        times: how often calls like this one were seen.
    """

    operation: torch._ops.OpOverload
    arguments: Mapping[str, Any]
    times: int = 1

    @property
    def name(self) -> str:
        """The operation's, without its namespace."""
        return str(self.operation._schema.name).split("::")[1]

    @property
    def backward(self) -> bool:
        """Whether it is the backward pass of another operation.

        It reads what that one's kernel saved, which the references save otherwise; so it is run as a part of that one.
        """
        return self.name.endswith("_backward")

    @property
    def device(self) -> torch.device:
        """Where it computes; tables may lie in pinned host memory beside."""
        devices = [tensor.device for value in self.arguments.values() for tensor in tensors(value)]
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    @cached_property
    def mutated(self) -> tuple[str, ...]:
        """The arguments that it writes."""
        schema = self.operation._schema.arguments
        return tuple(entry.name for entry in schema if entry.alias_info is not None and entry.alias_info.is_write)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The arguments that it is differentiated in: those that asked for it where it saves for a backward pass."""
        if not self.arguments.get("save", False):
            return ()
        named = self.arguments.items()
        return tuple(name for name, value in named if isinstance(value, torch.Tensor) and value.requires_grad)

    def taking(self, variant: str) -> Call:
        """The same call by another variant of the operation's kernels."""
        return replace(self, arguments={**self.arguments, "variant": variant})

    def step(self) -> Callable[[], Any]:
        """The operation alone, as often as wanted; what it mutates is one copy of what was recorded."""
        given = self._fresh(self.arguments)

        def run() -> Any:
            with torch.no_grad():
                return self.operation(**given)

        return run

    def run(self) -> Named:
        """All that it computes: its outputs, what it mutated, and where it is differentiated every gradient.

        Of an operation that is differentiated the outputs count that have a gradient; the others are what a kernel
        saves for its own backward pass. The gradients start from random ones of the outputs, always the same.
        """
        return self._outcome(self.arguments)

    def reference(self) -> Named:
        """The same by the torch reference, in the same dtypes."""
        with plainly():
            return self._outcome(self._changed(lambda tensor: tensor))

    def truth(self) -> Named:
        """The same by the torch reference, in float64 throughout; integers stay as they are."""
        with plainly():
            return self._outcome(exact(self._changed(lambda tensor: tensor)))

    @cached_property
    def expected(self) -> Expected:
        """What `run` is judged by."""
        return expected(self.truth, self.reference())

    def launches(self, whole: bool = False) -> list[Launch]:
        """The kernels' launches by the operation alone, or with `whole` by `run`; nothing is launched."""
        with recording() as recorded:
            if whole:
                self.run()
            else:
                self.step()()
        return recorded

    def _fresh(self, arguments: Mapping[str, Any], leaves: tuple[str, ...] = ()) -> dict[str, Any]:
        """Arguments for one run: copies of what it mutates, leaves for what it is differentiated in."""
        made = {}
        for name, value in arguments.items():
            value = each(value, torch.Tensor.detach)
            value = each(value, duplicate) if name in self.mutated else value
            made[name] = value.requires_grad_() if name in leaves else value
        return made

    def _outcome(self, arguments: Mapping[str, Any]) -> Named:
        given = self._fresh(arguments, self.leaves)
        with torch.set_grad_enabled(bool(self.leaves)):
            result = self.operation(**given)
        values = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
        named = {f"output {place}": value for place, value in enumerate(values)}
        if self.leaves:
            named = {name: value for name, value in named.items() if value.requires_grad}
            random = torch.Generator().manual_seed(0)
            grads = [torch.randn(value.shape, generator=random).to(value) for value in named.values()]
            asked = [given[name] for name in self.leaves]
            taken = torch.autograd.grad(list(named.values()), asked, grads, materialize_grads=True)
            named |= {f"d_{name}": grad for name, grad in zip(self.leaves, taken, strict=True)}
        for name in self.mutated:
            named |= {f"{name} {place}": tensor for place, tensor in enumerate(tensors(given[name]))}
        return {name: value.detach() for name, value in named.items()}

    def _changed(self, change: Change) -> dict[str, Any]:
        """Arguments, floating tensors changed, all on the device that computes; leaves stay leaves."""
        made = {}
        for name, value in self.arguments.items():
            moved = each(value, lambda tensor: tensor.detach().to(self.device))
            moved = each(moved, lambda tensor: change(tensor) if tensor.is_floating_point() else tensor)
            made[name] = moved.requires_grad_() if name in self.leaves else moved
        return made


def exact(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Floating tensors and dtypes in float64."""
    made = {}
    for name, value in arguments.items():
        value = each(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        wide = isinstance(value, torch.dtype) and value.is_floating_point
        made[name] = torch.float64 if wide else value
    return made


def duplicate(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, alignment and kind of memory, and what lies between its rows."""
    if tensor.numel() == 0:
        return tensor.clone()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    lead = tensor.data_ptr() % 16 // tensor.element_size()
    whole = torch.empty(lead + span, dtype=tensor.dtype, device=tensor.device, pin_memory=pinned(tensor))
    whole[lead:].copy_(tensor.as_strided((span,), (1,)))
    return whole.as_strided(tensor.shape, tensor.stride(), lead)


def pinned(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in pinned host memory."""
    return torch.cuda.is_available() and tensor.is_cpu and tensor.is_pinned()


def each(value: Any, change: Change) -> Any:
    """Tensors changed, in lists too; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [each(item, change) for item in value]
    return change(value) if isinstance(value, torch.Tensor) else value


def tensors(value: Any) -> list[torch.Tensor]:
    """Those among an argument, which may be a list of them."""
    return [item for item in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(item, torch.Tensor)]
