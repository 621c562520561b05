"""Common part of the cases of differentiable operations: random numbers, types, calls, gradients by name."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch

from mspipe_triton.kernels.runtime import launch
from tests.kernels.comparing import Agree, Tensors


class OperationCase(ABC):
    """A call of an operation: gradients are of its `leaves`, and `probes` are the gradients of its first outputs."""

    function: Callable[..., Any]
    outputs: ClassVar[tuple[str, ...]]
    numbers: ClassVar[tuple[str, ...]] = ("deltas",)  # attributes in the computation's type, like the leaves
    tables: ClassVar[tuple[str, ...]] = ()  # leaves and attributes that may have another type
    unread: tuple[str, ...] = ()  # inputs and outputs that the backward pass does not read

    random: torch.Generator
    leaves: Tensors
    probes: tuple[torch.Tensor, ...]

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.random)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, bound, shape, generator=self.random)

    def to(self, dtype: torch.dtype, tables: torch.dtype | None = None) -> Self:
        """Copy the case with its numbers rounded to `dtype`, and those of tables to `tables` if it is not None."""

        def kind(name: str) -> torch.dtype:
            return tables or dtype if name in self.tables else dtype

        case = copy.copy(self)
        case.leaves = {name: leaf.detach().to(kind(name)).requires_grad_() for name, leaf in self.leaves.items()}
        for name in {*self.numbers, *self.tables} - {*self.leaves}:
            setattr(case, name, getattr(self, name).to(kind(name)))
        case.probes = tuple(probe.to(dtype) for probe in self.probes)
        return case

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, self.name).default

    @property
    def backward_operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, f"{self.name}_backward").default

    @property
    def differentiable(self) -> list[str]:
        """Inputs that may have a gradient, in the operation's order, including those that are None."""
        return [*self.leaves]

    @abstractmethod
    def keywords(self) -> dict[str, Any]:
        """Arguments of the public function by name, in its order."""

    @abstractmethod
    def expected(self) -> Any:
        """Compute the docstring's equations."""

    def detached_keywords(self) -> dict[str, Any]:
        """Arguments of the public function without gradients."""
        arguments = self.keywords().items()
        return {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in arguments}

    def arguments(self, save: bool = True) -> tuple[Any, ...]:
        """Arguments of the custom operation."""
        return (*self.keywords().values(), save)

    def actual(self, **changes: Any) -> Any:
        return self.function(**{**self.keywords(), **changes})

    def with_gradients(self, result: Any) -> Tensors:
        """Results and gradients of the leaves that need one, by name."""
        results = result if isinstance(result, tuple) else (result,)
        loss = sum((value * probe).sum() for value, probe in zip(results, self.probes, strict=False))
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        tensors = dict(zip(self.outputs, (value.detach() for value in results), strict=True))
        return {**tensors, **dict(zip(leaves, gradients, strict=True))}

    def gradient_alone(self, name: str) -> torch.Tensor:
        """Gradient of one leaf when no other leaf needs one."""
        for other, leaf in self.leaves.items():
            leaf.requires_grad_(other == name)
        return self.with_gradients(self.actual())[name]


def check(case: OperationCase, agree: Agree) -> Tensors:
    """Check an operation against its oracle, and return the oracle's tensors."""
    expected = case.with_gradients(case.expected())
    agree(case.with_gradients(case.actual()), expected)
    return expected


def comparison(case: OperationCase) -> tuple[Tensors, Tensors, Callable[[], Tensors]]:
    """Return results and gradients of the kernels and of torch in their dtype, and the float64 computation."""
    actual = case.with_gradients(case.actual())
    launch.use_triton(False)
    wide = case.to(torch.float64)
    return actual, case.with_gradients(case.actual()), lambda: wide.with_gradients(wide.actual())
