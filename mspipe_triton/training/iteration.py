"""The five stages of an iteration over one model, one stream and one node state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose, draw_words
from mspipe_triton.data.neighbourhood import Neighbourhood, sample_neighbourhood
from mspipe_triton.models.tgn import TGN
from mspipe_triton.pipeline.engine import Stage
from mspipe_triton.state import NodeState, Record

_RANKED_ROOTS = 6000


@dataclass(frozen=True)
class Batch:
    """B consecutive events [start, stop) with a negative destination each, and candidates [B, N] when ranking."""

    index: int
    epoch: int
    start: int
    stop: int
    negatives: torch.Tensor
    candidates: torch.Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """What roots need from the tables: neighbourhood, edge rows of the slots [R·F, E], node records, node features."""

    around: Neighbourhood
    edge_features: torch.Tensor
    node_features: torch.Tensor | None
    record: Record | None = None


@dataclass(frozen=True)
class Work:
    """An iteration's data on its way through the stages; each stage fills in its own part."""

    batch: Batch
    rows: Rows | None = None
    hidden: torch.Tensor | None = None
    loss: float = 0.0
    scores: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None


def work_items(
    start: int,
    stop: int,
    size: int,
    sampler: NegativeSampler,
    purpose: Purpose,
    epoch: int,
    candidates: int = 0,
) -> Iterator[Work]:
    """Events [start, stop) cut into batches, the partial last one included; `candidates` N ranking negatives each."""
    count = -(-(stop - start) // size)
    ranked = sampler.iterate(Purpose.RANKING_NEGATIVES, epoch, size, count, candidates) if candidates else None
    for index, negatives in enumerate(sampler.iterate(purpose, epoch, size, count)):
        begin = start + index * size
        end = min(begin + size, stop)
        others = None if ranked is None else next(ranked)[: end - begin]
        yield Work(Batch(index, epoch, begin, end, negatives[: end - begin, 0], others))


class Iteration:
    """The stages as methods; `training_stages` and `evaluation_stages` put them in order.

    Args:
        optimizer: needed by the training stages alone.
    """

    def __init__(
        self, stream: EventStream, adjacency: TemporalCSR, model: TGN, state: NodeState, config: ModelConfig,
        seed: int, optimizer: torch.optim.Optimizer | None = None,
    ) -> None:  # fmt: skip
        self.stream, self.adjacency, self.model, self.state = stream, adjacency, model, state
        self.config, self.seed, self.optimizer = config, seed, optimizer
        self.dtype = getattr(torch, config.dtype)
        features = stream.edge_features
        self.edge_table = torch.zeros((len(stream), 0), dtype=self.dtype) if features is None else features
        self.event_ids = torch.arange(len(stream))

    def training_stages(self) -> list[Stage[Work]]:
        """sample, features, memory, train, update."""
        return [
            Stage("sample", self.sample),
            Stage("features", self.features),
            Stage("memory", self.memory),
            Stage("train", self.train),
            Stage("update", self.update),
        ]

    def evaluation_stages(self) -> list[Stage[Work]]:
        """The same with scores in the place of training."""
        return [
            Stage("sample", self.sample),
            Stage("features", self.features),
            Stage("memory", self.memory),
            Stage("score", self.score),
            Stage("update", self.update),
        ]

    def sample(self, work: Work) -> Work:
        """Roots src ‖ dst ‖ negative, each at its event's time, and their neighbours strictly before it."""
        batch = work.batch
        src, dst, t = (column[batch.start : batch.stop] for column in (self.stream.src, self.stream.dst, self.stream.t))
        draws = draw_words(self.seed, Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index)
        return replace(work, rows=self._rows(torch.cat([src, dst, batch.negatives]), t.repeat(3), draws))

    def features(self, work: Work) -> Work:
        """Edge rows of the sampled slots and node rows of the distinct nodes."""
        assert work.rows is not None
        return replace(work, rows=self._with_features(work.rows))

    def memory(self, work: Work) -> Work:
        """Memory and mailbox rows of the distinct nodes, read at one version."""
        assert work.rows is not None
        return replace(work, rows=self._with_record(work.rows))

    def train(self, work: Work) -> Work:
        """Forward, BCE(positive) + BCE(negative), backward, optimiser step."""
        assert work.rows is not None and work.rows.record is not None and self.optimizer is not None
        batch = work.batch
        words = (
            draw_words(self.seed, Purpose.ATTENTION_DROPOUT, batch.epoch, batch.index),
            draw_words(self.seed, Purpose.OUTPUT_DROPOUT, batch.epoch, batch.index),
        )
        hidden = self.model.update_memory(work.rows.record)
        positive, negative = self._scores(work.rows, hidden, words)
        loss = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        loss = loss + binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return replace(work, hidden=hidden.detach(), loss=loss.item())

    @torch.no_grad()
    def score(self, work: Work) -> Work:
        """Logits of positives [B], negatives [B] and, when ranking, of the candidates [B, N]."""
        assert work.rows is not None and work.rows.record is not None
        hidden = self.model.update_memory(work.rows.record)
        embedded = self._embed(work.rows, hidden)
        positive, negative = self._split_scores(embedded)
        ranked = None
        if work.batch.candidates is not None:
            ranked = self._rank(work.batch, embedded[: positive.numel()], work.batch.candidates)
        return replace(work, hidden=hidden, scores=(positive, negative, ranked))

    @torch.no_grad()
    def update(self, work: Work) -> Work:
        """Write the endpoints' memory and mail."""
        assert work.rows is not None and work.rows.record is not None and work.hidden is not None
        batch, stream = work.batch, self.stream
        events = slice(batch.start, batch.stop)
        src_rows, dst_rows, _ = work.rows.around.root_rows.chunk(3)
        self.state.write(
            stream.src[events], stream.dst[events], self.event_ids[events], stream.t[events], self.edge_table,
            work.hidden, work.rows.record, src_rows, dst_rows, self.config.aggregator,
        )  # fmt: skip
        return work

    def _rows(self, roots: torch.Tensor, times: torch.Tensor, draws: torch.Tensor) -> Rows:
        uniform = draws if self.config.sampler == "uniform" else None
        around = sample_neighbourhood(self.adjacency, roots, times, self.config.fanout, self.dtype, uniform)
        return Rows(around, self.edge_table[:0], None)

    def _with_features(self, rows: Rows) -> Rows:
        slots = rows.around.hops[0].event_ids.view(-1)
        if self.edge_table.shape[1]:
            edges = self.edge_table.index_select(0, slots.clamp(min=0))
        else:
            edges = self.edge_table.new_zeros((slots.numel(), 0))
        table = self.stream.node_features
        return replace(
            rows,
            edge_features=edges,
            node_features=None if table is None else table.index_select(0, rows.around.nodes),
        )

    def _with_record(self, rows: Rows) -> Rows:
        return replace(rows, record=self.state.fetch(rows.around.nodes, self.edge_table))

    def _embed(
        self, rows: Rows, hidden: torch.Tensor, words: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        return self.model.embed(hidden, rows.around, rows.edge_features, rows.node_features, words)

    def _scores(
        self, rows: Rows, hidden: torch.Tensor, words: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._split_scores(self._embed(rows, hidden, words))

    def _split_scores(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        src, dst, negative = embedded.chunk(3)
        scores = self.model.score(src, torch.stack([dst, negative], 1))
        return scores[:, 0], scores[:, 1]

    def _rank(self, batch: Batch, src: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of the candidates, a few columns at a time so that memory stays bounded."""
        times = self.stream.t[batch.start : batch.stop]
        scores = []
        for number, columns in enumerate(candidates.split(max(1, _RANKED_ROOTS // src.shape[0]), 1)):
            # The word that holds the epoch elsewhere tells the groups of columns apart.
            draws = draw_words(self.seed, Purpose.RANKING_NEIGHBOURS + batch.epoch, number, batch.index)
            rows = self._rows(columns.reshape(-1), times.repeat_interleave(columns.shape[1]), draws)
            rows = self._with_record(self._with_features(rows))
            assert rows.record is not None
            embedded = self._embed(rows, self.model.update_memory(rows.record))
            scores.append(self.model.score(src, embedded.view(*columns.shape, -1)))
        return torch.cat(scores, 1)
