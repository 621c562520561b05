"""The five stages of an iteration over one model, one stream and one node state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
class Sampled:
    """A batch and the neighbourhood of its 3B roots."""

    batch: Batch
    around: Neighbourhood


@dataclass(frozen=True)
class Featured(Sampled):
    """With the edge rows of the slots [R·F, E] and the node rows of the distinct nodes [U, V], if there are any."""

    edge_features: torch.Tensor
    node_features: torch.Tensor | None


@dataclass(frozen=True)
class Fetched(Featured):
    """With the memory and mailbox rows of the distinct nodes."""

    record: Record


@dataclass(frozen=True)
class Done:
    """An iteration that the model has seen: its rows, updated memory h [U, D], and the loss or the scores.

    `scores` are logits of positives [B], negatives [B] and, when ranking, of the candidates [B, N].
    """

    rows: Fetched
    hidden: torch.Tensor
    loss: float = 0.0
    scores: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None


def batches(
    start: int,
    stop: int,
    size: int,
    sampler: NegativeSampler,
    purpose: Purpose,
    epoch: int,
    candidates: int = 0,
) -> Iterator[Batch]:
    """Events [start, stop) cut into batches, the partial last one included; `candidates` N ranking negatives each."""
    count = -(-(stop - start) // size)
    ranked = sampler.iterate(Purpose.RANKING_NEGATIVES, epoch, size, count, candidates) if candidates else None
    for index, negatives in enumerate(sampler.iterate(purpose, epoch, size, count)):
        begin = start + index * size
        end = min(begin + size, stop)
        others = None if ranked is None else next(ranked)[: end - begin]
        yield Batch(index, epoch, begin, end, negatives[: end - begin, 0], others)


class Iteration:
    """The stages as methods; `training_stages` and `evaluation_stages` put them in order.

    Args:
        optimizer: of the model's parameters; the training stages step it.
    """

    def __init__(
        self, stream: EventStream, adjacency: TemporalCSR, model: TGN, state: NodeState, config: ModelConfig,
        seed: int, optimizer: torch.optim.Optimizer,
    ) -> None:  # fmt: skip
        self.stream, self.adjacency, self.model, self.state = stream, adjacency, model, state
        self.config, self.seed, self.optimizer = config, seed, optimizer
        self.dtype = getattr(torch, config.dtype)
        features = stream.edge_features
        self.edge_table = torch.zeros((len(stream), 0), dtype=self.dtype) if features is None else features
        self.event_ids = torch.arange(len(stream))

    def training_stages(self) -> list[Stage]:
        """sample, features, memory, train, update."""
        return [*self._fetching(), Stage("train", self.train), Stage("update", self.update)]

    def evaluation_stages(self) -> list[Stage]:
        """The same with scores in the place of training."""
        return [*self._fetching(), Stage("score", self.score), Stage("update", self.update)]

    def sample(self, batch: Batch) -> Sampled:
        """Roots src ‖ dst ‖ negative, each at its event's time, and their neighbours strictly before it."""
        events = slice(batch.start, batch.stop)
        roots = torch.cat([self.stream.src[events], self.stream.dst[events], batch.negatives])
        draws = draw_words(self.seed, Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index)
        return Sampled(batch, self._around(roots, self.stream.t[events].repeat(3), draws))

    def features(self, work: Sampled) -> Featured:
        """Edge rows of the sampled slots and node rows of the distinct nodes."""
        slots = work.around.hops[0].event_ids.view(-1)
        if self.edge_table.shape[1]:
            edges = self.edge_table.index_select(0, slots.clamp(min=0))
        else:
            edges = self.edge_table.new_zeros((slots.numel(), 0))
        table = self.stream.node_features
        nodes = None if table is None else table.index_select(0, work.around.nodes)
        return Featured(work.batch, work.around, edges, nodes)

    def memory(self, work: Featured) -> Fetched:
        """Memory and mailbox rows of the distinct nodes, read at one version."""
        record = self.state.fetch(work.around.nodes, self.edge_table)
        return Fetched(work.batch, work.around, work.edge_features, work.node_features, record)

    def train(self, work: Fetched) -> Done:
        """Forward, BCE(positive) + BCE(negative), backward, optimiser step."""
        words = (
            draw_words(self.seed, Purpose.ATTENTION_DROPOUT, work.batch.epoch, work.batch.index),
            draw_words(self.seed, Purpose.OUTPUT_DROPOUT, work.batch.epoch, work.batch.index),
        )
        hidden = self.model.update_memory(work.record)
        positive, negative = self._scores(self._embed(work, hidden, words))
        loss = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        loss = loss + binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return Done(work, hidden.detach(), loss.item())

    @torch.no_grad()
    def score(self, work: Fetched) -> Done:
        """The logits of an evaluation's batch."""
        hidden = self.model.update_memory(work.record)
        embedded = self._embed(work, hidden)
        positive, negative = self._scores(embedded)
        ranked = None
        if work.batch.candidates is not None:
            ranked = self._rank(work.batch, embedded[: positive.numel()], work.batch.candidates)
        return Done(work, hidden, scores=(positive, negative, ranked))

    @torch.no_grad()
    def update(self, work: Done) -> Done:
        """Write the endpoints' memory and mail."""
        batch, stream = work.rows.batch, self.stream
        events = slice(batch.start, batch.stop)
        src_rows, dst_rows, _ = work.rows.around.root_rows.chunk(3)
        self.state.write(
            stream.src[events], stream.dst[events], self.event_ids[events], stream.t[events], self.edge_table,
            work.hidden, work.rows.record, src_rows, dst_rows, self.config.aggregator,
        )  # fmt: skip
        return work

    def _fetching(self) -> list[Stage]:
        return [Stage("sample", self.sample), Stage("features", self.features), Stage("memory", self.memory)]

    def _around(self, roots: torch.Tensor, times: torch.Tensor, draws: torch.Tensor) -> Neighbourhood:
        uniform = draws if self.config.sampler == "uniform" else None
        return sample_neighbourhood(self.adjacency, roots, times, self.config.fanout, self.dtype, uniform)

    def _embed(
        self, work: Fetched, hidden: torch.Tensor, words: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        return self.model.embed(hidden, work.around, work.edge_features, work.node_features, words)

    def _scores(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        src, dst, negative = embedded.chunk(3)
        scores = self.model.score(src, torch.stack([dst, negative], 1))
        return scores[:, 0], scores[:, 1]

    def _rank(self, batch: Batch, src: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of the candidates, a few columns at a time so that memory stays bounded."""
        times = self.stream.t[batch.start : batch.stop]
        scores = []
        for number, columns in enumerate(candidates.split(max(1, _RANKED_ROOTS // src.shape[0]), 1)):
            # Two splits' worth of groups of columns are told apart by the word that holds the epoch elsewhere.
            draws = draw_words(self.seed, Purpose.RANKING_NEIGHBOURS, 2 * number + batch.epoch, batch.index)
            around = self._around(columns.reshape(-1), times.repeat_interleave(columns.shape[1]), draws)
            work = self.memory(self.features(Sampled(batch, around)))
            embedded = self._embed(work, self.model.update_memory(work.record))
            scores.append(self.model.score(src, embedded.view(*columns.shape, -1)))
        return torch.cat(scores, 1)
