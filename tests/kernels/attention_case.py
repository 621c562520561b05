"""Cases of temporal_attention and mailbox_attention with an oracle of the absorbed form and of every gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from mspipe_triton.kernels import mailbox_attention, temporal_attention
from mspipe_triton.kernels.philox import dropout_scale
from tests.kernels.comparing import Agree, Named

DRAWS = torch.tensor([7, 3, 1, 20])


@dataclass
class Case:
    """temporal_attention of R roots with up to F neighbours among 40 table rows; K heads; empty slots hold garbage."""

    function: ClassVar[Callable[..., tuple[torch.Tensor, ...]]] = staticmethod(temporal_attention)

    roots: int
    fanout: int = 6
    width: int = 3  # of the edge features
    heads: int = 2
    dim: int = 4
    times: int = 3
    choices: int | None = None  # the rows of `query`, or mailboxes, that roots choose from; None: one a root
    indexed_features: bool = False
    counts: str = "some"
    dropout: float = 0.0
    draws: torch.Tensor | None = field(default_factory=DRAWS.clone)
    leaves: Named = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.roots * 31 + self.fanout)
        wide, slots = self.dim + self.width + self.times, (self.roots, self.fanout)
        queries = self.query_count()
        self.leaves = {
            "table": self.normal(40, self.dim),
            "query": self.normal(queries, self.heads, wide) / 2,
            "bias": self.normal(queries, self.heads),
            "frequency": torch.logspace(0, -3, self.times, dtype=torch.float64),
            "phase": self.normal(self.times),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.rows = self.integers(40, *slots)
        self.deltas = torch.rand(slots, dtype=torch.float64, generator=self.random) * 100
        low, high = {"none": (0, 0), "some": (0, self.fanout), "all": (self.fanout, self.fanout)}[self.counts]
        self.filled = low + self.integers(high - low + 1, self.roots)
        self.features = self.normal(50 if self.indexed_features else self.roots * self.fanout, self.width)
        self.feature_rows = self.integers(50, *slots) if self.indexed_features else None
        self.chosen = None if self.choices is None else self.integers(self.choices, self.roots)
        self.probes = (self.normal(self.roots, self.heads, wide), self.normal(self.roots, self.heads))

    def query_count(self) -> int:
        return self.roots if self.choices is None else self.choices

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, bound, shape, generator=self.random)

    def to(self, dtype: torch.dtype, rows: torch.dtype | None = None) -> Case:
        """This case's numbers rounded to `dtype`, the table's and the edge features' to `rows` where it is given."""
        made = copy.copy(self)
        kinds = {name: rows or dtype if name == "table" else dtype for name in self.leaves}
        made.leaves = {name: leaf.detach().to(kinds[name]).requires_grad_() for name, leaf in self.leaves.items()}
        made.features, made.deltas = self.features.to(rows or dtype), self.deltas.to(dtype)
        made.probes = (self.probes[0].to(dtype), self.probes[1].to(dtype))
        return made

    @property
    def empty(self) -> torch.Tensor:
        """Mask [R, F] of the slots without a neighbour."""
        return torch.arange(self.fanout) >= self.filled[:, None]

    def named(self) -> dict[str, Any]:
        """What the public function takes, by name and in its order."""
        leaves = self.leaves
        return {
            "table": leaves["table"], "rows": self.rows, "features": self.features, "feature_rows": self.feature_rows,
            "deltas": self.deltas, "counts": self.filled, "frequency": leaves["frequency"], "phase": leaves["phase"],
            "query": leaves["query"], "query_rows": self.chosen, "bias": leaves["bias"], "dropout": self.dropout,
            "draws": self.draws,
        }  # fmt: skip

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, self.name).default

    @property
    def backward_operation(self) -> Any:
        return getattr(torch.ops.mspipe_triton, f"{self.name}_backward").default

    def arguments(self, save: bool = True) -> tuple[Any, ...]:
        """What the operation takes."""
        return (*self.named().values(), save)

    def actual(self, **changes: Any) -> tuple[torch.Tensor, ...]:
        return self.function(**{**self.named(), **changes})

    def own(self, root: int) -> torch.Tensor:
        """What the table holds of one root's filled slots, [counts, D]."""
        return self.leaves["table"][self.rows[root, : int(self.filled[root])]]

    def query_row(self, root: int) -> int:
        return root if self.chosen is None else int(self.chosen[root])

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, D + E + T] of one root's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        encoded = encode(self.deltas[root, :count], self.leaves)
        return torch.cat([self.own(root), self.features[slots], encoded], 1)

    def spoil(self, value: float, row: int) -> None:
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
        self.chosen = None if self.chosen is None else self.chosen.int()
        self.feature_rows = None if self.feature_rows is None else self.feature_rows.int()
        self.features = torch.cat([self.features, self.features], 1)[:, : self.width]
        self.narrow_rows()

    def narrow_rows(self) -> None:
        self.rows = self.rows.int()
        self.leaves["table"] = self.leaves["table"].detach().repeat(1, 2)[:, : self.dim].requires_grad_()
        assert self.leaves["table"].stride(0) == 2 * self.dim

    def multipliers(self) -> torch.Tensor:
        """Dropout's [R, K, F]; ones without it."""
        shape = (self.roots, self.heads, self.fanout)
        if not self.dropout or self.draws is None:
            return torch.ones(shape, dtype=torch.float64)
        return dropout_scale(self.draws, shape, self.dropout, torch.float64)

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The docstring's equations, a root and a head at a time."""
        contexts, totals = [], []
        scale = self.multipliers()
        for root in range(self.roots):
            x, row = self.neighbours(root), self.query_row(root)
            for head in range(self.heads):
                logits = leaky(x @ self.leaves["query"][row, head] + self.leaves["bias"][row, head])
                a = softmax(logits) * scale[root, head, : len(x)]
                contexts.append(a @ x)
                totals.append(a.sum())
        shape = (self.roots, self.heads)
        return torch.stack(contexts).view(*shape, -1), torch.stack(totals).view(shape)

    def with_gradients(self, result: tuple[torch.Tensor, ...]) -> Named:
        loss = sum((value * probe).sum() for value, probe in zip(result, self.probes, strict=True))
        gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        named = dict(zip(self.leaves, gradients, strict=True))
        return {"context": result[0].detach(), "total": result[1].detach(), **named}

    def gradient_alone(self, name: str) -> torch.Tensor:
        """The gradient of one leaf where no other wants any."""
        for other, leaf in self.leaves.items():
            leaf.requires_grad_(other == name)
        loss = sum((value * probe).sum() for value, probe in zip(self.actual(), self.probes, strict=True))
        return torch.autograd.grad(loss, self.leaves[name])[0]

    def gradients_of_sum(self, which: int) -> tuple[Named, Named]:
        """The gradients of one result's plain sum: the operation's, the oracle's."""
        leaves = list(self.leaves.values())
        actual = torch.autograd.grad(self.actual()[which].sum(), leaves, materialize_grads=True)
        expected = torch.autograd.grad(self.expected()[which].sum(), leaves, materialize_grads=True)
        return dict(zip(self.leaves, actual, strict=True)), dict(zip(self.leaves, expected, strict=True))


