"""TGN (Rossi et al., 2020): GRU memory, one layer of temporal attention over recent neighbours, a link predictor."""

from __future__ import annotations

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.neighbourhood import Neighbourhood
from mspipe_triton.models.layers import GRUUpdater, LinkPredictor, TemporalAttention, TimeEncoder
from mspipe_triton.state import Record


class TGN(nn.Module):
    """Memory updater, embedding and predictor; the state of the nodes is the caller's."""

    def __init__(self, config: ModelConfig, dim_edge: int, dim_node: int) -> None:
        super().__init__()
        dim, dtype = config.dim, getattr(torch, config.dtype)
        self.time = TimeEncoder(dim, config.time_encoder == "learned", dtype)
        self.updater = GRUUpdater(dim, dim_edge, dim, dtype)
        self.node_projection = nn.Linear(dim_node, dim, dtype=dtype) if dim_node else None
        self.attention = TemporalAttention(dim, dim_edge, dim, config.heads, config.dropout, dtype)
        self.predictor = LinkPredictor(dim, dtype)

    def update_memory(self, record: Record) -> torch.Tensor:
        """h [U, D]: the memory of U nodes with their mail digested."""
        hidden: torch.Tensor = self.updater(record, self.time)
        return hidden

    def embed(
        self,
        hidden: torch.Tensor,
        around: Neighbourhood,
        edge_features: torch.Tensor,
        node_features: torch.Tensor | None,
        draws: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Embeddings [R, D] of the roots.

        Args:
            hidden: h [U, D] of the distinct nodes.
            edge_features: [R·F, E] of the slots; node_features: [U, V] of the distinct nodes, or None.
            draws: Philox words of the two dropouts while training, else None.
        """
        table = hidden
        if self.node_projection is not None and node_features is not None:
            table = hidden + self.node_projection(node_features)
        embedded: torch.Tensor = self.attention(
            table, around.distinct, around.root_rows, around.hops[0], edge_features, self.time, draws
        )
        return embedded

    def score(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of B sources [B, D] against C destinations each [B, C, D]."""
        scores: torch.Tensor = self.predictor(src, dst)
        return scores
