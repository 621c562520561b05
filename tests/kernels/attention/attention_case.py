"""Cases of temporal_attention and mailbox_attention, with an oracle of the absorbed form and of every gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from mspipe_triton.kernels import mailbox_attention, temporal_attention
from mspipe_triton.kernels.numbers.philox import dropout_scale
from tests.kernels.attention.slot_case import SlotCase, leaky, softmax
from tests.kernels.comparing import Tensors

DRAWS = torch.tensor([7, 3, 1, 20])


@dataclass
class Case(SlotCase):
    """A call of temporal_attention whose neighbours are among 40 table rows."""

    function: ClassVar[Callable[..., Any]] = staticmethod(temporal_attention)
    outputs: ClassVar[tuple[str, ...]] = ("context", "total")
    unread: ClassVar[tuple[str, ...]] = ("draws", "context", "total")

    choices: int | None = None  # rows of `query`, or mailboxes, that roots choose from; None: one per root
    draws: torch.Tensor | None = field(default_factory=DRAWS.clone)

    def __post_init__(self) -> None:
        super().__post_init__()
        wide, queries = self.dim + self.width + self.times, self.query_count()
        self.leaves |= {
            "table": self.normal(40, self.dim), "query": self.normal(queries, self.heads, wide) / 2,
            "bias": self.normal(queries, self.heads),
        }  # fmt: skip
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.rows = self.integers(40, self.roots, self.fanout)
        self.choice = None if self.choices is None else self.integers(self.choices, self.roots)
        self.probes = (self.normal(self.roots, self.heads, wide), self.normal(self.roots, self.heads))

    def query_count(self) -> int:
        return self.roots if self.choices is None else self.choices

    def keywords(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""
        leaves = self.leaves
        return {
            "table": leaves["table"], "rows": self.rows, "features": self.features, "feature_rows": self.feature_rows,
            "deltas": self.deltas, "counts": self.filled, "frequency": leaves["frequency"], "phase": leaves["phase"],
            "query": leaves["query"], "query_rows": self.choice, "bias": leaves["bias"], "dropout": self.dropout,
            "draws": self.draws,
        }  # fmt: skip

    def query_row(self, root: int) -> int:
        return root if self.choice is None else int(self.choice[root])

    def narrow(self) -> None:
        super().narrow()
        self.choice = None if self.choice is None else self.choice.int()

    def multipliers(self) -> torch.Tensor:
        """Multipliers of dropout [R, K, F]; ones without dropout."""
        shape = (self.roots, self.heads, self.fanout)
        if not self.dropout or self.draws is None:
            return torch.ones(shape, dtype=torch.float64)
        return dropout_scale(self.draws, shape, self.dropout, torch.float64)

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the docstring's equations, one root and one head at a time."""
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

    def gradients_of_sum(self, index: int) -> tuple[Tensors, Tensors]:
        """Gradients of the plain sum of one result: the operation's and the oracle's."""
        leaves = list(self.leaves.values())
        actual = torch.autograd.grad(self.actual()[index].sum(), leaves, materialize_grads=True)
        expected = torch.autograd.grad(self.expected()[index].sum(), leaves, materialize_grads=True)
        return dict(zip(self.leaves, actual, strict=True)), dict(zip(self.leaves, expected, strict=True))


@dataclass
class MailCase(Case):
    """A call of mailbox_attention on `roots` nodes with `fanout` slots per mailbox and `dim` numbers per mail."""

    function: ClassVar[Callable[..., Any]] = staticmethod(mailbox_attention)
    tables: ClassVar[tuple[str, ...]] = ("mails", "features")

    def __post_init__(self) -> None:
        super().__post_init__()
        del self.leaves["table"]
        self.mails = self.normal(self.roots if self.choices is None else self.choices, self.fanout, self.dim)

    def query_count(self) -> int:
        return self.roots

    def keywords(self) -> dict[str, Any]:
        leaves = self.leaves
        return {
            "mails": self.mails, "rows": self.choice, "features": self.features, "feature_rows": self.feature_rows,
            "deltas": self.deltas, "counts": self.filled, "frequency": leaves["frequency"], "phase": leaves["phase"],
            "query": leaves["query"], "bias": leaves["bias"], "dropout": self.dropout, "draws": self.draws,
        }  # fmt: skip

    def slot_rows(self, root: int) -> torch.Tensor:
        return self.mails[root if self.choice is None else int(self.choice[root]), : int(self.filled[root])]

    def query_row(self, root: int) -> int:
        return root

    def spoil_rows(self, value: float, row: int) -> None:
        """Spoil the row of every node with an empty mailbox; with one mailbox per node, spoil its empty slots."""
        if self.choice is None:
            self.mails = torch.where(self.empty[:, :, None], value, self.mails)
        else:
            self.choice = torch.where(self.filled > 0, self.choice, row)

    def narrow_rows(self) -> None:
        self.mails = torch.cat([self.mails, self.mails], 1)[:, : self.fanout]
        assert self.mails.stride() == (2 * self.fanout * self.dim, self.dim, 1)


ATTENTIONS = pytest.mark.parametrize("kind", [Case, MailCase], ids=["temporal", "mailbox"])
