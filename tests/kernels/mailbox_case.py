"""Cases of mailbox_attention with an oracle of its absorbed form, forward and every gradient by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.kernels import mailbox_attention
from tests.kernels.attention_case import Case, encode


@dataclass
class MailCase(Case):
    """`roots` nodes with mailboxes of `fanout` slots, `dim` numbers a mail; empty slots hold garbage."""

    mailboxes: int | None = None  # mailboxes that rows choose from; None: one a node

    def __post_init__(self) -> None:
        super().__post_init__()
        del self.leaves["table"]
        count = self.roots if self.mailboxes is None else self.mailboxes
        self.mails = self.normal(count, self.fanout, self.dim)
        self.mail_rows = None if self.mailboxes is None else self.integers(self.mailboxes, self.roots)

    def to(self, dtype: torch.dtype, rows: torch.dtype | None = None) -> MailCase:
        made = super().to(dtype, rows)
        assert isinstance(made, MailCase)
        made.mails = self.mails.to(rows or dtype)
        return made

    def actual(self, query: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return mailbox_attention(
            self.mails, self.mail_rows, self.features, self.feature_rows, self.deltas, self.filled,
            self.leaves["frequency"], self.leaves["phase"], self.leaves["query"] if query is None else query,
            self.leaves["bias"] if bias is None else bias, self.dropout, self.draws,
        )  # fmt: skip

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, M + E + T] of one node's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        mails = self.mails[root if self.mail_rows is None else int(self.mail_rows[root]), :count]
        return torch.cat([mails, self.features[slots], encode(self.deltas[root, :count], self.leaves)], 1)
