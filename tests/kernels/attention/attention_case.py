"""Cases of temporal_attention and mailbox_attention with an oracle of the absorbed form and of every gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from mspipe_triton.kernels import mailbox_attention, temporal_attention
from mspipe_triton.kernels.numbers.philox import dropout_scale
from tests.kernels.attention.slot_case import SlotCase, leaky, softmax
from tests.kernels.comparing import Named

DRAWS = torch.tensor([7, 3, 1, 20])


@dataclass
class Case(SlotCase):
    """temporal_attention, neighbours being among 40 table rows."""

    function: ClassVar[Callable[..., Any]] = staticmethod(temporal_attention)
    outputs: ClassVar[tuple[str, ...]] = ("context", "total")
    forgets: ClassVar[tuple[str, ...]] = ("draws", "context", "total")

    choices: int | None = None  # the rows of `query`, or mailboxes, that roots choose from; None: one a root
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
        self.chosen = None if self.choices is None else self.integers(self.choices, self.roots)
        self.probes = (self.normal(self.roots, self.heads, wide), self.normal(self.roots, self.heads))

    def query_count(self) -> int:
        return self.roots if self.choices is None else self.choices

    def named(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""
        leaves = self.leaves
        return {
            "table": leaves["table"], "rows": self.rows, "features": self.features, "feature_rows": self.feature_rows,
            "deltas": self.deltas, "counts": self.filled, "frequency": leaves["frequency"], "phase": leaves["phase"],
            "query": leaves["query"], "query_rows": self.chosen, "bias": leaves["bias"], "dropout": self.dropout,
            "draws": self.draws,
        }  # fmt: skip

    def query_row(self, root: int) -> int:
        return root if self.chosen is None else int(self.chosen[root])

    def narrow(self) -> None:
        super().narrow()
        self.chosen = None if self.chosen is None else self.chosen.int()

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

    def gradients_of_sum(self, which: int) -> tuple[Named, Named]:
        """The gradients of one result's plain sum: the operation's, the oracle's."""
        leaves = list(self.leaves.values())
        actual = torch.autograd.grad(self.actual()[which].sum(), leaves, materialize_grads=True)
        expected = torch.autograd.grad(self.expected()[which].sum(), leaves, materialize_grads=True)
        return dict(zip(self.leaves, actual, strict=True)), dict(zip(self.leaves, expected, strict=True))


@dataclass
class MailCase(Case):
    """mailbox_attention of `roots` nodes with mailboxes of `fanout` slots, `dim` numbers a mail."""

    function: ClassVar[Callable[..., Any]] = staticmethod(mailbox_attention)
    tables: ClassVar[tuple[str, ...]] = ("mails", "features")

    def __post_init__(self) -> None:
        super().__post_init__()
        del self.leaves["table"]
        self.mails = self.normal(self.roots if self.choices is None else self.choices, self.fanout, self.dim)

    def query_count(self) -> int:
        return self.roots

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
