"""The stages of an iteration over one model, one stream and one node state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose, draw_words
from mspipe_triton.data.neighbourhood import Neighbourhood, sample_neighbourhood
from mspipe_triton.models.mitigation import Mitigation
from mspipe_triton.models.tgn import TGN
from mspipe_triton.pipeline.engine import run_serial
from mspipe_triton.pipeline.graph import Stage, StageGraph
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
    """A batch and the neighbourhood of its 3B roots, on the host; the first `endpoints` nodes are its events' ends."""

    batch: Batch
    around: Neighbourhood
    endpoints: int


@dataclass(frozen=True)
class Featured:
    """What the device needs of a batch but memory: its neighbourhood, edge and node rows, and the events themselves.

    edge_features [R·F, E] of the slots; node_features [U, V] of the distinct nodes, if there are any; event_features
    [B, E] and times [B] of the batch's own events.
    """

    sampled: Sampled
    around: Neighbourhood
    edge_features: torch.Tensor
    node_features: torch.Tensor | None
    event_features: torch.Tensor
    times: torch.Tensor

    @property
    def batch(self) -> Batch:
        """The events that it is about."""
        return self.sampled.batch


@dataclass(frozen=True)
class Fetched:
    """With the records of the distinct nodes, which held the writes of `version` iterations when they were fetched.

    `seen` is how many they hold now; it is larger where they were patched since.
    """

    rows: Featured
    record: Record
    version: int
    seen: int

    @property
    def batch(self) -> Batch:
        """The events that it is about."""
        return self.rows.batch


@dataclass(frozen=True)
class Done:
    """An iteration that the model has seen.

    `staleness` is how many of the iterations before were missing from the records that it saw. `rows` are kept until
    the device is through with them, since their memory would go to the next fetch, on a stream that runs ahead.
    """

    batch: Batch
    version: int
    staleness: int
    rows: Fetched | None


@dataclass(frozen=True)
class Trained(Done):
    """With its loss []."""

    loss: torch.Tensor


@dataclass(frozen=True)
class Scored(Done):
    """With the logits of positives [B], negatives [B] and, when ranking, of the candidates [B, N]."""

    positive: torch.Tensor
    negative: torch.Tensor
    ranked: torch.Tensor | None


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


def in_turn(stages: dict[str, Callable[[Any], Any]], items: Iterable[Batch]) -> Iterator[Any]:
    """Take batches through stages one after the other, on this thread."""
    graph = StageGraph(tuple(Stage(name, "compute") for name in stages))
    return run_serial(graph, stages, items)


