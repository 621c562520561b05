"""APAN (Wang et al., 2021): a transformer block over the mails of a node; its embedding is the memory itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.negatives import Draws, Purpose
from mspipe_triton.kernels import dropout_scale, mailbox_attention
from mspipe_triton.models.layers import TimeEncoder
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe
from mspipe_triton.nodes.precision import widen
from mspipe_triton.nodes.ring import MailRing, RingMailbox
from mspipe_triton.nodes.views import RingRows


class MailboxUpdater(nn.Module):
    """h = LayerNorm(y + W_o dropout(ReLU(W_h y))), y = LayerNorm(memory + attention over the mails).

    The query is from the memory, keys and values from [mail ‖ features ‖ φ(now − mail time)]. `now` is the time of the
    batch's first event, so that h depends only on node and batch. Logits are LeakyReLU₀.₂(q·k / √width) in heads of
    that width. The key and value projections are absorbed into the query and the output (see
    `mspipe_triton.kernels.attention.mailbox`).
    """

    reads_tables = True

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        dim, dtype = config.dim, getattr(torch, config.dtype)
        width = 3 * dim + facts.dim_edge
        self.heads, self.dim, self.dropout = config.setting("heads"), dim, config.dropout
        self.query = nn.Linear(dim, dim, dtype=dtype)
        self.key = nn.Linear(width, dim, dtype=dtype)
        self.value = nn.Linear(width, dim, dtype=dtype)
        self.norm = nn.LayerNorm(dim, dtype=dtype)
        self.hidden = nn.Linear(dim, dim, dtype=dtype)
        self.output = nn.Linear(dim, dim, dtype=dtype)
        self.output_norm = nn.LayerNorm(dim, dtype=dtype)

    def forward(
        self, record: MailRing | RingRows, time: TimeEncoder, now: torch.Tensor, draws: Draws | None
    ) -> torch.Tensor:
        """Compute the updated memory h [U, D] of a record's nodes."""
        heads, width, rate, words = self.heads, self.dim // self.heads, 0.0, None
        if draws is not None and self.dropout > 0:
            rate, words = self.dropout, draws.words(Purpose.MAILBOX_DROPOUT)
        memory = widen(record.memory, self.query.weight.dtype)
        query = self.query(memory).view(-1, heads, width) * width**-0.5
        absorbed = torch.bmm(query.transpose(0, 1), self.key.weight.view(heads, width, -1)).transpose(0, 1)
        bias = (query * self.key.bias.view(heads, width)).sum(2)
        ages = (now - record.mail_time).to(time.frequency.dtype)
        context, total = mailbox_attention(
            *record.sources(), ages, record.filled, time.frequency, time.phase, absorbed, bias, rate, words
        )
        values = torch.bmm(context.transpose(0, 1), self.value.weight.view(heads, width, -1).transpose(1, 2))
        attention = values.transpose(0, 1) + total.unsqueeze(2) * self.value.bias.view(heads, width)
        sums = self.norm(memory + attention.reshape(-1, self.dim))
        inner = torch.relu(self.hidden(sums))
        if draws is not None and self.dropout > 0:
            scale = dropout_scale(draws.words(Purpose.UPDATER_DROPOUT), tuple(inner.shape), self.dropout, inner.dtype)
            inner = inner * scale
        hidden: torch.Tensor = self.output_norm(sums + self.output(inner))
        return hidden


class MemoryEmbedding(nn.Module):
    """z = h: the memory itself."""

    layers = 0

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()

    def forward(self, inputs: EmbeddingInput) -> torch.Tensor:
        """Compute embeddings [R, D] of the roots."""
        return inputs.table.index_select(0, inputs.around.root_rows)


def _updater(config: ModelConfig, facts: Facts, message: Any) -> MailboxUpdater:
    return MailboxUpdater(config, facts)


def _mailbox(config: ModelConfig, facts: Facts) -> RingMailbox:
    dtype = getattr(torch, config.table_dtype)
    return RingMailbox(config.dim, facts.dim_edge, dtype, config.setting("slots"), config.aggregator)


APAN = Recipe(MemoryEmbedding, _updater, None, _mailbox)
