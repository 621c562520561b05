"""Layers of the models: time encoder, temporal attention, link predictor."""

from __future__ import annotations

import torch
from torch import nn

from mspipe_triton.data.negatives import Draws, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Hop
from mspipe_triton.kernels import attention_layer
from mspipe_triton.kernels.link.pair_columns import COLUMNS
from mspipe_triton.kernels.numbers.time_encoding import time_frequencies
from mspipe_triton.kernels.runtime.fusion import fused

_SCORED = 6000  # pairs of nodes that are scored at a time, so that their rows fit into caches


class TimeEncoder(nn.Module):
    """φ(Δt) = cos(w·Δt + b), w log-spaced over `decades` down from 10⁰; both fixed unless `learned`.

    Δt is in units of the stream's time resolution (`TimeScale`), so the unit of time in the input has no effect.
    This module only stores w and b, since the operations that read them encode times themselves.
    """

    frequency: torch.Tensor
    phase: torch.Tensor

    def __init__(self, dim: int, learned: bool, dtype: torch.dtype, decades: float) -> None:
        super().__init__()
        frequency, phase = time_frequencies(dim, dtype, decades), torch.zeros(dim, dtype=dtype)
        if learned:
            self.frequency, self.phase = nn.Parameter(frequency), nn.Parameter(phase)
        else:
            self.register_buffer("frequency", frequency)
            self.register_buffer("phase", phase)


class TemporalAttention(nn.Module):
    """One layer of TGN's graph attention: LayerNorm(ReLU(dropout(W_o [attention ‖ h_root]))).

    The query is from [h_root ‖ φ(0)], keys and values from [h_j ‖ e_j ‖ φ(Δt_j)]. The key and value projections are
    absorbed into the query and the output, so they run once per root (see `mspipe_triton.kernels.attention.layer`).
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
        self, table: torch.Tensor, hop: Hop, edges: EdgeRows, time: TimeEncoder, draws: Draws | None
    ) -> torch.Tensor:
        """Compute embeddings [P, D] of a hop's points.

        Args:
            table: [U, D], the table that the hop's row numbers refer to.
            edges: the edge rows of its slots.
            draws: keys of the dropout of attention and output; None turns dropout off.
        """
        rate, words, output_words = 0.0, None, None
        if draws is not None and self.dropout > 0:
            rate, words = self.dropout, draws.words(Purpose.ATTENTION_DROPOUT, self.layer)
            output_words = draws.words(Purpose.OUTPUT_DROPOUT, self.layer)
        return attention_layer(
            table, hop.root_rows, hop.distinct, hop.rows, edges.table, edges.rows, hop.deltas, hop.counts,
            time.frequency, time.phase, self.query.weight, self.query.bias, self.key.weight, self.key.bias,
            self.value.weight, self.value.bias, self.output.weight, self.output.bias, self.norm.weight, self.norm.bias,
            self.heads, self.norm.eps, rate, words, output_words,
        )  # fmt: skip


class LinkPredictor(nn.Module):
    """Score of an edge, w·ReLU(W_s z_src + W_d z_dst + W_p f) + b, before the logistic function.

    f are features of the pair (see `pair_features`); `pair` is None in a model that does not read them.
    """

    def __init__(self, dim: int, dtype: torch.dtype, pair_features: bool) -> None:
        super().__init__()
        self.src = nn.Linear(dim, dim, dtype=dtype)
        self.dst = nn.Linear(dim, dim, dtype=dtype)
        self.out = nn.Linear(dim, 1, dtype=dtype)
        self.pair = nn.Linear(COLUMNS, dim, bias=False, dtype=dtype) if pair_features else None

    @torch.no_grad()
    def start(self, weights: torch.Tensor) -> None:
        """Let two hidden numbers add the linear function x = `weights` [·] · f of a pair's features f to its score.

        They are ReLU(x + 1) and ReLU(−x − 1), whose difference is x + 1: at x = 0, the value of pairs without a
        history, the slope of ReLU(x) would depend on rounding. All of these parameters are trained like the others.
        This does nothing in a predictor of width 1.
        """
        if self.pair is None or self.out.in_features < 2:
            return
        signs = torch.tensor([1.0, -1.0]).to(self.out.weight)
        for layer in (self.src, self.dst):
            layer.weight[:2] = 0
            layer.bias[:2] = 0
        self.src.bias[:2] = signs
        self.out.weight[0, :2] = signs
        self.out.bias.sub_(1)
        self.pair.weight[:2] = torch.outer(signs, weights.to(self.pair.weight))

    def rank(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        """Compute scores [M, K] of M sources against K destinations from their parts of the sum under the ReLU.

        Args:
            src: [M, D], W_s z_src + b_s. dst: [K, D], W_d z_dst + b_d, which is overwritten. Either may contain W_p f.
        """
        scores = dst.new_empty((src.shape[0], dst.shape[0]))
        for part, out in zip(dst.split(_SCORED), scores.split(_SCORED, 1), strict=True):
            for number, row in enumerate(src):
                sums = part + row if number + 1 < len(src) else part.add_(row)
                out[number] = self.finish(sums)
        return scores

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """Compute scores [M] from the sums [M, D] under the ReLU, which are overwritten."""
        return torch.addmv(self.out.bias, sums.relu_(), self.out.weight[0])

    def forward(
        self, src: torch.Tensor, dst: torch.Tensor, rows: torch.Tensor, pairs: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute scores [B, C] of B sources [B, D] against the destinations [P, D] at `rows` [B, C].

        Args:
            pairs: features [B, C, ·] of the pairs, or None in a model that does not read them.
        """
        from_src, from_dst = self.src(src), self.dst(dst)
        owners = torch.arange(rows.shape[0], device=rows.device).repeat_interleave(rows.shape[1])
        places, scores = rows.reshape(-1), list[torch.Tensor]()
        for start in range(0, places.numel(), _SCORED):
            part = slice(start, start + _SCORED)
            from_pair = None if self.pair is None or pairs is None else self.pair(pairs.flatten(0, 1)[part])
            scores.append(self.out(_hidden(from_src, from_dst, owners[part], places[part], from_pair)))
        return torch.cat(scores).view(rows.shape)


@fused()
def _hidden(
    src: torch.Tensor, dst: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor, pairs: torch.Tensor | None
) -> torch.Tensor:
    """ReLU(src + dst + pairs) [M, D], with the rows [M] of the tables src and dst [·, D], and pairs [M, D]."""
    if torch.compiler.is_compiling():
        sums = src[src_rows] + dst[dst_rows]
    else:
        sums = src.index_select(0, src_rows) + dst.index_select(0, dst_rows)
    return torch.relu(sums if pairs is None else sums + pairs)
