"""Stages of a rank: each works on its share of a batch, and all exchange what the batch's writes need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mspipe_triton.distributed.ends import Ends
from mspipe_triton.iteration.exchange import (
    Exchange,
    Memory,
    embedding_parts,
    join_embeddings,
    join_losses,
    join_scores,
    loss_parts,
    score_parts,
)
from mspipe_triton.iteration.scene import Batch, Share, root_places
from mspipe_triton.iteration.staged import StageFunctions, Stages, Work, scene_of
from mspipe_triton.iteration.step import differentiate, embed, forward, loss_of, score
from mspipe_triton.nodes.mailbox import Interactions


@dataclass(frozen=True)
class SharedWork(Work):
    """A batch on its way through the stages of a rank.

    Args:
        all_ends: those of the whole batch; on the device once `features` has run.
        interactions: the events of the whole batch, on the device.
        exchange: what the ranks have computed. join: makes the batch's outcome from the parts of all ranks.
        loss: [], of this rank's share, with its graph; in training.
    """

    all_ends: Ends | None = None
    interactions: Interactions | None = None
    exchange: Exchange | None = None
    join: Callable[..., Any] = join_losses
    loss: torch.Tensor | None = None


class SharedStages(Stages):
    """The stages of a rank: `Stages` with `forward`, `backward` and `exchange` instead of `train`.

    `forward` starts the exchange of the updated memory of the batch's ends, which goes on during `backward`. `exchange`
    waits for it, and publishes the writes of the whole batch.

    Negatives, recent neighbours, the uniform ones of a batch's roots and the receivers of mail do not depend on the
    number of ranks. Dropout, uniform neighbours of further points and of candidates, and the quantile of a mitigation
    do: each rank draws or computes its own for its share.
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
        exchange = self._start(work, hidden, loss_parts(loss, work.share.weight))
        return replace(work, exchange=exchange, loss=loss)

    def backward(self, work: SharedWork) -> SharedWork:
        """Compute the gradients of the share, add up those of all ranks, and step the optimiser."""
        loss, optimizer = work.loss, self.session.optimizer
        assert loss is not None
        differentiate(loss, optimizer, loss.new_full((), work.share.weight), self.session.ranks)
        self.session.rates.set(optimizer, work.batch.epoch, work.batch.index)
        optimizer.step()
        return work

    def score(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Compute the logits of the share's events, and start the exchange."""
        memory = Memory()
        parts = score_parts(score(self.model, scene_of(work), memory, self._ranking(work)), work.share.size)
        join = partial(join_scores, work.batch.stop - work.batch.start)
        return replace(work, exchange=self._start(work, memory.hidden, parts), join=join)

    def embed(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Compute the embeddings of the share's sources, and start the exchange."""
        memory = Memory()
        parts = embedding_parts(embed(self.model, scene_of(work), memory), work.share.size)
        join = partial(join_embeddings, work.batch.stop - work.batch.start)
        return replace(work, exchange=self._start(work, memory.hidden, parts), join=join)

    @torch.no_grad()
    def exchange(self, work: SharedWork) -> SharedWork:
        """Wait for the exchange, and publish the writes of the whole batch, which are the same in all ranks."""
        assert work.exchange is not None
        assert work.all_ends is not None
        assert work.interactions is not None
        parts, ends = work.exchange.wait()
        rows = [each.index_select(0, work.all_ends.rows) for each in ends]
        digested, hidden = rows or (work.interactions.times[:0], None)
        self.state.publish(work.batch.index, self.state.compose(digested, hidden, work.interactions))
        return replace(work, outcome=work.join(*parts))

    def update(self, work: SharedWork) -> SharedWork:  # type: ignore[override]
        """Write the memory and mail of the whole batch's ends, and copy loss or scores to the host."""
        result = super().update(replace(work, exchange=None, interactions=None, loss=None))
        assert isinstance(result, SharedWork)
        return result

    def _places(self, share: Share, batch: Batch, each: int) -> torch.Tensor:
        """See `Stages`."""
        return root_places(share.places.start, share.size, batch.size, each)

    def _start(self, work: SharedWork, hidden: torch.Tensor | None, parts: Sequence[torch.Tensor]) -> Exchange:
        """Start the exchange of `parts`, and of the rows that this rank sends of h [U, D], the share's nodes'."""
        assert work.all_ends is not None
        scene = scene_of(work)
        rows = scene.around.root_rows.index_select(0, work.all_ends.mine)
        return Exchange.start(self.session.ranks, parts, scene, hidden, rows)
