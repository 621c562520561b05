"""Stages of a rank: each works on its share of a batch, and all exchange what the batch's writes need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from mspipe_triton.distributed.ends import Ends
from mspipe_triton.distributed.ranks import Gathering
from mspipe_triton.iteration.scene import Batch, Scene
from mspipe_triton.iteration.staged import StageFunctions, Stages, Work, scene_of
from mspipe_triton.iteration.step import Embedded, Learned, differentiate, embed, forward, loss_of, score
from mspipe_triton.nodes.mailbox import Interactions


class Scores(NamedTuple):
    """Logits [2, B] of a batch's events and negatives, and reciprocal ranks [B], or [0] where none are ranked."""

    logits: torch.Tensor
    ranks: torch.Tensor


@dataclass(frozen=True)
class Exchange:
    """Results of all ranks on their way to each of them.

    Args:
        gathering: the exchange.
        join: makes the batch's outcome from the parts of all ranks, [N, …] each, other than the rows of the ends.
        parts: the number of these parts.
        loss: [], of this rank's share, with its graph; in training.
    """

    gathering: Gathering
    join: Callable[..., Any]
    parts: int
    loss: torch.Tensor | None = None


@dataclass(frozen=True)
class SharedWork(Work):
    """A batch on its way through the stages of a rank.

    Args:
        all_ends: those of the whole batch; on the device once `features` has run.
        interactions: the events of the whole batch, on the device.
        exchange: what the ranks have computed.
    """

    all_ends: Ends | None = None
    interactions: Interactions | None = None
    exchange: Exchange | None = None


