"""JODIE (Kumar et al., 2019): RNN memory, and an embedding that drifts with the time since the last update."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.kernels import memory_rnn
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe
from mspipe_triton.models.updaters import CellUpdater, Concatenation


class RNNUpdater(CellUpdater):
    """h = tanh(W_i message + b_i + W_h memory + b_h); the parameters are those of torch.nn.RNNCell."""

    def __init__(self, config: ModelConfig, facts: Facts, message: Any) -> None:
        super().__init__(nn.RNNCell, memory_rnn, config, message)


class TimeProjection(nn.Module):
    """z(t) = h ⊙ (1 + w·(t − t_h) / σ), with t_h the time of h and σ the standard deviation of the training gaps."""

    layers = 0

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.gap = facts.gap
        self.weight = nn.Parameter(torch.randn(config.dim, dtype=getattr(torch, config.dtype)) * config.dim**-0.5)

    def forward(self, inputs: EmbeddingInput) -> torch.Tensor:
        """Compute embeddings [R, D] of the roots."""
        numbers = inputs.around.root_rows
        rows, deltas = inputs.table.index_select(0, numbers), inputs.times - inputs.updated.index_select(0, numbers)
        gaps = (deltas.double() / self.gap).to(rows.dtype)
        return rows * torch.addr(rows.new_ones(1, 1), gaps, self.weight)


JODIE = Recipe(TimeProjection, RNNUpdater, Concatenation)