class Iteration:
    """The stages as methods; `training_stages` and `evaluation_stages` name them in the order they are taken.

    Args:
        optimizer: of the model's parameters; the training stages step it.
        mitigation: blends rows of stale memory when it is fetched, or None.
    """

    def __init__(
        self, stream: EventStream, adjacency: TemporalCSR, model: TGN, state: NodeState, config: ModelConfig,
        seed: int, optimizer: torch.optim.Optimizer, mitigation: Mitigation | None = None,
    ) -> None:  # fmt: skip
        self.stream, self.adjacency, self.model, self.state = stream, adjacency, model, state
        self.config, self.seed, self.optimizer, self.mitigation = config, seed, optimizer, mitigation
        self.placement = state.placement
        self.dtype = getattr(torch, config.dtype)
        features = stream.edge_features
        self.edge_table = torch.zeros((len(stream), 0), dtype=self.dtype) if features is None else features

    def training_stages(self) -> dict[str, Callable[[Any], Any]]:
        """Stage name to function; `patch` is for a schedule that fetches early and wants the latest records."""
        return {**self._fetching(), "patch": self.patch, "train": self.train, "update": self.update}

    def evaluation_stages(self) -> dict[str, Callable[[Any], Any]]:
        """The same with scores in the place of training."""
        return {**self._fetching(), "score": self.score, "update": self.update}

    def sample(self, batch: Batch) -> Sampled:
        """Roots src ‖ dst ‖ negative, each at its event's time, and their neighbours strictly before it."""
        events = slice(batch.start, batch.stop)
        roots = torch.cat([self.stream.src[events], self.stream.dst[events], batch.negatives])
        draws = draw_words(self.seed, Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index)
        around = self._around(roots, self.stream.t[events].repeat(3), draws)
        ends = around.root_rows[: 2 * (batch.stop - batch.start)]
        return Sampled(batch, around, int(ends.max()) + 1)

    def features(self, work: Sampled) -> Featured:
        """Edge rows of the sampled slots and of the batch's events, node rows of the distinct nodes."""
        batch, placement = work.batch, self.placement
        edges, nodes = self._rows(work.around)
        own = placement.load(self.edge_table[batch.start : batch.stop])
        times = placement.load(self.stream.t[batch.start : batch.stop])
        return Featured(work, work.around.on(placement), edges, nodes, own, times)

    @torch.no_grad()
    def memory(self, work: Featured) -> Fetched:
        """Memory and mailbox rows of the distinct nodes, read at one version."""
        nodes = work.sampled.around.nodes
        record, version = self.state.read(nodes, work.around.nodes, self.edge_table)
        if self.mitigation is not None:
            first = self.stream.t[work.batch.start]
            record, _ = self.mitigation.apply(record, nodes, first, self.state)
        return Fetched(work, record, version, version)

    @torch.no_grad()
    def patch(self, work: Fetched) -> Fetched:
        """Lay over the records what iterations have written since they were fetched, down to the one just trained."""
        latest = work.batch.index
        self.state.patch(work.record, work.rows.around.nodes, work.seen, latest)
        return replace(work, seen=latest)

    def train(self, work: Fetched) -> Trained:
        """Forward, BCE(positive) + BCE(negative), backward, optimiser step; then what the iteration writes."""
        batch, rows = work.batch, work.rows
        words = (
            self.placement.load(draw_words(self.seed, Purpose.ATTENTION_DROPOUT, batch.epoch, batch.index)),
            self.placement.load(draw_words(self.seed, Purpose.OUTPUT_DROPOUT, batch.epoch, batch.index)),
        )
        hidden = self.model.update_memory(work.record)
        embedded = self.model.embed(hidden, rows.around, rows.edge_features, rows.node_features, words)
        positive, negative = self._scores(embedded)
        loss = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        loss = loss + binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._publish(work, hidden.detach())
        return Trained(batch, work.version, batch.index - work.seen, work, loss.detach())

    @torch.no_grad()
    def score(self, work: Fetched) -> Scored:
        """The logits of an evaluation's batch."""
        batch, rows = work.batch, work.rows
        hidden = self.model.update_memory(work.record)
        embedded = self.model.embed(hidden, rows.around, rows.edge_features, rows.node_features)
        positive, negative = self._scores(embedded)
        src, candidates = embedded[: positive.numel()], batch.candidates
        ranked = None if candidates is None else self._rank(batch, src, candidates)
        self._publish(work, hidden)
        return Scored(batch, work.version, batch.index - work.seen, work, positive, negative, ranked)

    @torch.no_grad()
    def update(self, work: Done) -> Done:
        """Write the endpoints' memory and mail, and bring loss or scores to the host."""
        self.state.write(work.batch.index)
        # Iterations behind this one have read at least as much; a write may have been under way when this one read.
        self.state.forget(work.version - 1)
        store = self.placement.store
        if isinstance(work, Trained):
            return replace(work, rows=None, loss=store(work.loss))
        if isinstance(work, Scored):
            ranked = None if work.ranked is None else store(work.ranked)
            positive, negative = store(work.positive), store(work.negative)
            return replace(work, rows=None, positive=positive, negative=negative, ranked=ranked)
        return work

    def _fetching(self) -> dict[str, Callable[[Any], Any]]:
        return {"sample": self.sample, "features": self.features, "memory": self.memory}

    def _around(self, roots: torch.Tensor, times: torch.Tensor, draws: torch.Tensor) -> Neighbourhood:
        uniform = draws if self.config.sampler == "uniform" else None
        return sample_neighbourhood(self.adjacency, roots, times, self.config.fanout, self.dtype, uniform)

    def _rows(self, around: Neighbourhood) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Edge rows of a neighbourhood's slots and node rows of its distinct nodes, on the device."""
        slots, table = around.hops[0].event_ids.view(-1), self.stream.node_features
        if self.edge_table.shape[1]:
            edges = self.placement.gather(self.edge_table, slots.clamp(min=0))
        else:
            edges = self.placement.load(self.edge_table.new_zeros((slots.numel(), 0)))
        return edges, None if table is None else self.placement.gather(table, around.nodes)

    @torch.no_grad()
    def _publish(self, work: Fetched, hidden: torch.Tensor) -> None:
        """Compose what the iteration writes, so that later ones may be patched before it is written."""
        batch, around, ends = work.batch, work.rows.around, work.rows.sampled.endpoints
        src_rows, dst_rows, _ = around.root_rows.chunk(3)
        written = self.state.compose(
            work.record, hidden, around.nodes[:ends], work.rows.sampled.around.nodes[:ends], src_rows, dst_rows,
            batch.start, work.rows.times, work.rows.event_features, self.config.aggregator,
        )  # fmt: skip
        self.state.publish(batch.index, written)

    def _scores(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        src, dst, negative = embedded.chunk(3)
        scores = self.model.score(src, torch.stack([dst, negative], 1))
        return scores[:, 0], scores[:, 1]

    def _rank(self, batch: Batch, src: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of the candidates, a few columns at a time so that memory stays bounded."""
        times, placement = self.stream.t[batch.start : batch.stop], self.placement
        scores = []
        for number, columns in enumerate(candidates.split(max(1, _RANKED_ROOTS // src.shape[0]), 1)):
            # Two splits' worth of groups of columns are told apart by the word that holds the epoch elsewhere.
            draws = draw_words(self.seed, Purpose.RANKING_NEIGHBOURS, 2 * number + batch.epoch, batch.index)
            around = self._around(columns.reshape(-1), times.repeat_interleave(columns.shape[1]), draws)
            edges, nodes = self._rows(around)
            hidden = self.model.update_memory(self.state.fetch(around.nodes, self.edge_table))
            embedded = self.model.embed(hidden, around.on(placement), edges, nodes)
            scores.append(self.model.score(src, embedded.view(*columns.shape, -1)))
        return torch.cat(scores, 1)
