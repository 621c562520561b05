"""JODIE (Kumar et al., 2019): RNN memory, and an embedding that moves with the time since it was updated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.negatives import Draws
from mspipe_triton.kernels import memory_rnn
from mspipe_triton.mailbox import LastMail
from mspipe_triton.models.layers import TimeEncoder
from mspipe_triton.models.messages import Concatenation, message_of
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe


class RNNUpdater(nn.Module):
    """h = tanh(W_i message + b_i + W_h memory + b_h); parameters are torch.nn.RNNCell's."""

    def __init__(self, config: ModelConfig, facts: Facts, message: Any) -> None:
        super().__init__()
        self.message = message
        self.cell = nn.RNNCell(message.width, config.dim, dtype=getattr(torch, config.dtype))

    def forward(self, record: LastMail, time: TimeEncoder, now: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """The updated memory h [U, D] of a record's nodes."""
        if not isinstance(self.message, Concatenation):
            hidden: torch.Tensor = self.cell(message_of(self.message, record, time), record.memory)
            return hidden
        deltas = (record.mail_time - record.memory_time).to(time.frequency.dtype)
        return memory_rnn(
            record.memory, None, record.partner, None, record.mail_features, None, deltas, record.has_mail,
            time.frequency, time.phase,
            self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh,
        )  # fmt: skip


class TimeProjection(nn.Module):
    """z(t) = h ⊙ (1 + w·(t − t_h) / σ), t_h the time that h is of and σ the deviation of the training gaps."""

    layers = 0

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.gap = facts.gap
        self.weight = nn.Parameter(torch.randn(config.dim, dtype=getattr(torch, config.dtype)) * config.dim**-0.5)

    def forward(self, given: EmbeddingInput) -> torch.Tensor:
        """Embeddings [R, D] of the roots."""
        at = given.around.root_rows
        rows, elapsed = given.table.index_select(0, at), given.times - given.updated.index_select(0, at)
        scaled = (elapsed.double() / self.gap).to(rows.dtype)
        return rows * torch.addr(rows.new_ones(1, 1), scaled, self.weight)


JODIE = Recipe(TimeProjection, RNNUpdater, Concatenation)