class SharedStages(Stages):
    """The stages of a rank: `Stages` with `forward`, `backward` and `exchange` instead of `train`.

    `forward` starts the exchange of the updated memory of the batch's ends, which goes on during `backward`. `exchange`
    waits for it, and publishes the writes of the whole batch.
    """

    def training(self) -> StageFunctions:
        """See `Stages`; `backward` and `exchange` may run at the same time."""
        fetch = self._fetch_stages() | {"sample": self.sample_training, "patch": self.patch}
        learn: StageFunctions = {"forward": self.forward, "backward": self.backward, "exchange": self.exchange}
        return {**fetch, **learn, "update": self.update}

    def scoring(self) -> StageFunctions:
        """See `Stages`."""
        fetch = {**self._fetch_stages(), "sample": self.sample_pairs}
        return {**fetch, "score": self.score, "exchange": self.exchange, "update": self.update}

    def embedding(self) -> StageFunctions:
        """See `Stages`."""
        return {**self._fetch_stages(), "embed": self.embed, "exchange": self.exchange, "update": self.update}

    def sample(self, batch: Batch) -> SharedWork:
        """Sample the neighbours of the share's roots, and find the ends of the whole batch."""
        work, stream = super().sample(batch), self.session.stream
        events = slice(batch.start, batch.stop)
        ends = Ends.of(stream.src[events], stream.dst[events], batch.size, self.session.ranks)
        scene = replace(scene_of(work), now=stream.t[batch.start])
        return SharedWork(**{**vars(work), "scene": scene}, all_ends=ends)

    def features(self, work: SharedWork) -> SharedWork:  # type: ignore[override]  # the stages pass on what they get
        """Fetch the rows of the share's scene, and the whole batch's events."""
        fetched, load = super().features(work), self.placement.load
        scene, batch, edges = scene_of(fetched), work.batch, fetched.event_edges
        assert isinstance(fetched, SharedWork)
        assert work.all_ends is not None
        assert scene.now is not None
        assert edges is not None
        ends = work.all_ends.on(self.placement)
        times = load(self.session.stream.t[batch.start : batch.stop])
        rows = ends.src_rows, ends.dst_rows
        interactions = Interactions(batch.start, times, edges, ends.nodes, *rows, scene.receivers)
        return replace(fetched, scene=replace(scene, now=load(scene.now)), all_ends=ends, interactions=interactions)

    def forward(self, work: SharedWork) -> SharedWork:
        """Compute the loss of the share, and start the exchange."""
        scene = self._with_draws(work)
        hidden, embedded = forward(self.model, scene)
        loss = loss_of(self.model, scene, embedded)
        part = loss.detach().double().mul(work.share.weight).view(1)
        exchange = self._start(work, hidden, _join_losses, [part])
        return replace(work, exchange=replace(exchange, loss=loss))

    def backward(self, work: SharedWork) -> SharedWork:
        """Compute the gradients of the share, add up those of all ranks, and step the optimiser."""
        assert work.exchange is not None
        loss, optimizer = work.exchange.loss, self.session.optimizer
        assert loss is not None
        differentiate(loss, optimizer, loss.new_full((), work.share.weight))
        self.session.ranks.reduce(each.grad for each in self.model.parameters() if each.grad is not None)
        optimizer.step()
        return work

    def score(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Compute the logits of the share's events, and start the exchange."""
        write = _Memory()
        result = score(self.model, scene_of(work), write, self._ranking(work))
        missing = work.share.size - result.logits.shape[1]
        parts = [pad(result.logits, (0, missing)).t()]
        if result.ranked is not None:
            parts.append(pad(result.ranks, (0, missing)))
        join = partial(_join_scores, work.batch.stop - work.batch.start)
        return replace(work, exchange=self._start(work, write.hidden, join, parts))

    def embed(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Compute the embeddings of the share's sources, and start the exchange."""
        write = _Memory()
        sources = embed(self.model, scene_of(work), write).sources
        parts = [pad(sources, (0, 0, 0, work.share.size - sources.shape[0]))]
        join = partial(_join_embeddings, work.batch.stop - work.batch.start)
        return replace(work, exchange=self._start(work, write.hidden, join, parts))

    @torch.no_grad()
    def exchange(self, work: SharedWork) -> SharedWork:
        """Wait for the exchange, and publish the writes of the whole batch, which are the same in all ranks."""
        assert work.exchange is not None
        assert work.all_ends is not None
        assert work.interactions is not None
        everything, parts, rows = work.exchange.gathering.wait(), work.exchange.parts, work.all_ends.rows
        ends = [each.flatten(0, 1).index_select(0, rows) for each in everything[parts:]]
        digested, hidden = ends or (work.interactions.times[:0], None)
        self.state.publish(work.batch.index, self.state.compose(digested, hidden, work.interactions))
        return replace(work, outcome=work.exchange.join(*everything[:parts]))

    def update(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Write the memory and mail of the whole batch's ends, and copy loss or scores to the host."""
        result = super().update(replace(work, exchange=None, interactions=None))
        assert isinstance(result, SharedWork)
        return result

    @torch.no_grad()
    def _start(
        self, work: SharedWork, hidden: torch.Tensor | None, join: Callable[..., Any], parts: Sequence[torch.Tensor]
    ) -> Exchange:
        """Start the exchange of `parts`, and of the rows that this rank sends of h [U, D], the share's nodes'."""
        assert work.all_ends is not None
        rows = list[torch.Tensor]()
        if hidden is not None:
            scene = scene_of(work)
            mine = scene.around.root_rows.index_select(0, work.all_ends.mine)
            rows = [each.index_select(0, mine) for each in (scene.record.digested_time, hidden)]
        return Exchange(self.session.ranks.gather([*parts, *rows]), join, len(parts))


class _Memory:
    """A `Write` that stores h [U, D] of the share's nodes, None in a model without memory."""

    def __call__(self, scene: Scene, hidden: torch.Tensor | None) -> None:
        self.hidden = hidden


def _join_losses(losses: torch.Tensor) -> Learned:
    """Add up the ranks' parts [N, 1] of the loss."""
    return Learned(losses.sum())


def _join_scores(events: int, logits: torch.Tensor, ranks: torch.Tensor | None = None) -> Scores:
    """Join logits [N, C, 2] and reciprocal ranks [N, C] of a batch's events."""
    joined = logits.new_empty(0, dtype=torch.float64) if ranks is None else ranks.flatten()[:events]
    return Scores(logits.flatten(0, 1)[:events].t(), joined)


def _join_embeddings(events: int, sources: torch.Tensor) -> Embedded:
    """Join embeddings [N, C, D] of a batch's events."""
    return Embedded(sources.flatten(0, 1)[:events])
