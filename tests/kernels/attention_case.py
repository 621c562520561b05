"""Cases of temporal_attention with an oracle of its absorbed form, forward and every gradient by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mspipe_triton.kernels import temporal_attention
from mspipe_triton.kernels.philox import dropout_scale

Named = dict[str, torch.Tensor]
Agree = Callable[[Named, Named], None]
DRAWS = torch.tensor([7, 3, 1, 20])


@dataclass
class Case:
    """R roots with up to F neighbours among U table rows; K heads; slots at and behind a root's count hold garbage."""

    roots: int
    fanout: int = 6
    width: int = 3  # of the edge features
    heads: int = 2
    dim: int = 4
    times: int = 3
    queries: int | None = None  # rows of `query`; None: one a root
    indexed_features: bool = False
    counts: str = "some"
    dropout: float = 0.0
    draws: torch.Tensor | None = field(default_factory=DRAWS.clone)
    leaves: Named = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.roots * 31 + self.fanout)
        wide, slots = self.dim + self.width + self.times, (self.roots, self.fanout)
        count = self.roots if self.queries is None else self.queries
        self.leaves = {
            "table": self.normal(40, self.dim),
            "query": self.normal(count, self.heads, wide) / 2,
            "bias": self.normal(count, self.heads),
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
        self.query_rows = None if self.queries is None else self.integers(self.queries, self.roots)
        self.probes = (self.normal(self.roots, self.heads, wide), self.normal(self.roots, self.heads))

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

    def actual(self, query: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return temporal_attention(
            self.leaves["table"], self.rows, self.features, self.feature_rows, self.deltas, self.filled,
            self.leaves["frequency"], self.leaves["phase"], self.leaves["query"] if query is None else query,
            self.query_rows, self.leaves["bias"] if bias is None else bias,
            self.dropout, self.draws,
        )  # fmt: skip

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, D + E + T] of one root's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        encoded = encode(self.deltas[root, :count], self.leaves)
        return torch.cat([self.leaves["table"][self.rows[root, :count]], self.features[slots], encoded], 1)

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
            x, row = self.neighbours(root), root if self.query_rows is None else int(self.query_rows[root])
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
