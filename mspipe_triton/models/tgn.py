"""TGN (Rossi et al., 2020), with GRU memory and temporal attention over neighbours, and TGAT, which has no memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.kernels import memory_gru
from mspipe_triton.models.layers import TemporalAttention
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe
from mspipe_triton.models.updaters import CellUpdater, Concatenation
from mspipe_triton.nodes.mailbox import NoMailbox


class GRUUpdater(CellUpdater):
    """h = GRU(message, memory); the parameters are those of torch.nn.GRUCell."""

    def __init__(self, config: ModelConfig, facts: Facts, message: Any) -> None:
        super().__init__(nn.GRUCell, memory_gru, config, message)


class AttentionEmbedding(nn.Module):
    """Layers of temporal attention: the first reads the nodes' rows, the others the embeddings of the layer below."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.layers = config.setting("layers")
        dim, heads, dtype = config.dim, config.setting("heads"), getattr(torch, config.dtype)
        self.attention = nn.ModuleList(
            TemporalAttention(dim, facts.dim_edge, dim, heads, config.dropout, dtype, layer)
            for layer in range(self.layers)
        )

    def forward(self, inputs: EmbeddingInput) -> torch.Tensor:
        """Compute embeddings [R, D] of the roots."""
        table = inputs.table
        for attention, hop, edges in zip(self.attention, inputs.around.hops, inputs.edges, strict=True):
            table = attention(table, hop, edges, inputs.time, inputs.draws)
        return table


TGN = Recipe(AttentionEmbedding, GRUUpdater, Concatenation)
TGAT = Recipe(AttentionEmbedding, None, None, lambda config, facts: NoMailbox())
