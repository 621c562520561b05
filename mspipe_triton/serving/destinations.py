"""Destinations: their embeddings for ranking, computed for each query or kept while they are of age."""

from __future__ import annotations

import torch

from mspipe_triton.iteration.ranking import PAIRS
from mspipe_triton.nodes.state import with_rows
from mspipe_triton.serving.live import Live


class Destinations:
    """Projected embeddings of destinations, W_d z + b_d, from which a query needs one ReLU and one product.

    An embedding depends on the node's memory, on those of its sampled neighbours, and on the time. It is kept until one
    of these memories or the neighbourhood moves, and while its age is at most `share` of its gap, the time from the
    node's last event to the embedding. With a share of 0 it is computed for every new time.

    Args:
        live: the live session. share: see above; used where h does not depend on the time, and at most one hop of the
            most recent neighbours is read. Otherwise nothing is kept.
    """

    def __init__(self, live: Live, share: float) -> None:
        self.live, self.share, model = live, share, live.model
        self.keeps = share > 0 and not live.hidden.reads_now and model.layers <= 1 and not live.session.sampler.uniform
        self.fanout = live.session.sampler.fanout if model.layers else 0
        self.rows = model.time.frequency.new_empty((0, model.dim))
        self.time = live.now.new_empty(0)
        self.moves = torch.empty(0, dtype=torch.int64)
        self.around = torch.empty((0, self.fanout), dtype=torch.int64)
        self.hits = self.misses = 0

    @torch.inference_mode()
    def scores(self, src: torch.Tensor, nodes: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Compute logits [K] of a source [1] and distinct destinations [K], ascending, at a time [1]."""
        parts = []
        for part in nodes.split(PAIRS):
            from_src, from_dst = self._projected(src, part, time)
            features = self.live.pair_features(src, part, time)
            parts.append(self.live.model.predictor.rank(from_src, from_dst, features))
        return torch.cat(parts) if parts else self.rows.new_empty(0)

    def _projected(
        self, src: torch.Tensor, nodes: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return W_s z + b_s [1, D] of a source and W_d z + b_d [K, D] of destinations at a time [1]."""
        live, predictor = self.live, self.live.model.predictor
        if not self.keeps:
            z = live.embed(torch.cat([src, nodes]), time.repeat(1 + nodes.numel()))
            return predictor.src(z[:1]), predictor.dst(z[1:])
        self._grow()
        stale = nodes[self._stale(nodes, time)]
        self.misses += stale.numel()
        self.hits += nodes.numel() - stale.numel()
        z, neighbours = live.embed_with_neighbours(torch.cat([src, stale]), time.repeat(1 + stale.numel()))
        if stale.numel():
            self.rows.index_copy_(0, stale, predictor.dst(z[1:]))
            self.around.index_copy_(0, stale, neighbours[1:])
            self.time.index_fill_(0, stale, time[0])
            self.moves.index_fill_(0, stale, live.moves)
        return predictor.src(z[:1]), self.rows.index_select(0, nodes)

    def _stale(self, nodes: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return which embeddings [K] must be computed anew, such as those never computed, which have seen no move."""
        live = self.live
        moves, last, since = (each.index_select(0, nodes) for each in (self.moves, live.last, self.time))
        moved = live.moved.index_select(0, nodes)
        if self.fanout:
            around = self.around.index_select(0, nodes)
            moved = torch.maximum(moved, live.moved.index_select(0, around.view(-1)).view_as(around).amax(1))
        # An event at the time of an embedding was not a neighbour yet: its gap is then 0, and the age allowed 0.
        gap = (since - last).clamp_(min=0)
        return (moved >= moves) | (time - since > self.share * gap) | (time < since)  # float32 is enough for an age

    def _grow(self) -> None:
        """Make room for all nodes of the live session."""
        room = self.live.moved.numel()
        self.rows, self.time = with_rows(self.rows, room, 0), with_rows(self.time, room, 0)
        self.moves, self.around = with_rows(self.moves, room, -1), with_rows(self.around, room, 0)
