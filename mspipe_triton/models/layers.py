"""The layers that models are made of: time encoder, temporal attention, link predictor."""

from __future__ import annotations

import torch
from torch import nn

from mspipe_triton.data.negatives import Draws, Purpose
from mspipe_triton.data.neighbourhood import Hop
from mspipe_triton.kernels import temporal_attention
from mspipe_triton.kernels.philox import dropout_scale
from mspipe_triton.kernels.time_encoding import time_frequencies


class TimeEncoder(nn.Module):
    """φ(Δt) = cos(w·Δt + b), w log-spaced from 10⁰ to 10⁻⁹; both fixed unless `learned`.

    The operations take w and b and encode inside, so this holds them and computes nothing.
    """

    frequency: torch.Tensor
    phase: torch.Tensor

    def __init__(self, dim: int, learned: bool, dtype: torch.dtype) -> None:
        super().__init__()
        frequency, phase = time_frequencies(dim, dtype), torch.zeros(dim, dtype=dtype)
        if learned:
            self.frequency, self.phase = nn.Parameter(frequency), nn.Parameter(phase)
        else:
            self.register_buffer("frequency", frequency)
            self.register_buffer("phase", phase)


class TemporalAttention(nn.Module):
    """One layer of TGN's graph attention: LayerNorm(ReLU(dropout(W_o [attention ‖ h_root]))).

    Query from [h_root ‖ φ(0)], keys and values from [h_j ‖ e_j ‖ φ(Δt_j)]; the key and value projections are absorbed
    into the query and the output, so they run once a root (see `mspipe_triton.kernels.temporal_attention`). The query
    depends on the node alone and is computed once per distinct root.
    """

    def __init__(
        self, dim: int, dim_edge: int, dim_time: int, heads: int, dropout: float, dtype: torch.dtype, layer: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.dim, self.dropout, self.layer = heads, dim, dropout, layer
        self.query = nn.Linear(dim + dim_time, dim, dtype=dtype)
        self.key = nn.Linear(dim + dim_edge + dim_time, dim, dtype=dtype)
        self.value = nn.Linear(dim + dim_edge + dim_time, dim, dtype=dtype)
        self.output = nn.Linear(2 * dim, dim, dtype=dtype)
        self.norm = nn.LayerNorm(dim, dtype=dtype)

    def forward(
        self, table: torch.Tensor, hop: Hop, features: torch.Tensor, time: TimeEncoder, draws: Draws | None
    ) -> torch.Tensor:
        """Embeddings [P, D] of a hop's points.

        Args:
            table: [U, D], what the hop's rows are rows of.
            features: [P·F, E], the edge rows of its slots.
            draws: keys of the attention's and the output's dropout; None switches dropout off.
        """
        heads, width = self.heads, self.dim // self.heads
        roots, rate, attention_draws = table[: hop.distinct], 0.0, None
        if draws is not None and self.dropout > 0:
            rate, attention_draws = self.dropout, draws.words(Purpose.ATTENTION_DROPOUT, self.layer)
        at_zero = torch.addmv(self.query.bias, self.query.weight[:, self.dim :], torch.cos(time.phase))  # φ(0) = cos b
        query = torch.addmm(at_zero, roots, self.query.weight[:, : self.dim].t()).view(-1, heads, width)
        absorbed = torch.bmm(query.transpose(0, 1), self.key.weight.view(heads, width, -1)).transpose(0, 1)
        bias = (query * self.key.bias.view(heads, width)).sum(2)
        context, total = temporal_attention(
            table, hop.rows, features, None, hop.deltas, hop.counts, time.frequency, time.phase,
            absorbed, hop.root_rows, bias, rate, attention_draws,
        )  # fmt: skip
        values = torch.bmm(context.transpose(0, 1), self.value.weight.view(heads, width, -1).transpose(1, 2))
        attended = values.transpose(0, 1) + total.unsqueeze(2) * self.value.bias.view(heads, width)
        own = torch.addmm(self.output.bias, roots, self.output.weight[:, self.dim :].t())
        mixed = torch.addmm(
            own.index_select(0, hop.root_rows), attended.reshape(-1, self.dim), self.output.weight[:, : self.dim].t()
        )
        if draws is not None and self.dropout > 0:
            words = draws.words(Purpose.OUTPUT_DROPOUT, self.layer)
            mixed = mixed * dropout_scale(words, tuple(mixed.shape), self.dropout, mixed.dtype)
        normed: torch.Tensor = self.norm(torch.relu(mixed))
        return normed


class LinkPredictor(nn.Module):
    """The score of an edge, w·ReLU(W_s z_src + W_d z_dst) + b, before the logistic function."""

    def __init__(self, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.src = nn.Linear(dim, dim, dtype=dtype)
        self.dst = nn.Linear(dim, dim, dtype=dtype)
        self.out = nn.Linear(dim, 1, dtype=dtype)

    def forward(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        """Scores [B, C] of B sources [B, D] against C destinations each [B, C, D]."""
        scores: torch.Tensor = self.out(torch.relu(self.src(src).unsqueeze(1) + self.dst(dst)))
        return scores.squeeze(2)
