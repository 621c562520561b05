"""Live sessions: the session of a trained model that takes more events, in node numbers and scaled times."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch

from mspipe_triton.data.growing import Growing
from mspipe_triton.data.live_adjacency import LiveAdjacency
from mspipe_triton.data.live_index import LiveIndex
from mspipe_triton.data.negatives import IterationDraws, Purpose, draw_words
from mspipe_triton.data.neighbourhood import EdgeRows, Hop, Neighbourhood, Roots
from mspipe_triton.iteration.pairs import features_of
from mspipe_triton.iteration.ranking import PAIRS
from mspipe_triton.iteration.scene import Batch, new_keys
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages
from mspipe_triton.nodes.mailbox import Deliveries, Receivers
from mspipe_triton.nodes.state import with_rows
from mspipe_triton.placement import Placement
from mspipe_triton.serving.hidden import Hidden
from mspipe_triton.serving.live_pairs import LivePairs, PastPairs

T = TypeVar("T")


class Live:
    """A session whose stream grows; scores and embeddings are of the events and the node state so far.

    `append` adds events, which queries at later times see as neighbours and in the features of pairs. `observe` then
    moves the memory on, batch by batch. Rows of nodes beyond `nodes` are those of nodes without events.

    Args:
        session: on the CPU, with the node state after all events of its stream. `reproducible` may be set: h that
            earlier questions have computed is then not used for writing, since its last bits depend on them.
        split: the number of the next split of the run's evaluation (see `Way.spans`), which keys random draws.
    """

    def __init__(self, session: Session, split: int) -> None:
        stream, state = session.stream, session.state
        state.settle()
        self.session, self.split, self.batch, self.reproducible = session, split, 0, False
        self.model = session.model.eval()
        self.nodes = stream.num_nodes
        self.src, self.dst, self.t = (Growing(column) for column in (stream.src, stream.dst, stream.t))
        edges = session.edges
        if not isinstance(edges, torch.Tensor):  # new rows must follow those of the file
            rows = stream.edge_rows()
            assert rows is not None
            edges = rows.to(edges.dtype)
        self.edges = Growing(edges[: len(stream)])
        self.node_features = stream.node_features
        self.adjacency = LiveAdjacency(session.sampler.adjacency)
        self.index = None if session.index is None else LiveIndex(session.index)
        self.pairs = LivePairs(stream.src, stream.dst)
        self.hidden = Hidden(self.model, state)
        self.moved, self.last = torch.empty(0, dtype=torch.int64), stream.t.new_empty(0)
        self._destinations: torch.Tensor | None = None
        self.moves = 1
        self._grow(self.nodes)
        self._mark(stream.src, stream.dst, stream.t)
        self._view()

    @property
    def events(self) -> int:
        """Number of events."""
        return len(self.t)

    @property
    def now(self) -> torch.Tensor:
        """[], the time of the last event."""
        return self.t.rows[-1]

    def no_rows(self, width: int) -> torch.Tensor:
        """Return a matrix [0, width] in the dtype of scores."""
        return self.model.time.frequency.new_empty((0, width))

    @property
    def destinations(self) -> torch.Tensor:
        """[K] nodes that have received an event, ascending."""
        if self._destinations is None:
            self._destinations = (self.pairs.received >= 0).nonzero().squeeze(1)
        return self._destinations

    def has_events(self, nodes: torch.Tensor) -> torch.Tensor:
        """Return which nodes [K] have an event."""
        return torch.maximum(self.pairs.sent[nodes], self.pairs.received[nodes]) >= 0

    @torch.inference_mode()
    def append(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, edges: torch.Tensor) -> range:
        """Add M events, not earlier than those before, and return their numbers; the memory stays as it is.

        Args:
            src, dst: [M] int64; new nodes continue the numbering. t: [M]. edges: [M, E], final feature rows.
        """
        first = self.events
        if src.numel():
            self._grow(int(torch.maximum(src.max(), dst.max())) + 1)
            for column, rows in ((self.src, src), (self.dst, dst), (self.t, t), (self.edges, edges)):
                column.append(rows)
            self.adjacency.append(src, dst, t)
            if self.index is not None:
                self.index.append(src, dst, t)
            if bool((self.pairs.received[dst] < 0).any()):
                self._destinations = None
            self.pairs.append(src, dst, first)
            self._mark(src, dst, t)
            self._view()
        return range(first, self.events)

    @torch.inference_mode()
    def observe(self, events: range) -> None:
        """Move the memory on by the next appended events, in batches of the run's size."""
        if self.model.updater is None:
            return
        for first in events[:: self.session.size]:
            self._write(first, min(first + self.session.size, events.stop))

    def _write(self, first: int, stop: int) -> None:
        """Write the memory and the mail of a batch."""
        session, state, part = self.session, self.session.state, slice(first, stop)
        src, dst, t = (column[part] for column in (session.stream.src, session.stream.dst, session.stream.t))
        ends, batch = torch.cat([src, dst]), self._batch(first, stop, stop - first)
        nodes, rows = torch.unique(ends, return_inverse=True)
        receivers = None
        if self.model.mailbox.hears:
            words = draw_words(session.seed, Purpose.RECEIVING_NEIGHBOURS, batch.epoch, batch.index)
            neighbours = session.sampler.neighbours(ends, t.repeat(2), words)[0]
            receivers = Receivers.of(ends, neighbours)
        digest = self.hidden.compute if self.reproducible else self.hidden.rows
        hidden, updated = digest(nodes, session.edges, t[0])
        src_rows, dst_rows = rows.chunk(2)
        sent = Deliveries(torch.arange(first, stop), t, src, dst, src_rows, dst_rows, session.edge_table, receivers)
        state.mailbox.deliver(state.tables, updated, hidden, sent)
        self.note(nodes)
        if receivers is not None:
            self.note(receivers.nodes)
            state.sent[receivers.nodes] = state.tables["received"][receivers.nodes]
        self.moves += 1

    @torch.inference_mode()
    def predict(self, events: range, candidates: torch.Tensor | None = None) -> torch.Tensor:
        """Score the next appended events, at most a batch, right before they happen, and move the memory on.

        Args:
            candidates: [M, C] nodes to score beside each destination; the passes are those of evaluation if its
                negatives come first.

        Returns:
            Logits [M, 1 + C].
        """
        stream, part = self.session.stream, slice(events.start, events.stop)
        if candidates is None:
            scores = self.score(stream.src[part], stream.dst[part, None], stream.t[part], stream.t[events.start])
            self.observe(events)
            return scores
        others = candidates[:, 1:] if candidates.shape[1] > 1 else None
        work: Any = self._batch(events.start, events.stop, self.session.size)
        work = replace(work, negatives=candidates[:, :1], candidates=others)
        for name, stage in self.stages.scoring().items():
            if name == "update":  # which forgets what it writes
                for rows in (rows for rows in self.session.state.published[work.batch.index] if not rows.each):
                    self.note(rows.nodes)
            work = stage(work)
        self.moves += 1
        outcome = work.outcome
        parts = [outcome.logits.t()] + ([] if outcome.ranked is None else [outcome.ranked])
        return torch.cat(parts, 1)

    @torch.inference_mode()
    def score(
        self, src: torch.Tensor, dst: torch.Tensor, times: torch.Tensor, now: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute logits [M, C] of sources [M] and destinations [M, C] at times [M].

        Args:
            now: [], the time at which memory is read, if the model depends on it; by default each query's own.
        """
        each = dst.shape[1]
        parts = []
        for begin in range(0, src.numel(), size := max(1, PAIRS // (1 + each))):
            part = slice(begin, begin + size)
            sources, others, moments = src[part], dst[part], times[part]
            nodes = torch.cat([sources, others.reshape(-1)])
            z = self.embed(nodes, torch.cat([moments, moments.repeat_interleave(each)]), now)
            rows = torch.arange(others.numel()).view(others.shape)
            pairs = features_of(self.session, sources, others, moments)
            parts.append(self.model.score(z[: sources.numel()], z[sources.numel() :], rows, pairs))
        return torch.cat(parts) if parts else self.no_rows(each)

    @torch.inference_mode()
    def embed(self, nodes: torch.Tensor, times: torch.Tensor, now: torch.Tensor | None = None) -> torch.Tensor:
        """Compute embeddings [R, D] of nodes [R] at times [R]; see `score`."""
        if now is None and self.hidden.reads_now and times.numel():
            moments, groups = torch.unique(times, return_inverse=True)
            out = self.model.time.frequency.new_empty((nodes.numel(), self.model.dim))
            for number, moment in enumerate(moments):
                places = (groups == number).nonzero().squeeze(1)
                out[places] = self.embed(nodes[places], times[places], moment)
            return out
        return self._embed(self._around(nodes, times), times, now)

    @torch.inference_mode()
    def embed_with_neighbours(self, nodes: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute embeddings [R, D] as `embed` does, and return the neighbours [R, F] that they read, too.

        The model reads one hop at most (F is 0 without hops), and h does not depend on the time. An empty slot has the
        node itself. For a few nodes this takes less time than `embed`, which finds distinct nodes.
        """
        roots, numbers = nodes.numel(), torch.arange(nodes.numel())
        if not self.model.layers:
            return self._embed(Neighbourhood(nodes, numbers, []), times, None), nodes.new_empty((roots, 0))
        sampled, events, deltas, counts = self.session.sampler.neighbours(nodes, times, self._words()[0])
        neighbours = torch.where(events < 0, nodes.unsqueeze(1), sampled)
        slots = torch.arange(roots, roots + events.numel()).view_as(events)
        hop = Hop(numbers, roots, slots, events, deltas, counts)
        around = Neighbourhood(torch.cat([nodes, neighbours.view(-1)]), numbers, [hop])
        return self._embed(around, times, None), neighbours

    def past_pairs(self, time: torch.Tensor) -> PastPairs | None:
        """Return the features of pairs at a time [1], the last event's or later; None if the model reads none."""
        if self.index is None or self.model.predictor.pair is None:
            return None
        return PastPairs(self.index.index, self.pairs, time, self.model.time.frequency.dtype)

    def _embed(self, around: Neighbourhood, times: torch.Tensor, now: torch.Tensor | None) -> torch.Tensor:
        hidden, updated = self.hidden.rows(around.nodes, self.session.edges, now)
        edges = [EdgeRows(self.session.edge_table, hop.event_ids) for hop in around.hops]
        features = None if self.node_features is None else self.node_features.index_select(0, around.nodes)
        return self.model.embed(hidden, updated, around, times, edges, features)

    def _around(self, nodes: torch.Tensor, times: torch.Tensor) -> Neighbourhood:
        """Sample the neighbourhood of nodes [R] at times [R]."""
        return self.session.sampler.around(Roots(nodes, times, new_keys(nodes, self.events)), self._words())

    def _words(self) -> list[torch.Tensor]:
        """Return Philox words of each hop, the same for all queries until the next batch."""
        if not self.session.sampler.uniform:
            return [torch.zeros(4, dtype=torch.int64)] * self.model.layers
        draws = IterationDraws(self.session.seed, self.split, self.batch, Placement())
        return [draws.words(Purpose.RANKING_NEIGHBOURS, hop) for hop in range(self.model.layers)]

    def _batch(self, first: int, stop: int, size: int) -> Batch:
        """Return the next batch, without negatives."""
        batch = Batch(self.batch, self.split, first, stop, size, self.src.rows.new_empty((stop - first, 0)))
        self.batch += 1
        return batch

    @torch.inference_mode()
    def note(self, nodes: torch.Tensor) -> None:
        """Note nodes whose records change."""
        self.hidden.forget(nodes)
        self.moved.index_fill_(0, nodes, self.moves)

    def _mark(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> None:
        """Note the ends of appended events."""
        for ends in (src, dst):
            self.last.scatter_reduce_(0, ends, t, "amax")
            self.moved.index_fill_(0, ends, self.moves)
        self.moves += 1

    def _grow(self, nodes: int) -> None:
        """Make room for so many nodes, and one more without events."""
        if nodes <= self.nodes and self.moved.numel():
            return
        self.nodes, room = nodes, nodes + 1
        state, start = self.session.state, self.session.state.start
        state.grow(room)
        self.hidden.grow(room)
        self.moved, self.last = with_rows(self.moved, room, 0), with_rows(self.last, room, start)
        if self.node_features is not None:
            self.node_features = with_rows(self.node_features, room, 0)
        self.adjacency.reserve(room)
        self.pairs.grow(room)

    def _view(self) -> None:
        """Let the session and its stages read the tables as they are now."""
        session = self.session
        stream = _with(
            session.stream, src=self.src.rows, dst=self.dst.rows, t=self.t.rows, node_features=self.node_features
        )
        sampler = _with(session.sampler, stream=stream, adjacency=self.adjacency.csr)
        index = None if self.index is None else self.index.index
        self.session = _with(session, stream=stream, sampler=sampler, index=index, edges=self.edges.rows)
        self.stages = Stages(self.session)


def _with(part: T, **values: Any) -> T:
    """Return a copy of a frozen dataclass with other values, without its checks."""
    changed = copy(part)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed
