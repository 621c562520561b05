"""What the cases of the attentions share: neighbour slots, what they are read from, and the gradients of all leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch

from mspipe_triton.kernels import launch
from tests.kernels.comparing import Agree, Named


@dataclass
class SlotCase:
    """R roots with up to F neighbours; K heads; empty slots hold garbage. `leaves` are differentiated."""

    function: ClassVar[Callable[..., Any]]
    outputs: ClassVar[tuple[str, ...]]

    roots: int
    fanout: int = 6
    width: int = 3  # of the edge features
    heads: int = 2
    dim: int = 4
    times: int = 3
    indexed_features: bool = False
    counts: str = "some"
    dropout: float = 0.0
    leaves: Named = field(init=False)
    probes: tuple[torch.Tensor, ...] = field(init=False)  # of the outputs

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.roots * 31 + self.fanout)
        slots = self.roots, self.fanout
        self.leaves = {
            "frequency": torch.logspace(0, -3, self.times, dtype=torch.float64), "phase": self.normal(self.times),
        }  # fmt: skip
        self.deltas = torch.rand(slots, dtype=torch.float64, generator=self.random) * 100
        low, high = {"none": (0, 0), "some": (0, self.fanout), "all": (self.fanout, self.fanout)}[self.counts]
        self.filled = low + self.integers(high - low + 1, self.roots)
        self.features = self.normal(50 if self.indexed_features else self.roots * self.fanout, self.width)
        self.feature_rows = self.integers(50, *slots) if self.indexed_features else None

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, bound, shape, generator=self.random)

    def to(self, dtype: torch.dtype, rows: torch.dtype | None = None) -> Self:
        """This case's numbers rounded to `dtype`, the table's and the edge features' to `rows` where it is given."""
        made = copy.copy(self)
        kinds = {name: rows or dtype if name == "table" else dtype for name in self.leaves}
        made.leaves = {name: leaf.detach().to(kinds[name]).requires_grad_() for name, leaf in self.leaves.items()}
        made.features, made.deltas = self.features.to(rows or dtype), self.deltas.to(dtype)
        made.probes = tuple(probe.to(dtype) for probe in self.probes)
        return made

    @property
    def empty(self) -> torch.Tensor:
        """Mask [R, F] of the slots without a neighbour."""
        return torch.arange(self.fanout) >= self.filled[:, None]

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, self.name).default

    @property
    def backward_operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, f"{self.name}_backward").default

    def named(self) -> dict[str, Any]:
        """What the public function takes, by name and in its order."""
        raise NotImplementedError

    def expected(self) -> Any:
        """The docstring's equations, a root at a time."""
        raise NotImplementedError

    def detached(self) -> dict[str, Any]:
        """The same without gradients."""
        return {
            key: value.detach() if isinstance(value, torch.Tensor) else value for key, value in self.named().items()
        }

    def arguments(self, save: bool = True) -> tuple[Any, ...]:
        """What the operation takes."""
        return (*self.named().values(), save)

    def actual(self, **changes: Any) -> Any:
        return self.function(**{**self.named(), **changes})

    def own(self, root: int) -> torch.Tensor:
        """What the table holds of one root's filled slots, [counts, D]."""
        return self.leaves["table"][self.rows[root, : int(self.filled[root])]]

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, D + E + T] of one root's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        encoded = encode(self.deltas[root, :count], self.leaves)
        return torch.cat([self.own(root), self.features[slots], encoded], 1)

    def spoil(self, value: float, row: int = 2**31 - 1) -> None:
        """Put `value` or `row` wherever a slot is empty."""
        self.deltas = torch.where(self.empty, value, self.deltas)
        self.spoil_rows(value, row)
        if self.feature_rows is None:
            self.features = torch.where(self.empty.view(-1, 1), value, self.features)
        else:
            self.feature_rows = torch.where(self.empty, row, self.feature_rows)

    def spoil_rows(self, value: float, row: int) -> None:
        self.rows = torch.where(self.empty, row, self.rows)

    def narrow(self) -> None:
        """Indices become int32, and the rows of tables come to lie apart."""
        self.filled = self.filled.int()
        self.feature_rows = None if self.feature_rows is None else self.feature_rows.int()
        self.features = torch.cat([self.features, self.features], 1)[:, : self.width]
        self.narrow_rows()

    def narrow_rows(self) -> None:
        self.rows = self.rows.int()
        self.leaves["table"] = self.leaves["table"].detach().repeat(1, 2)[:, : self.dim].requires_grad_()
        assert self.leaves["table"].stride(0) == 2 * self.dim

    def with_gradients(self, result: Any) -> Named:
        """The results, and the gradients of the leaves that need one."""
        results = result if isinstance(result, tuple) else (result,)
        loss = sum((value * probe).sum() for value, probe in zip(results, self.probes, strict=True))
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        named = dict(zip(self.outputs, (value.detach() for value in results), strict=True))
        return {**named, **dict(zip(leaves, gradients, strict=True))}

    def gradient_alone(self, name: str) -> torch.Tensor:
        """The gradient of one leaf where no other wants any."""
        for other, leaf in self.leaves.items():
            leaf.requires_grad_(other == name)
        return self.with_gradients(self.actual())[name]


def encode(deltas: torch.Tensor, leaves: Named) -> torch.Tensor:
    return torch.cos(deltas[:, None] * leaves["frequency"] + leaves["phase"])


def leaky(logits: torch.Tensor) -> torch.Tensor:
    return torch.where(logits > 0, logits, 0.2 * logits)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """By its definition; of nothing it is nothing."""
    weights = torch.exp(logits - logits.detach().max()) if len(logits) else logits
    return weights / weights.sum()


def check(case: SlotCase, agree: Agree) -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected())
    agree(case.with_gradients(case.actual()), expected)
    return expected


def three(case: SlotCase) -> tuple[Named, Named, Callable[[], Named]]:
    """With gradients: by the kernels, by torch in the same dtype, and how torch computes them in float64."""
    actual = case.with_gradients(case.actual())
    launch.use_triton(False)
    wide = case.to(torch.float64)
    return actual, case.with_gradients(case.actual()), lambda: wide.with_gradients(wide.actual())
