"""Staged iterations: stages fetch the scene one after the other, publish the batch's writes and store them later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from mspipe_triton.data.negatives import IterationDraws, Purpose, draw_words, drawing_rank
from mspipe_triton.data.neighbourhood import EdgeRows, Roots
from mspipe_triton.iteration.pairs import features_of, training_negatives
from mspipe_triton.iteration.ranking import Pairs, Ranked, Ranking, events_at_a_time
from mspipe_triton.iteration.scene import Batch, Scene, Share, new_keys
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import after, embed, learn, score
from mspipe_triton.kernels import unique_nodes
from mspipe_triton.nodes.mailbox import Interactions, Receivers
from mspipe_triton.pipeline.engine import run_serial
from mspipe_triton.pipeline.graph import Stage, StageGraph
from mspipe_triton.placement import Placement


@dataclass(frozen=True)
class Work:
    """A batch on its way through the stages.

    Args:
        share: the part of the batch that this rank works on.
        scene: of the share, on the host at first, then on the model's device. It stays referenced until the device is
            done with it; otherwise the next fetch, whose stream runs ahead, would reuse its memory.
        nodes: the scene's distinct nodes [U] on the host; the first `ends` of them are ends of the events.
        event_edges: the edge rows [B, E] of the events, on the device.
        version: number of iterations whose writes the records held when they were fetched; seen: the number that they
            hold now, which is larger after a patch.
        outcome: the model's result on the batch: `Learned`, `Scored` or `Embedded`.
    """

    batch: Batch
    share: Share
    scene: Scene | None
    nodes: torch.Tensor
    ends: int
    event_edges: torch.Tensor | None = None
    version: int = 0
    seen: int = 0
    outcome: Any = None

    @property
    def staleness(self) -> int:
        """Number of earlier iterations whose writes the records lack."""
        return self.batch.index - self.seen


StageFunctions = dict[str, Callable[[Any], Any]]


def in_turn(stages: StageFunctions, items: Iterable[Batch]) -> Iterator[Work]:
    """Run batches through stages one after the other, on this thread."""
    graph = StageGraph(tuple(Stage(name, "compute") for name in stages))
    return run_serial(graph, stages, items)


class Stages:
    """The stages as methods; `training`, `scoring` and `embedding` return them by name, in the order of the stages."""

    def __init__(self, session: Session) -> None:
        self.session, self.model, self.state = session, session.model, session.state
        self.placement = session.state.placement

    def training(self) -> StageFunctions:
        """Return training stages by name; `patch` is for schedules that fetch early and train on current records."""
        fetch = {**self._fetch_stages(), "sample": self.sample_training}
        return {**fetch, "patch": self.patch, "train": self.train, "update": self.update}

    def scoring(self) -> StageFunctions:
        """Return the stages by name, with scoring instead of training."""
        fetch = {**self._fetch_stages(), "sample": self.sample_pairs}
        return {**fetch, "score": self.score, "update": self.update}

    def embedding(self) -> StageFunctions:
        """Return the stages by name, with embedding the sources instead of training."""
        return {**self._fetch_stages(), "embed": self.embed, "update": self.update}

    def sample(self, batch: Batch) -> Work:
        """Sample the neighbours of the roots src ‖ dst ‖ negatives strictly before their events' times."""
        session, stream, share = self.session, self.session.stream, batch.share(self.session.ranks)
        events, ends, missing = slice(share.start, share.stop), 2 * share.size, share.size - share.stop + share.start
        negatives, each = share.negatives.reshape(-1), share.negatives.shape[1]
        times = stream.t[events]
        times = times if not missing else torch.cat([times, times[-1:].expand(missing)])
        times = torch.cat([times.repeat(2), times.repeat_interleave(each)])
        end_keys = torch.arange(2 * share.start, 2 * share.stop).view(-1, 2).t()
        keys = [*end_keys, new_keys(negatives, len(stream))]
        nodes = [stream.src[events], stream.dst[events], negatives]
        roots = Roots(_pad(nodes, missing, each), times, _pad(keys, missing, each), self._places(share, batch, each))
        draws = self._hop_draws(Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index)
        around = session.sampler.around(roots, draws, self._horizon(batch))
        receivers = self._receivers(batch) if self.model.mailbox.hears else None
        numbers = torch.arange(share.start, share.stop)
        scene = Scene(roots.nodes, times, numbers, None, around, receivers, each=each)
        return Work(batch, share, scene, around.nodes, int(around.root_rows[:ends].max()) + 1)

    def sample_pairs(self, batch: Batch) -> Work:
        """Sample neighbours, and compute features of the events' pairs with their destinations and negatives."""
        work, stream = self.sample(batch), self.session.stream
        share, events = work.share, slice(work.share.start, work.share.stop)
        nodes = torch.cat([stream.dst[events, None], share.negatives], 1)
        missing = share.size - share.negatives.shape[0]
        pairs = features_of(self.session, stream.src[events], nodes, stream.t[events], self._horizon(batch))
        pairs = None if pairs is None else pad(pairs, (0, 0, 0, 0, 0, missing))
        return replace(work, scene=replace(scene_of(work), pairs=pairs))

    def sample_training(self, batch: Batch) -> Work:
        """Sample as `sample_pairs` does, with the negatives of training and their weights."""
        stream, events = self.session.stream, slice(batch.start, batch.stop)
        words = draw_words(self.session.seed, Purpose.HISTORICAL_NEGATIVES, batch.epoch, batch.index)
        columns = (stream.src[events], stream.dst[events], stream.t[events])
        negatives, weights = training_negatives(self.session, *columns, batch.negatives, words)
        work = self.sample_pairs(replace(batch, negatives=negatives))
        if weights is not None:
            weights = weights[work.share.places]
            weights = pad(weights, (0, 0, 0, work.share.size - weights.shape[0]))
        return replace(work, scene=replace(scene_of(work), log_weights=weights))

    def features(self, work: Work) -> Work:
        """Fetch edge rows of the sampled slots and of the batch's events, and node rows of the distinct nodes."""
        batch, placement, scene = work.batch, self.placement, scene_of(work)
        receivers = None if scene.receivers is None else scene.receivers.on(placement)
        event_edges = placement.span(self.session.edges, batch.start, batch.stop)
        full = scene.events.numel() == work.share.size
        count = None if full else placement.load(torch.tensor([scene.events.numel()]))
        edges = [self._edge_rows(hop.event_ids) for hop in scene.around.hops]
        return replace(work, scene=self._fetch(scene, edges, count=count, receivers=receivers), event_edges=event_edges)

    @torch.no_grad()
    def memory(self, work: Work) -> Work:
        """Fetch memory and mailbox rows of the distinct nodes, all of one version."""
        scene, session = scene_of(work), self.session
        record, version = self.state.read(work.nodes, scene.around.nodes, session.edges)
        if session.mitigation is not None:
            record, _ = session.mitigation.apply(record, work.nodes, session.stream.t[work.batch.start], self.state)
        return replace(work, scene=replace(scene, record=record), version=version, seen=version)

    @torch.no_grad()
    def patch(self, work: Work) -> Work:
        """Patch the records with rows that iterations, up to the one just trained, have written since the fetch."""
        scene, latest = scene_of(work), work.batch.index
        self.state.patch(scene.record, scene.around.nodes, work.seen, latest)
        return replace(work, seen=latest)

    def train(self, work: Work) -> Work:
        """Learn from a batch, and publish its writes, so that later records can be patched before these are stored."""
        scene, write, optimizer = self._with_draws(work), partial(self.publish, work), self.session.optimizer
        self.session.rates.set(optimizer, work.batch.epoch, work.batch.index)
        return replace(work, outcome=learn(self.model, scene, optimizer, after(write)))

    def score(self, work: Work) -> Work:
        """Compute the logits of an evaluation batch."""
        return replace(
            work, outcome=score(self.model, scene_of(work), partial(self.publish, work), self._ranking(work))
        )

    def embed(self, work: Work) -> Work:
        """Compute the embeddings of a batch's sources."""
        return replace(work, outcome=embed(self.model, scene_of(work), partial(self.publish, work)))

    @torch.no_grad()
    def update(self, work: Work) -> Work:
        """Write the endpoints' memory and mail, and copy loss or scores to the host."""
        self.state.write(work.batch.index)
        # Later iterations have read this version or a newer one; a write may have been running when this one read.
        self.state.forget(work.version - 1)
        parts = [None if part is None else self.placement.store(part) for part in work.outcome]
        return replace(work, scene=None, outcome=type(work.outcome)(*parts))

    def publish(self, work: Work, scene: Scene, hidden: torch.Tensor | None) -> None:
        """Compose an iteration's writes, and publish them to readers."""
        assert work.event_edges is not None
        count = scene.events.numel()
        src_rows, dst_rows = (scene.around.root_rows[first : first + count] for first in (0, work.batch.size))
        events = Interactions(
            work.batch.start, scene.times[:count], work.event_edges, scene.around.nodes[: work.ends], src_rows,
            dst_rows, scene.receivers,
        )  # fmt: skip
        self.state.publish(work.batch.index, self.state.compose(scene.record.digested_time, hidden, events))

    def _places(self, share: Share, batch: Batch, each: int) -> torch.Tensor | None:
        """Return the places of a share's roots in the whole batch, or None if the share is whole."""
        return None

    def _fetch_stages(self) -> StageFunctions:
        return {"sample": self.sample, "features": self.features, "memory": self.memory}

    def _with_draws(self, work: Work) -> Scene:
        """Return the scene with the keys of the iteration's dropout, which each rank has of its own."""
        batch, session = work.batch, self.session
        draws = IterationDraws(session.seed, batch.epoch, batch.index, self.placement, session.ranks.rank)
        return replace(scene_of(work), draws=draws)

    def _receivers(self, batch: Batch) -> Receivers:
        """Sample the receivers of a batch's mail: the ends of its events, and their neighbours at that time."""
        stream, events = self.session.stream, slice(batch.start, batch.stop)
        missing, t = batch.size - batch.stop + batch.start, stream.t[events]
        ends, times = _pad([stream.src[events], stream.dst[events]], missing, 1), _pad([t, t], missing, 1)
        words = draw_words(self.session.seed, Purpose.RECEIVING_NEIGHBOURS, batch.epoch, batch.index)
        return Receivers.of(ends, self.session.sampler.neighbours(ends, times, words)[0])

    def _hop_draws(self, purpose: Purpose, epoch: int, iteration: int) -> list[torch.Tensor]:
        """Return Philox words for every hop that the model reads; see `drawing_rank`."""
        draws, layers = IterationDraws(self.session.seed, epoch, iteration, Placement()), self.model.layers
        ranks = [drawing_rank(purpose, hop, layers, self.session.ranks.rank) for hop in range(layers)]
        return [replace(draws, rank=rank).words(purpose, hop) for hop, rank in enumerate(ranks)]

    def _fetch(self, scene: Scene, edges: Sequence[EdgeRows], **more: Any) -> Scene:
        """Return a sampled scene on the device, with edge rows, node rows of the distinct nodes, and `more` fields."""
        table, placement, around = self.session.stream.node_features, self.placement, scene.around
        nodes = None if table is None else placement.gather(table, around.nodes)
        times, around = placement.load(scene.times), around.on(placement)
        pairs, weights = (None if each is None else placement.load(each) for each in (scene.pairs, scene.log_weights))
        return replace(
            scene, times=times, around=around, edges=edges, node_features=nodes, pairs=pairs, log_weights=weights,
            **more,
        )  # fmt: skip

    def _horizon(self, batch: Batch) -> torch.Tensor | None:
        """Return the time of a lagged batch's first event, before which it reads; else None."""
        return self.session.stream.t[batch.start] if batch.lagged else None

    def _edge_rows(self, slots: torch.Tensor) -> EdgeRows:
        """Return edge rows of slots with these events [P, F], one for each slot."""
        edges, placement = self.session.edges, self.placement
        if not edges.shape[1]:
            return EdgeRows(placement.load(edges.new_zeros((slots.numel(), 0))))
        return EdgeRows(placement.gather(edges, slots.view(-1).clamp(min=0)))

    def _shared_edge_rows(self, slots: torch.Tensor) -> EdgeRows:
        """Return edge rows of slots with these events [P, F], one for each distinct event."""
        if not self.session.edges.shape[1]:
            return self._edge_rows(slots)
        events, rows, count = unique_nodes(slots.view(-1), slots.numel())
        events = events[: max(1, int(count))].clamp(min=0)  # a row for empty slots, which is ignored
        table = self.placement.gather(self.session.edges, events)
        return EdgeRows(table, self.placement.load(rows.view_as(slots)))

    def _gaps(self, candidates: torch.Tensor) -> torch.Tensor | None:
        """Return a mask of missing candidates [M, N] on the device, or None if none is missing."""
        gaps = candidates < 0
        return self.placement.load(gaps) if bool(gaps.any()) else None

    def _ranking(self, work: Work) -> Ranking | None:
        """Return the destinations and candidates of the share's events, or None if they are not ranked."""
        candidates = work.share.candidates
        return None if candidates is None else self._groups(work.batch, work.share, candidates)

    def _groups(self, batch: Batch, share: Share, candidates: torch.Tensor) -> Ranking:
        """Yield the destinations and candidates [B, N] of a share's events, some events at a time."""
        stream, events = self.session.stream, slice(share.start, share.stop)
        nodes, horizon = torch.cat([stream.dst[events, None], candidates], 1), self._horizon(batch)
        size = events_at_a_time(candidates.shape[1])
        parts = (column.split(size) for column in (stream.src[events], nodes, stream.t[events]))
        for number, (src, others, times) in enumerate(zip(*parts, strict=True)):
            pairs = Pairs.of(others, times)
            pairs = pairs.cut(int(pairs.real))
            # The word that holds the epoch elsewhere tells the parts of both splits apart.
            draws = self._hop_draws(Purpose.RANKING_NEIGHBOURS, 2 * number + batch.epoch, batch.index)
            roots = Roots(pairs.nodes, pairs.times, new_keys(pairs.nodes, len(stream)))
            around = self.session.sampler.around(roots, draws, horizon)
            edges = [self._shared_edge_rows(hop.event_ids) for hop in around.hops]
            features = features_of(self.session, src, others, times, horizon)
            scene = Scene(pairs.nodes, pairs.times, pairs.nodes[:0], None, around, pairs=features)
            scene = self._fetch(scene, edges, record=self.state.fetch(around.nodes, self.session.edges))
            yield Ranked(self.placement.load(pairs.rows), scene, self._gaps(others[:, 1:]))


def scene_of(work: Work) -> Scene:
    """Return the scene of a batch on its way."""
    assert work.scene is not None, "only the update drops the scene"
    return work.scene


def _pad(parts: Sequence[torch.Tensor], missing: int, each: int) -> torch.Tensor:
    """Concatenate parts of src, dst and negatives, with −1 at their ends for `missing` events of `each` negatives."""
    if not missing:
        return torch.cat(list(parts))
    return torch.cat(
        [pad(part, (0, missing * count), value=-1) for part, count in zip(parts, (1, 1, each), strict=False)]
    )