@dataclass
class MailCase(Case):
    """mailbox_attention of `roots` nodes with mailboxes of `fanout` slots, `dim` numbers a mail."""

    function: ClassVar[Callable[..., tuple[torch.Tensor, ...]]] = staticmethod(mailbox_attention)

    def __post_init__(self) -> None:
        super().__post_init__()
        del self.leaves["table"]
        self.mails = self.normal(self.roots if self.choices is None else self.choices, self.fanout, self.dim)

    def query_count(self) -> int:
        return self.roots

    def to(self, dtype: torch.dtype, rows: torch.dtype | None = None) -> MailCase:
        made = super().to(dtype, rows)
        assert isinstance(made, MailCase)
        made.mails = self.mails.to(rows or dtype)
        return made

    def named(self) -> dict[str, Any]:
        leaves = self.leaves
        return {
            "mails": self.mails, "rows": self.chosen, "features": self.features, "feature_rows": self.feature_rows,
            "deltas": self.deltas, "counts": self.filled, "frequency": leaves["frequency"], "phase": leaves["phase"],
            "query": leaves["query"], "bias": leaves["bias"], "dropout": self.dropout, "draws": self.draws,
        }  # fmt: skip

    def own(self, root: int) -> torch.Tensor:
        return self.mails[root if self.chosen is None else int(self.chosen[root]), : int(self.filled[root])]

    def query_row(self, root: int) -> int:
        return root

    def spoil_rows(self, value: float, row: int) -> None:
        """A node whose mailbox is empty may name any; where each has its own, its empty slots hold anything."""
        if self.chosen is None:
            self.mails = torch.where(self.empty[:, :, None], value, self.mails)
        else:
            self.chosen = torch.where(self.filled > 0, self.chosen, row)

    def narrow_rows(self) -> None:
        self.mails = torch.cat([self.mails, self.mails], 1)[:, : self.fanout]
        assert self.mails.stride() == (2 * self.fanout * self.dim, self.dim, 1)


ATTENTIONS = pytest.mark.parametrize("kind", [Case, MailCase], ids=["temporal", "mailbox"])


def encode(deltas: torch.Tensor, leaves: Named) -> torch.Tensor:
    return torch.cos(deltas[:, None] * leaves["frequency"] + leaves["phase"])


def leaky(logits: torch.Tensor) -> torch.Tensor:
    return torch.where(logits > 0, logits, 0.2 * logits)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """By its definition; of nothing it is nothing."""
    weights = torch.exp(logits - logits.detach().max()) if len(logits) else logits
    return weights / weights.sum()


def check(case: Case, agree: Agree) -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected())
    agree(case.with_gradients(case.actual()), expected)
    return expected
