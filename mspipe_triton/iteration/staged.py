"""The staged way of an iteration: its scene is fetched stage by stage, its writes are published and stored later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from mspipe_triton.data.negatives import IterationDraws, Purpose, draw_words
from mspipe_triton.data.neighbourhood import EdgeRows, Roots
from mspipe_triton.iteration.scene import Batch, Scene, ranked_columns
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import embed, learn, score
from mspipe_triton.nodes.mailbox import Interactions, Receivers
from mspipe_triton.pipeline.engine import run_serial
from mspipe_triton.pipeline.graph import Stage, StageGraph
from mspipe_triton.placement import Placement


@dataclass(frozen=True)
class Work:
    """A batch on its way through the stages.

    Args:
        scene: on the host at first, then where the model is. It is kept until the device is through with it, since its
            memory would go to the next fetch, on a stream that runs ahead.
        nodes: the scene's distinct nodes [U] on the host, of which the first `ends` are ends of the events.
        own: the edge rows [B, E] of the events, on the device.
        version: how many iterations' writes the records held when they were fetched; seen: how many they hold now,
            more where they were patched since.
        outcome: what the model has made of the batch: `Learned`, `Scored` or `Embedded`.
    """

    batch: Batch
    scene: Scene | None
    nodes: torch.Tensor
    ends: int
    own: torch.Tensor | None = None
    version: int = 0
    seen: int = 0
    outcome: Any = None

    @property
    def staleness(self) -> int:
        """The number of iterations before that are missing from the records."""
        return self.batch.index - self.seen


StageFunctions = dict[str, Callable[[Any], Any]]


def in_turn(stages: StageFunctions, items: Iterable[Batch]) -> Iterator[Work]:
    """Take batches through stages one after the other, on this thread."""
    graph = StageGraph(tuple(Stage(name, "compute") for name in stages))
    return run_serial(graph, stages, items)


class Stages:
    """The stages as methods; `training`, `scoring` and `embedding` name them in the order in which they are taken."""

    def __init__(self, session: Session) -> None:
        self.session, self.model, self.state = session, session.model, session.state
        self.placement = session.state.placement

    def training(self) -> StageFunctions:
        """Stage name to function; `patch` is for a schedule that fetches early and wants the latest records."""
        return {**self._fetching(), "patch": self.patch, "train": self.train, "update": self.update}

    def scoring(self) -> StageFunctions:
        """The same with scores in the place of training."""
        return {**self._fetching(), "score": self.score, "update": self.update}

    def embedding(self) -> StageFunctions:
        """The same with embeddings of the sources."""
        return {**self._fetching(), "embed": self.embed, "update": self.update}

    def sample(self, batch: Batch) -> Work:
        """Roots src ‖ dst ‖ negative, each at its event's time, and their neighbours strictly before it."""
        session, stream = self.session, self.session.stream
        events, ends, missing = slice(batch.start, batch.stop), 2 * batch.size, batch.size - batch.stop + batch.start
        times = stream.t[events]
        times = (times if not missing else torch.cat([times, times[-1:].expand(missing)])).repeat(3)
        of_ends = torch.arange(2 * batch.start, 2 * batch.stop).view(-1, 2).t()
        keys = [*of_ends, self._new_keys(batch.negatives.numel())]
        nodes = [stream.src[events], stream.dst[events], batch.negatives]
        roots = Roots(_padded(nodes, missing), times, _padded(keys, missing))
        around = session.sampler.around(roots, self._hop_draws(Purpose.UNIFORM_NEIGHBOURS, batch.epoch, batch.index))
        receivers = None
        if self.model.mailbox.hears:
            words = draw_words(session.seed, Purpose.RECEIVING_NEIGHBOURS, batch.epoch, batch.index)
            neighbours, *_ = session.sampler.neighbours(roots.nodes[:ends], times[:ends], words)
            receivers = Receivers.of(roots.nodes[:ends], neighbours)
        scene = Scene(roots.nodes, times, torch.arange(batch.start, batch.stop), None, around, receivers)
        return Work(batch, scene, around.nodes, int(around.root_rows[:ends].max()) + 1)

    def features(self, work: Work) -> Work:
        """Edge rows of the sampled slots and of the batch's events, node rows of the distinct nodes."""
        batch, placement, scene = work.batch, self.placement, _given(work)
        receivers = None if scene.receivers is None else scene.receivers.on(placement)
        own = placement.load(self.session.edges[batch.start : batch.stop])
        count = None if scene.events.numel() == batch.size else placement.load(torch.tensor([scene.events.numel()]))
        return replace(work, scene=self._fetched(scene, count=count, receivers=receivers), own=own)

    @torch.no_grad()
    def memory(self, work: Work) -> Work:
        """Memory and mailbox rows of the distinct nodes, read at one version."""
        scene, session = _given(work), self.session
        record, version = self.state.read(work.nodes, scene.around.nodes, session.edges)
        if session.mitigation is not None:
            record, _ = session.mitigation.apply(record, work.nodes, session.stream.t[work.batch.start], self.state)
        return replace(work, scene=replace(scene, record=record), version=version, seen=version)

    @torch.no_grad()
    def patch(self, work: Work) -> Work:
        """Bring the records up to what iterations have written since they were fetched, the one just trained too."""
        scene, latest = _given(work), work.batch.index
        self.state.patch(scene.record, scene.around.nodes, work.seen, latest)
        return replace(work, seen=latest)

    def train(self, work: Work) -> Work:
        """Learn from a batch; its writes are published, so that later records may be patched before they are stored."""
        batch = work.batch
        draws = IterationDraws(self.session.seed, batch.epoch, batch.index, self.placement)
        scene = replace(_given(work), draws=draws)
        return replace(work, outcome=learn(self.model, scene, self.session.optimizer, partial(self.publish, work)))

    def score(self, work: Work) -> Work:
        """The logits of an evaluation's batch."""
        return replace(work, outcome=score(self.model, _given(work), partial(self.publish, work), self._ranked(work)))

    def embed(self, work: Work) -> Work:
        """The embeddings of a batch's sources."""
        return replace(work, outcome=embed(self.model, _given(work), partial(self.publish, work)))

    @torch.no_grad()
    def update(self, work: Work) -> Work:
        """Write the endpoints' memory and mail, and bring loss or scores to the host."""
        self.state.write(work.batch.index)
        # Iterations behind this one have read at least as much; a write may have been under way when this one read.
        self.state.forget(work.version - 1)
        stored = [None if part is None else self.placement.store(part) for part in work.outcome]
        return replace(work, scene=None, outcome=type(work.outcome)(*stored))

    def publish(self, work: Work, scene: Scene, hidden: torch.Tensor | None) -> None:
        """Compose what an iteration writes, and make it known to readers."""
        assert work.own is not None
        count = scene.events.numel()
        src_rows, dst_rows, _ = (part[:count] for part in scene.around.root_rows.chunk(3))
        events = Interactions(
            work.batch.start, scene.times[:count], work.own, scene.around.nodes[: work.ends], src_rows, dst_rows,
            scene.receivers,
        )  # fmt: skip
        self.state.publish(work.batch.index, self.state.compose(scene.record, hidden, events))

    def _fetching(self) -> StageFunctions:
        return {"sample": self.sample, "features": self.features, "memory": self.memory}

    def _hop_draws(self, purpose: Purpose, epoch: int, iteration: int) -> list[torch.Tensor]:
        """Philox words for every hop that the model reads."""
        draws = IterationDraws(self.session.seed, epoch, iteration, Placement())
        return [draws.words(purpose, hop) for hop in range(self.model.layers)]

    def _new_keys(self, count: int) -> torch.Tensor:
        """Keys [count] of roots that are no ends of events."""
        first = 2 * len(self.session.stream)
        return torch.arange(first, first + count)

    def _fetched(self, scene: Scene, **more: Any) -> Scene:
        """A sampled scene on the device, with edge rows of every hop's slots, node rows of the distinct nodes, and more
        of its fields."""
        edges, table, placement = self.session.edges, self.session.stream.node_features, self.placement
        around = scene.around
        slots = [hop.event_ids.view(-1) for hop in around.hops]
        if edges.shape[1]:
            rows = [placement.gather(edges, events.clamp(min=0)) for events in slots]
        else:
            rows = [placement.load(edges.new_zeros((events.numel(), 0))) for events in slots]
        nodes = None if table is None else placement.gather(table, around.nodes)
        times, around = placement.load(scene.times), around.on(placement)
        edges_of = [EdgeRows(each) for each in rows]
        return replace(scene, times=times, around=around, edges=edges_of, node_features=nodes, **more)

    def _ranked(self, work: Work) -> Iterator[Scene]:
        """The scenes of a batch's candidates, a few columns at a time so that memory stays bounded.

        Beside the candidates of a group stands the true destination.
        """
        batch, stream = work.batch, self.session.stream
        if batch.candidates is None:
            return
        events = slice(batch.start, batch.stop)
        for number, columns in enumerate(batch.candidates.split(ranked_columns(batch.size), 1)):
            columns = torch.cat([stream.dst[events].unsqueeze(1), columns], 1)
            # Two splits' worth of groups of columns are told apart by the word that holds the epoch elsewhere.
            draws = self._hop_draws(Purpose.RANKING_NEIGHBOURS, 2 * number + batch.epoch, batch.index)
            nodes, at = columns.view(-1), stream.t[events].repeat_interleave(columns.shape[1])
            around = self.session.sampler.around(Roots(nodes, at, self._new_keys(nodes.numel())), draws)
            scene = Scene(nodes, at, torch.arange(batch.start, batch.stop), None, around)
            yield self._fetched(scene, record=self.state.fetch(around.nodes, self.session.edges))


def _given(work: Work) -> Scene:
    assert work.scene is not None, "it is kept until the update"
    return work.scene


def _padded(parts: Sequence[torch.Tensor], missing: int) -> torch.Tensor:
    """The parts one behind the other, each with as many −1 at its end as are missing."""
    return torch.cat([pad(part, (0, missing), value=-1) for part in parts] if missing else list(parts))
