"""The stages of an iteration over one model, one stream and one node state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from mspipe_triton.config import ModelConfig, RunSettings
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Draws, IterationDraws, Purpose, draw_words
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.mailbox import Interactions, Receivers
from mspipe_triton.models.mitigation import Mitigation
from mspipe_triton.models.model import TemporalModel
from mspipe_triton.pipeline.engine import run_serial
from mspipe_triton.pipeline.graph import Stage, StageGraph
from mspipe_triton.placement import Placement
from mspipe_triton.state import NodeState
from mspipe_triton.training.batch import (
    Batch,
    Done,
    Embedded,
    Featured,
    Fetched,
    Sampled,
    Scored,
    Trained,
    padded_times,
)

_RANKED_ROOTS = 6000


def ranked_columns(size: int) -> int:
    """Columns of candidates that are ranked at a time, in batches of this size."""
    return max(1, _RANKED_ROOTS // size)


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
        self, stream: EventStream, adjacency: TemporalCSR, model: TemporalModel, state: NodeState[Any],
        config: ModelConfig, settings: RunSettings, seed: int, optimizer: torch.optim.Optimizer,
        mitigation: Mitigation | None = None,
    ) -> None:  # fmt: skip
        self.stream, self.model, self.state = stream, model, state
        self.settings, self.seed, self.optimizer, self.mitigation = settings, seed, optimizer, mitigation
        self.placement = state.placement
        dtype, fanout = getattr(torch, config.dtype), config.setting("fanout")
        uniform, features = config.sampler == "uniform", stream.edge_features
        self.sampler = NeighbourSampler(stream, adjacency, fanout, uniform, dtype, self._deduplicated(settings))
        tables = getattr(torch, config.table_dtype)
        self.host_table = torch.zeros((len(stream), 0), dtype=tables) if features is None else features
        self.edge_table = self.placement.placed(self.host_table, settings.features)

    def under(self, settings: RunSettings, state: NodeState[Any]) -> Iteration:
        """The same under other settings, on a state with their placement."""
        other = copy(self)
        other.settings, other.state, other.placement = settings, state, state.placement
        other.sampler = replace(self.sampler, deduplicate=self._deduplicated(settings))
        if settings.features != self.settings.features:
            other.edge_table = self.placement.placed(self.host_table, settings.features)
        return other

    def training_stages(self) -> dict[str, Callable[[Any], Any]]:
        """Stage name to function; `patch` is for a schedule that fetches early and wants the latest records."""
        return {**self._fetching(), "patch": self.patch, "train": self.train, "update": self.update}

    def evaluation_stages(self) -> dict[str, Callable[[Any], Any]]:
        """The same with scores in the place of training."""
        return {**self._fetching(), "score": self.score, "update": self.update}

    def embedding_stages(self) -> dict[str, Callable[[Any], Any]]:
        """The same with embeddings of the sources."""
        return {**self._fetching(), "embed": self.embed, "update": self.update}

    def sample(self, batch: Batch) -> Sampled:
        """Roots src ‖ dst ‖ negative, each at its event's time, and their neighbours strictly before it."""
        events, ends, missing = slice(batch.start, batch.stop), 2 * batch.size, batch.size - batch.stop + batch.start
        times = padded_times(self.stream.t[events], batch.size).repeat(3)
        nodes = [self.stream.src[events], self.stream.dst[events], batch.negatives]
        of_ends = torch.arange(2 * batch.start, 2 * batch.stop).view(-1, 2).t()
        keys = [*of_ends, self._new_keys(batch.negatives.numel())]
        roots = Roots(_padded(nodes, missing), times, _padded(keys, missing))
        around = self.sampler.around(roots, self._hop_draws(Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index))
        receivers = None
        if self.model.mailbox.hears:
            words = draw_words(self.seed, Purpose.RECEIVING_NEIGHBOURS, batch.epoch, batch.index)
            neighbours, *_ = self.sampler.neighbours(roots.nodes[:ends], times[:ends], words)
            receivers = Receivers.of(roots.nodes[:ends], neighbours)
        return Sampled(batch, around, int(around.root_rows[:ends].max()) + 1, receivers)

    def features(self, work: Sampled) -> Featured:
        """Edge rows of the sampled slots and of the batch's events, node rows of the distinct nodes."""
        batch, placement = work.batch, self.placement
        edges, nodes = self._rows(work.around)
        own = placement.load(self.edge_table[batch.start : batch.stop])
        times = placement.load(self.stream.t[batch.start : batch.stop])
        receivers = None if work.receivers is None else work.receivers.on(placement)
        return Featured(work, work.around.on(placement), receivers, edges, nodes, own, times)

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
        batch = work.batch
        hidden, embedded = self._embedded(work, IterationDraws(self.seed, batch.epoch, batch.index, self.placement))
        loss, _ = self.model.loss(embedded, self._count(batch))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._publish(work, hidden)
        return Trained(batch, work.version, batch.index - work.seen, work, loss.detach())

    @torch.no_grad()
    def score(self, work: Fetched) -> Scored:
        """The logits of an evaluation's batch."""
        batch = work.batch
        hidden, embedded = self._embedded(work, None)
        _, scores = self.model.loss(embedded, self._count(batch))
        events, candidates = batch.stop - batch.start, batch.candidates
        (positive, negative), src = scores[:, :events], embedded[:events]
        ranked = None if candidates is None else self._rank(work, src, positive, candidates)
        self._publish(work, hidden)
        return Scored(batch, work.version, batch.index - work.seen, work, positive, negative, ranked)

    @torch.no_grad()
    def embed(self, work: Fetched) -> Embedded:
        """The embeddings of the sources alone, for another task than the prediction of links."""
        batch = work.batch
        hidden, embedded = self._embedded(work, None)
        self._publish(work, hidden)
        sources = embedded[: batch.stop - batch.start]
        return Embedded(batch, work.version, batch.index - work.seen, work, sources)

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
        if isinstance(work, Embedded):
            return replace(work, rows=None, sources=store(work.sources))
        return work

    def _deduplicated(self, settings: RunSettings) -> str:
        return settings.deduplicate if self.mitigation is None else "all"  # it takes a quantile over distinct nodes

    def _fetching(self) -> dict[str, Callable[[Any], Any]]:
        return {"sample": self.sample, "features": self.features, "memory": self.memory}

    def _hop_draws(self, purpose: Purpose, epoch: int, iteration: int) -> list[torch.Tensor]:
        """Philox words for every hop that the model reads."""
        draws = IterationDraws(self.seed, epoch, iteration, Placement())
        return [draws.words(purpose, hop) for hop in range(self.model.layers)]

    def _new_keys(self, count: int) -> torch.Tensor:
        """Keys [count] of roots that are no ends of events."""
        return torch.arange(2 * len(self.stream), 2 * len(self.stream) + count)

    def _rows(self, around: Neighbourhood) -> tuple[list[EdgeRows], torch.Tensor | None]:
        """Edge rows of every hop's slots and node rows of the distinct nodes, on the device."""
        slots, table = [hop.event_ids.view(-1) for hop in around.hops], self.stream.node_features
        if self.edge_table.shape[1]:
            edges = [self.placement.gather(self.edge_table, events.clamp(min=0)) for events in slots]
        else:
            edges = [self.placement.load(self.edge_table.new_zeros((events.numel(), 0))) for events in slots]
        return [EdgeRows(each) for each in edges], None if table is None else self.placement.gather(table, around.nodes)

    def _embedded(self, work: Fetched, draws: Draws | None) -> tuple[torch.Tensor | None, torch.Tensor]:
        """h [U, D] of the distinct nodes, if there is memory, and embeddings [3 · size, D] of the roots."""
        rows, record = work.rows, work.record
        hidden = self.model.update_memory(record, rows.times[0], draws)
        embedded = self.model.embed(
            hidden, record.digested_time, rows.around, rows.root_times, rows.edges, rows.node_features,
            draws,
        )  # fmt: skip
        return hidden, embedded

    @torch.no_grad()
    def _publish(self, work: Fetched, hidden: torch.Tensor | None) -> None:
        """Compose what the iteration writes, so that later ones may be patched before it is written."""
        batch, rows = work.batch, work.rows
        src_rows, dst_rows, _ = (part[: rows.times.numel()] for part in rows.around.root_rows.chunk(3))
        events = Interactions(
            batch.start, rows.times, rows.event_features, rows.around.nodes[: rows.sampled.endpoints], src_rows,
            dst_rows, rows.receivers,
        )  # fmt: skip
        hidden = None if hidden is None else hidden.detach()
        self.state.publish(batch.index, self.state.compose(work.record, hidden, events))

    def _count(self, batch: Batch) -> torch.Tensor | None:
        """[1], how many events of a batch are real, where it is not whole."""
        events = batch.stop - batch.start
        return None if events == batch.size else self.placement.load(torch.tensor([events]))

    def _rank(self, work: Fetched, src: torch.Tensor, positive: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of the candidates, a few columns at a time so that memory stays bounded.

        Beside the candidates of a group stands the true destination, and they get the positive's logit [B] plus what
        they differ from it: equal embeddings then tie, however differently other products may round.
        """
        batch, times, placement = work.batch, self.stream.t[work.batch.start : work.batch.stop], self.placement
        dst, scores = self.stream.dst[batch.start : batch.stop].unsqueeze(1), []
        for number, columns in enumerate(candidates.split(ranked_columns(batch.size), 1)):
            columns = torch.cat([dst, columns], 1)
            # Two splits' worth of groups of columns are told apart by the word that holds the epoch elsewhere.
            draws = self._hop_draws(Purpose.RANKING_NEIGHBOURS, 2 * number + batch.epoch, batch.index)
            at = times.repeat_interleave(columns.shape[1])
            roots = columns.view(-1)
            around = self.sampler.around(Roots(roots, at, self._new_keys(roots.numel())), draws)
            edges, nodes = self._rows(around)
            record = self.state.fetch(around.nodes, self.edge_table)
            hidden = self.model.update_memory(record, work.rows.times[0])
            embedded = self.model.embed(
                hidden, record.digested_time, around.on(placement), placement.load(at), edges, nodes
            )
            logits = self.model.score(src, embedded.view(*columns.shape, -1))
            scores.append(positive.unsqueeze(1) + (logits[:, 1:] - logits[:, :1]))
        return torch.cat(scores, 1)


def _padded(parts: Sequence[torch.Tensor], missing: int) -> torch.Tensor:
    """The parts one behind the other, each with as many −1 at its end as are missing."""
    return torch.cat([pad(part, (0, missing), value=-1) for part in parts] if missing else list(parts))
