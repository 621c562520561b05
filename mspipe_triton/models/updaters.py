"""Memory updaters for one mail per node: the built-in message function, and recurrent cells for any message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.negatives import Draws
from mspipe_triton.kernels import encode_time
from mspipe_triton.models.layers import TimeEncoder
from mspipe_triton.models.model import Facts
from mspipe_triton.nodes.mailbox import LastMail
from mspipe_triton.nodes.precision import WideRecord
from mspipe_triton.nodes.views import MailRows


class Concatenation(nn.Module):
    """[memory ‖ partner ‖ mail features ‖ φ(mail time − memory time)], which the memory operations build themselves."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.width = 3 * config.dim + facts.dim_edge

    def forward(self, record: LastMail, time: TimeEncoder) -> torch.Tensor:
        """Compute messages [U, W]; rows of nodes without mail are meaningless."""
        deltas = (record.mail_time - record.memory_time).to(time.frequency.dtype)
        encoded = encode_time(deltas, time.frequency, time.phase)
        return torch.cat([record.memory, record.partner, record.mail_features, encoded], 1)


class CellUpdater(nn.Module):
    """h = cell(message, memory), with message 0 for nodes without mail; the parameters are those of torch's cell.

    Args:
        cell: GRUCell or RNNCell; operation: the same cell on concatenated messages, which it builds itself.
        message: the message function.
    """

    reads_tables, reads_now = True, False

    def __init__(
        self,
        cell: type[nn.GRUCell | nn.RNNCell],
        operation: Callable[..., torch.Tensor],
        config: ModelConfig,
        message: Any,
    ) -> None:
        super().__init__()
        self.message, self.operation = message, operation
        self.cell = cell(message.width, config.dim, dtype=getattr(torch, config.dtype))

    def forward(
        self, record: LastMail | MailRows, time: TimeEncoder, now: torch.Tensor, draws: Draws | None
    ) -> torch.Tensor:
        """Compute the updated memory h [U, D] of a record's nodes."""
        if not isinstance(self.message, Concatenation):
            wide = WideRecord(record, time.frequency.dtype)
            message = torch.where(record.has_mail.unsqueeze(1), self.message(wide, time), 0.0)
            hidden: torch.Tensor = self.cell(message, wide.memory)
            return hidden
        mail = record.sources(time.frequency.dtype)
        return self.operation(
            mail.memory, mail.rows, mail.partner, mail.rows, mail.features, mail.feature_rows, mail.deltas,
            mail.has_mail, time.frequency, time.phase,
            self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh, count=mail.real,
        )  # fmt: skip
