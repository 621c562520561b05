"""Resident iterations: the device samples the scene, reads its rows and stores its writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from mspipe_triton.data.clock import Clock
from mspipe_triton.data.negatives import Draws, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.iteration.cuda_graph import Replay, SideStream, Snapshot
from mspipe_triton.iteration.exchange import Exchange
from mspipe_triton.iteration.pairs import features_of, training_negatives
from mspipe_triton.iteration.ranking import StaticPairs
from mspipe_triton.iteration.scene import Scene, new_keys
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.static_shares import StaticBatch, StaticShares
from mspipe_triton.nodes.mailbox import Deliveries, Receivers

_MEASURED = 64  # batches that a capacity is measured on
Span = tuple[int, int, int]  # first event, stop, epoch


class Pass(ABC):
    """One kind of step, replayed for each batch of a range of events.

    A step works on the batch in `scene`, samples the next batch in parallel, and then stores it in `scene`. Unless
    `reads_pairs` is False, the features of its pairs are part of it. With several ranks the scene is of this rank's
    share, its results and writes are those of the whole batch, and all ranks run the same passes.

    Args:
        session: on the device (see `Session.on`).
        purpose: the purpose of the negatives.
        iterations: the largest number of batches per run; the results have room for as many.
        groups: the number of parts in which a batch is ranked.
        each: K, negatives per event.
        lagged: read only neighbours and pairs from before the time of a batch's first event.
    """

    reads_pairs = True

    def __init__(
        self, session: Session, purpose: Purpose, iterations: int, groups: int = 0, each: int = 1, lagged: bool = False
    ) -> None:
        self.session, self.model, self.purpose, self.iterations = session, session.model, purpose, iterations
        self.each, self.lagged = each, lagged
        layers, device = session.model.layers, session.stream.t.device
        rank, self.shares = session.ranks.rank, StaticShares(session)
        self.ahead, self.clock = (Clock(session.seed, session.size, device, layers, groups, rank) for _ in range(2))
        self.places = self.shares.root_places(each)
        self.sampler = StaticSampler(session.sampler, layers)
        self.scene: Scene | None = None
        self.replay = Replay(self.step, device, session.settings.captured, session.ranks)
        self.side_stream = SideStream(device, session.settings.branch)

    @abstractmethod
    def work(self, scene: Scene) -> None:
        """Process a batch, and leave the results on the device."""

    def state_tensors(self) -> list[torch.Tensor]:
        """Return the tensors that a step changes, other than its results and clocks."""
        return list(self.session.state.tables.values())

    def step(self) -> None:
        """Work on a batch, sample the next."""
        if not self.session.settings.branch:
            self.work(self.sample())
        else:
            with self.side_stream() as join:
                following = self.sample()
            assert self.scene is not None
            self.work(self.scene)
            join()
            _copy(self.scene, following)
        self.clock.advance()

    @torch.no_grad()
    def sample(self) -> Scene:
        """Sample the batch that `ahead` points to: its roots, their neighbourhood, and the receivers of its mail."""
        session, clock, model, shares = self.session, self.ahead, self.model, self.shares
        stream, size, layers = session.stream, shares.share, model.layers
        batch = shares.draw(clock, self.purpose, self.each)
        horizon, now = self.horizon(batch.times), None if session.ranks.alone else batch.times[0]
        if self.purpose == Purpose.TRAIN_NEGATIVES:
            batch = self._with_training_negatives(batch)
        share = shares.cut(batch)
        roots, times = share.roots, share.times
        keys = _keys(roots, share.events, len(stream)) if layers > 1 else roots
        hops = [clock.words(Purpose.UNIFORM_NEIGHBOURS, hop) for hop in range(layers)]
        around = self.sampler.around(Roots(roots, times, keys, self.places), 2 * size, hops, horizon)
        receivers = None
        if model.mailbox.hears:
            (ends, moments), draws = shares.ends(batch), clock.words(Purpose.RECEIVING_NEIGHBOURS)
            receivers = Receivers.of(ends, session.sampler.neighbours(ends, moments, draws)[0], padded=True)
        pairs = None
        if self.reads_pairs:
            src, dst, negatives = share.parts()
            pairs = features_of(session, src, torch.cat([dst.unsqueeze(1), negatives], 1), times[:size], horizon)
        whole = shares.whole(batch, share.count)
        clock.advance()
        return Scene(
            roots, times, share.events, share.count, around, receivers, each=self.each, now=now, pairs=pairs,
            log_weights=share.log_weights, whole=whole,
        )  # fmt: skip

    def horizon(self, times: torch.Tensor) -> torch.Tensor | None:
        """Return the time of the first event of a batch with `times`, before which a lagged pass reads; else None."""
        return times[0] if self.lagged else None

    def _with_training_negatives(self, batch: StaticBatch) -> StaticBatch:
        """Return a batch with the negatives of training and their log weights."""
        src, dst, negatives = batch.parts()
        words = self.ahead.words(Purpose.HISTORICAL_NEGATIVES)
        hard, weights = training_negatives(self.session, src, dst, batch.times[: src.numel()], negatives, words)
        roots = batch.roots if hard is negatives else torch.cat([src, dst, hard.view(-1)])
        return replace(batch, roots=roots, log_weights=weights)

    def fetched(self, scene: Scene, draws: Draws | None = None) -> Scene:
        """Return a sampled scene with its rows of the edge table, the node features and the nodes' tables."""
        session, around = self.session, scene.around
        assert around.count is not None
        record = session.state.mailbox.view(
            session.state.tables, around.nodes, around.count, session.edge_table, self.model.time.frequency.dtype
        )
        edges, features = (
            [EdgeRows(session.edge_table, hop.event_ids) for hop in around.hops],
            session.stream.node_features,
        )
        rows = None if features is None else features.index_select(0, around.nodes.clamp(min=0))
        return replace(scene, edges=edges, node_features=rows, record=record, draws=draws)

    def deliver(self, scene: Scene, hidden: torch.Tensor | None) -> None:
        """Write the endpoints' memory and mail; call it after the backward pass, which may read the tables."""
        state, size = self.session.state, self.session.size
        (src, dst), (src_rows, dst_rows) = (part[: 2 * size].chunk(2) for part in (scene.roots, scene.around.root_rows))
        sent = Deliveries(
            scene.events, scene.times[:size], src, dst, src_rows, dst_rows, self.session.edge_table, scene.receivers
        )
        state.mailbox.deliver(state.tables, scene.record.digested_time, hidden, sent)

    def exchange(self, scene: Scene, hidden: torch.Tensor | None, parts: Sequence[torch.Tensor]) -> Exchange:
        """Start the exchange of `parts` of the share's outcome, and of h [U, D] of its ends."""
        rows = scene.around.root_rows[: 2 * self.shares.share]
        return Exchange.start(self.session.ranks, parts, scene, hidden, rows)

    def deliver_whole(self, scene: Scene, exchange: Exchange) -> list[torch.Tensor]:
        """Write the whole batch, as `deliver` does, and return the parts of all ranks' outcomes, [N, …] each."""
        state, whole = self.session.state, scene.whole
        assert whole is not None
        parts, ends = exchange.wait()
        digested, hidden = ends or (whole.times[:0], None)
        columns = (whole.events, whole.times, whole.src, whole.dst, whole.src_rows, whole.dst_rows)
        sent = Deliveries(*columns, self.session.edge_table, scene.receivers)
        state.mailbox.deliver(state.tables, digested, hidden, sent)
        return parts

    def start(self, first: int, stop: int, epoch: int) -> int:
        """Go to the first batch of events [first, stop), and return the number of batches."""
        count = self.clock.start(first, stop, epoch)
        self.ahead.start(first, stop, epoch)
        if self.session.settings.branch:
            scene = self.sample()
            if self.scene is None:
                self.scene = scene
            else:
                _copy(self.scene, scene)
        return count

    def run(self, first: int, stop: int, epoch: int, check: Callable[[], None] = lambda: None) -> int:
        """Run the step on all batches of events [first, stop), without waiting for the device.

        Args:
            check: called after each batch; it may raise.

        Returns:
            The number of batches.
        """
        count, replay = self.start(first, stop, epoch), self.replay
        for _ in range(count):
            replay()
            check()
        return count

    def measure(self, spans: Sequence[Span], whole: bool) -> None:
        """Set the capacities from the batches of spans: all of them if `whole`, else an evenly spaced sample."""
        for first, stop, epoch in spans:
            batches = -(-(stop - first) // self.session.size)
            step = 1 if whole else max(1, batches // _MEASURED)
            # The last batches have the most neighbours.
            for number in range((batches - 1) % step, batches, step):
                self.ahead.start(first + number * self.session.size, stop, epoch)
                self.look()
        self.scene = None
        for sampler in self.samplers():
            sampler.fit()

    def look(self) -> None:
        """Sample the batch that `ahead` points to as a step does, so that the samplers remember its size."""
        self.sample()

    def samplers(self) -> Iterator[StaticSampler | StaticPairs]:
        """Yield the samplers that have capacities."""
        yield self.sampler

    def prepare(self, first: int, stop: int, epoch: int) -> str | None:
        """Compile and capture the step on events [first, stop), and restore all state afterwards.

        Returns:
            The reason why the step could not be captured, in one line, or None.
        """
        before = Snapshot(self.state_tensors(), on_host=True)
        try:
            return self.replay.prepare(lambda: self.start(first, stop, epoch))
        finally:
            before.restore()


def _keys(roots: torch.Tensor, events: torch.Tensor, total: int) -> torch.Tensor:
    """Return keys [3B] of roots src ‖ dst ‖ negative, as `Roots` defines them."""
    src = torch.where(events >= 0, 2 * events, -1)
    dst = torch.where(events >= 0, 2 * events + 1, -1)
    return torch.cat([src, dst, new_keys(roots[2 * events.numel() :], total)])


def _copy(scene: Scene, other: Scene) -> None:
    """Copy the tensors of another scene of the same shapes into a scene, with one kernel per dtype."""
    by_dtype: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for target, source in zip(_tensors(scene), _tensors(other), strict=True):
        pair = by_dtype.setdefault(target.dtype, ([], []))
        pair[0].append(target)
        pair[1].append(source)
    for targets, sources in by_dtype.values():
        torch._foreach_copy_(targets, sources)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors inside dataclasses and lists, in order, each once."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, (list, tuple)) else []
    if is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    return list({id(tensor): tensor for part in parts for tensor in _tensors(part)}.values())
