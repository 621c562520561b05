"""The resident way of an iteration: its scene is sampled on the device, where its rows are read and its writes go."""

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
from mspipe_triton.iteration.cuda_graph import Aside, Replay, Snapshot
from mspipe_triton.iteration.scene import Scene
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels import draw_batch
from mspipe_triton.nodes.mailbox import Deliveries, Receivers

_MEASURED = 64  # batches that a capacity is measured on
Span = tuple[int, int, int]  # first event, stop, epoch


class Pass(ABC):
    """One kind of step over the batches of a range of events, each a replay.

    A step works on the batch in `scene`, samples the next one beside it, and puts that in the scene's place.

    Args:
        session: on the device (see `Session.on`).
        purpose: of the negatives that it draws.
        iterations: the most batches of a run, which its results have room for.
        groups: of ranked candidates.
    """

    def __init__(self, session: Session, purpose: Purpose, iterations: int, groups: int = 0) -> None:
        self.session, self.model, self.purpose, self.iterations = session, session.model, purpose, iterations
        layers, device = session.model.layers, session.stream.t.device
        self.ahead, self.clock = (Clock(session.seed, session.size, device, layers, groups) for _ in range(2))
        self.sampler = StaticSampler(session.sampler, layers)
        self.scene: Scene | None = None
        self.replay = Replay(self.step, device, session.settings.captured)
        self.aside = Aside(device, session.settings.branch)

    @abstractmethod
    def work(self, scene: Scene) -> None:
        """Do with a batch what the pass is for, and leave the results on the device."""

    def changed(self) -> list[torch.Tensor]:
        """What a step changes beside its results and clocks."""
        return list(self.session.state.tables.values())

    def step(self) -> None:
        """Work on a batch, sample the next."""
        if not self.session.settings.branch:
            self.work(self.sample())
        else:
            with self.aside() as join:
                following = self.sample()
            assert self.scene is not None
            self.work(self.scene)
            join()
            _copy(self.scene, following)
        self.clock.advance()

    @torch.no_grad()
    def sample(self) -> Scene:
        """The batch that `ahead` stands at: its roots, what surrounds them, and who hears of its events."""
        session, clock, model = self.session, self.ahead, self.model
        stream, size, layers = session.stream, session.size, model.layers
        columns, destinations = (stream.src, stream.dst, stream.t), session.negatives.destinations
        roots, times, events, count = draw_batch(*columns, destinations, clock.span, clock.words(self.purpose), size)
        keys = _keys(roots, events, len(stream)) if layers > 1 else roots
        words = [clock.words(Purpose.UNIFORM_NEIGHBOURS, hop) for hop in range(layers)]
        around = self.sampler.around(Roots(roots, times, keys), 2 * size, words)
        receivers = None
        if model.mailbox.hears:
            ends, heard = roots[: 2 * size], clock.words(Purpose.RECEIVING_NEIGHBOURS)
            receivers = Receivers.of(ends, session.sampler.neighbours(ends, times[: 2 * size], heard)[0], padded=True)
        clock.advance()
        return Scene(roots, times, events, count, around, receivers)

    def fetched(self, scene: Scene, draws: Draws | None = None) -> Scene:
        """A sampled scene with its rows where they lie: of the edge table, of node features, of the nodes' tables."""
        session, around = self.session, scene.around
        assert around.count is not None
        record = session.state.mailbox.view(
            session.state.tables, around.nodes, around.count, session.edges, self.model.time.frequency.dtype
        )
        edges, features = [EdgeRows(session.edges, hop.event_ids) for hop in around.hops], session.stream.node_features
        rows = None if features is None else features.index_select(0, around.nodes.clamp(min=0))
        return replace(scene, edges=edges, node_features=rows, record=record, draws=draws)

    def deliver(self, scene: Scene, hidden: torch.Tensor | None) -> None:
        """Write the endpoints' memory and mail. This comes after the backward pass, which may read the tables."""
        state, size = self.session.state, self.session.size
        (src, dst), (src_rows, dst_rows) = (part[: 2 * size].chunk(2) for part in (scene.roots, scene.around.root_rows))
        sent = Deliveries(
            scene.events, scene.times[:size], src, dst, src_rows, dst_rows, self.session.edges, scene.receivers
        )
        state.mailbox.deliver(state.tables, scene.record, hidden, sent)

    def start(self, first: int, stop: int, epoch: int) -> int:
        """Go to the first batch of events [first, stop); returns how many batches there are."""
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
        """Take all batches of events [first, stop) through the step; nothing waits for the device.

        Args:
            check: called between two batches; it may raise.

        Returns:
            The number of batches.
        """
        count, replay = self.start(first, stop, epoch), self.replay
        for _ in range(count):
            replay()
            check()
        return count

    def measure(self, spans: Sequence[Span], whole: bool) -> None:
        """Set the capacities by the batches of spans: all of them, or some, evenly spread."""
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
        """Sample the batch that `ahead` stands at as a step does, so that the samplers remember how much they found."""
        self.sample()

    def samplers(self) -> Iterator[StaticSampler]:
        """All that have capacities."""
        yield self.sampler

    def prepare(self, first: int, stop: int, epoch: int) -> str | None:
        """Compile and capture the step on the events [first, stop); nothing has changed afterwards.

        Returns:
            Why it could not be captured, in one line, or None.
        """
        before = Snapshot(self.changed(), on_host=True)
        try:
            return self.replay.prepare(lambda: self.start(first, stop, epoch))
        finally:
            before.restore()


def new_keys(roots: torch.Tensor, events: int) -> torch.Tensor:
    """Keys [R] of roots that are no ends of the stream's events, −1 in padding."""
    return torch.where(roots >= 0, torch.arange(2 * events, 2 * events + roots.numel(), device=roots.device), -1)


def _keys(roots: torch.Tensor, events: torch.Tensor, total: int) -> torch.Tensor:
    """Keys [3B] of roots src ‖ dst ‖ negative, as `Roots` has them."""
    src = torch.where(events >= 0, 2 * events, -1)
    dst = torch.where(events >= 0, 2 * events + 1, -1)
    return torch.cat([src, dst, new_keys(roots[2 * events.numel() :], total)])


def _copy(scene: Scene, other: Scene) -> None:
    """Let a scene hold what another of the same shapes does; one kernel for all tensors of a dtype."""
    by_dtype: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for mine, theirs in zip(_tensors(scene), _tensors(other), strict=True):
        pair = by_dtype.setdefault(mine.dtype, ([], []))
        pair[0].append(mine)
        pair[1].append(theirs)
    for mine_all, theirs_all in by_dtype.values():
        torch._foreach_copy_(mine_all, theirs_all)


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors inside dataclasses and lists, in order, each once."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, (list, tuple)) else []
    if is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    return list({id(tensor): tensor for part in parts for tensor in _tensors(part)}.values())
