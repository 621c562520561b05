"""Destinations: their embeddings for ranking, computed for each query or kept while they are of age."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mspipe_triton.iteration.ranking import PAIRS
from mspipe_triton.kernels.link.pair_columns import OF_DESTINATION, POPULARITY, POPULARITY_IF_NEW
from mspipe_triton.models.layers import LinkPredictor
from mspipe_triton.nodes.state import with_rows
from mspipe_triton.serving.live import Live
from mspipe_triton.serving.live_pairs import PastPairs


class Destinations:
    """Projected embeddings of destinations, W_d z + b_d, from which a query needs one ReLU and one product per source.

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
        """Compute logits [M, K] of sources [M] and distinct destinations [K > 0], ascending, at a time [1]."""
        out = self.rows.new_empty((src.numel(), nodes.numel()))
        for row, column, scores in self._blocks(src, nodes, time):
            out[row : row + scores.shape[0], column : column + scores.shape[1]] = scores
        return out

    @torch.inference_mode()
    def best(
        self, src: torch.Tensor, nodes: torch.Tensor, time: torch.Tensor, top: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the highest logits [M, T], descending, and the places [M, T] of their destinations among K.

        T is K, or `top` if that is less. Apart from what is returned, the room needed is that of PAIRS pairs. See
        `scores` for the other arguments.
        """
        count = nodes.numel() if top is None else min(int(top), nodes.numel())
        best = dict[int, tuple[torch.Tensor, torch.Tensor]]()  # of the rows from each number on
        for row, column, scores in self._blocks(src, nodes, time):
            values, places = scores.topk(min(count, scores.shape[1]), 1)
            places += column
            if row in best:
                scores, places = (torch.cat(each, 1) for each in zip(best[row], (values, places), strict=True))
                values, order = scores.topk(min(count, scores.shape[1]), 1)
                places = places.gather(1, order)
            best[row] = values, places
        if len(best) == 1:
            return best[0]
        none = self.rows.new_empty((0, count)), nodes.new_empty((0, count))
        values, places = map(torch.cat, zip(none, *best.values(), strict=True))
        return values, places

    def _blocks(
        self, src: torch.Tensor, nodes: torch.Tensor, time: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield logits of PAIRS pairs at most, after the numbers of their first source and first destination.

        Destinations are projected once for all sources, and so are the sources, up to PAIRS of either at a time.
        """
        predictor, past = self.live.model.predictor, self.live.past_pairs(time)
        size = PAIRS // min(PAIRS, nodes.numel())  # sources at a time
        for row in range(0, src.numel(), PAIRS):
            for column in range(0, nodes.numel(), PAIRS):
                sources, part = src[row : row + PAIRS], nodes[column : column + PAIRS]
                from_src, from_dst = self._projected(sources, part, time)
                pairs = None if past is None else _Pairs(predictor, past, part, from_dst)
                for start in range(0, sources.numel(), size):
                    group = slice(start, start + size)
                    heads, tails = from_src[group], from_dst if group.stop >= sources.numel() else from_dst.clone()
                    scores = predictor.rank(heads, tails) if pairs is None else pairs.rank(sources[group], heads, tails)
                    yield row + start, column, scores

    def _projected(
        self, src: torch.Tensor, nodes: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return W_s z + b_s [M, D] of sources and W_d z + b_d [K, D] of destinations at a time [1]."""
        live, predictor, sources = self.live, self.live.model.predictor, src.numel()
        if live.session.sampler.uniform:
            # Draws depend on the place in a call, and a source's must not depend on the other sources.
            z = torch.cat([live.embed(each, time) for each in src.split(1)])
            return predictor.src(z), predictor.dst(live.embed(nodes, time.repeat(nodes.numel())))
        if not self.keeps:
            z = live.embed(torch.cat([src, nodes]), time.repeat(sources + nodes.numel()))
            return predictor.src(z[:sources]), predictor.dst(z[sources:])
        self._grow()
        stale = nodes[self._stale(nodes, time)]
        self.misses += stale.numel()
        self.hits += nodes.numel() - stale.numel()
        z, neighbours = live.embed_with_neighbours(torch.cat([src, stale]), time.repeat(sources + stale.numel()))
        if stale.numel():
            self.rows.index_copy_(0, stale, predictor.dst(z[sources:]))
            self.around.index_copy_(0, stale, neighbours[sources:])
            self.time.index_fill_(0, stale, time[0])
            self.moves.index_fill_(0, stale, live.moves)
        return predictor.src(z[:sources]), self.rows.index_select(0, nodes)

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


class _Pairs:
    """Scores of pairs by a predictor that reads their features, which consist of parts (see `PastPairs`).

    Args:
        predictor: of the model. past: features before a time. nodes: distinct destinations [K], ascending.
        from_dst: [K, D], W_d z + b_d of these, to which W_p f is added for their part of the features f.
    """

    def __init__(self, predictor: LinkPredictor, past: PastPairs, nodes: torch.Tensor, from_dst: torch.Tensor) -> None:
        assert predictor.pair is not None
        self.predictor, self.past, self.weight = predictor, past, predictor.pair.weight.t()
        self.ends = past.destinations(nodes)
        from_dst.addmm_(self.ends.features[:, OF_DESTINATION], self.weight[OF_DESTINATION])

    def rank(self, src: torch.Tensor, from_src: torch.Tensor, from_dst: torch.Tensor) -> torch.Tensor:
        """Compute logits [M, K] of sources [M].

        Args:
            from_src: [M, D], W_s z + b_s of these. from_dst: what `__init__` leaves in its own; it is overwritten.
        """
        predictor, weight, sources = self.predictor, self.weight, self.past.sources(src)
        heads = torch.addmm(from_src, sources.features, weight)
        owners, others, features = self.past.histories(sources, self.ends)
        sums = heads.index_select(0, owners).add_(from_dst.index_select(0, others)).addmm_(features, weight)
        new = (sources.counts == 0).nonzero().squeeze(1)
        if not new.numel():
            scores = predictor.rank(heads, from_dst)
        else:
            popularity = self.ends.features[:, POPULARITY]
            for_new = torch.addmm(from_dst, popularity, weight[POPULARITY_IF_NEW])
            rest = (sources.counts > 0).nonzero().squeeze(1)
            scores = heads.new_empty((len(heads), len(from_dst)))
            for rows, tails in ((new, for_new), (rest, from_dst)):
                scores.index_copy_(0, rows, predictor.rank(heads.index_select(0, rows), tails))
        if owners.numel():
            scores[owners, others] = predictor.finish(sums)
        return scores
