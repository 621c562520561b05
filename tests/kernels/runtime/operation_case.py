"""The common part of cases of differentiable operations: random numbers, types, calls, gradients by name."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch

from mspipe_triton.kernels.runtime import launch
from tests.kernels.comparing import Agree, Named


class OperationCase(ABC):
    """A call of an operation; its `leaves` are differentiated, `probes` are the gradients of its first outputs."""

    function: Callable[..., Any]
    outputs: ClassVar[tuple[str, ...]]
    numbers: ClassVar[tuple[str, ...]] = ("deltas",)  # attributes in the type of the computation, beside the leaves
    tables: ClassVar[tuple[str, ...]] = ()  # leaves and attributes that may have another
    forgets: tuple[str, ...] = ()  # inputs and outputs that the backward pass does not read

    random: torch.Generator
    leaves: Named
    probes: tuple[torch.Tensor, ...]

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.random)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, bound, shape, generator=self.random)

    def to(self, dtype: torch.dtype, tables: torch.dtype | None = None) -> Self:
        """This case's numbers rounded to `dtype`, those of tables to `tables` where it is given."""

        def kind(name: str) -> torch.dtype:
            return tables or dtype if name in self.tables else dtype

        made = copy.copy(self)
        made.leaves = {name: leaf.detach().to(kind(name)).requires_grad_() for name, leaf in self.leaves.items()}
        for name in {*self.numbers, *self.tables} - {*self.leaves}:
            setattr(made, name, getattr(self, name).to(kind(name)))
        made.probes = tuple(probe.to(dtype) for probe in self.probes)
        return made

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, self.name).default

    @property
    def backward_operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, f"{self.name}_backward").default

    @abstractmethod
    def named(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""

    @abstractmethod
    def expected(self) -> Any:
        """Results by the docstring's equations."""

    def detached(self) -> dict[str, Any]:
        """The same arguments, without gradients."""
        named = self.named().items()
        return {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in named}

    def arguments(self, save: bool = True) -> tuple[Any, ...]:
        """Arguments of the custom operation."""
        return (*self.named().values(), save)

    def actual(self, **changes: Any) -> Any:
        return self.function(**{**self.named(), **changes})

    def with_gradients(self, result: Any) -> Named:
        """The results, and the gradients of the leaves that need one."""
        results = result if isinstance(result, tuple) else (result,)
        loss = sum((value * probe).sum() for value, probe in zip(results, self.probes, strict=False))
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        named = dict(zip(self.outputs, (value.detach() for value in results), strict=True))
        return {**named, **dict(zip(leaves, gradients, strict=True))}

    def gradient_alone(self, name: str) -> torch.Tensor:
        """The gradient of one leaf where no other wants any."""
        for other, leaf in self.leaves.items():
            leaf.requires_grad_(other == name)
        return self.with_gradients(self.actual())[name]


def check(case: OperationCase, agree: Agree) -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected())
    agree(case.with_gradients(case.actual()), expected)
    return expected


def three(case: OperationCase) -> tuple[Named, Named, Callable[[], Named]]:
    """With gradients: by the kernels, by torch in the same dtype, and how torch computes them in float64."""
    actual = case.with_gradients(case.actual())
    launch.use_triton(False)
    wide = case.to(torch.float64)
    return actual, case.with_gradients(case.actual()), lambda: wide.with_gradients(wide.actual())
