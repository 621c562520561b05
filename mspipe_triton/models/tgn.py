"""TGN (Rossi et al., 2020): GRU memory and temporal attention over neighbours; and TGAT, the same without memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.negatives import Draws
from mspipe_triton.kernels import memory_gru
from mspipe_triton.mailbox import LastMail, NoMailbox
from mspipe_triton.models.layers import TemporalAttention, TimeEncoder
from mspipe_triton.models.messages import Concatenation, message_of
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe


class GRUUpdater(nn.Module):
    """h = GRU(message, memory); parameters are torch.nn.GRUCell's. Concatenated messages are built in the operation."""

    def __init__(self, config: ModelConfig, facts: Facts, message: Any) -> None:
        super().__init__()
        self.message = message
        self.cell = nn.GRUCell(message.width, config.dim, dtype=getattr(torch, config.dtype))

    def forward(self, record: LastMail, time: TimeEncoder, now: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """The updated memory h [U, D] of a record's nodes."""
        if not isinstance(self.message, Concatenation):
            hidden: torch.Tensor = self.cell(message_of(self.message, record, time), record.memory)
            return hidden
        deltas = (record.mail_time - record.memory_time).to(time.frequency.dtype)
        return memory_gru(
            record.memory, None, record.partner, None, record.mail_features, None, deltas, record.has_mail,
            time.frequency, time.phase,
            self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh,
        )  # fmt: skip


class AttentionEmbedding(nn.Module):
    """Layers of temporal attention: the first over the nodes' rows, each other over the embeddings below it."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.layers = config.setting("layers")
        dim, heads, dtype = config.dim, config.setting("heads"), getattr(torch, config.dtype)
        self.attention = nn.ModuleList(
            TemporalAttention(dim, facts.dim_edge, dim, heads, config.dropout, dtype, layer)
            for layer in range(self.layers)
        )

    def forward(self, given: EmbeddingInput) -> torch.Tensor:
        """Embeddings [R, D] of the roots."""
        table = given.table
        for attention, hop, features in zip(self.attention, given.around.hops, given.edge_features, strict=True):
            table = attention(table, hop, features, given.time, given.draws)
        return table


TGN = Recipe(AttentionEmbedding, GRUUpdater, Concatenation)
TGAT = Recipe(AttentionEmbedding, None, None, lambda config, facts: NoMailbox())
