"""Passes over batches with everything on the device: the next batch is sampled while the present one is worked on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from mspipe_triton.data.clock import Clock
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Draws, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood, NeighbourSampler, Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.kernels import draw_batch
from mspipe_triton.mailbox import Deliveries, Receivers
from mspipe_triton.models.model import TemporalModel
from mspipe_triton.state import NodeState
from mspipe_triton.training.replay import Aside, Replay, Snapshot

_MEASURED = 64  # batches that a capacity is measured on


@dataclass(frozen=True)
class OnDevice:
    """What all passes share, on the device.

    Args:
        stream, edges: the events, and their edge table [E, ·], which may be of width 0.
        destinations: [K], what negatives are drawn from.
        sampler: of temporal neighbours.
        size: B, events a batch. seed: of the run.
        captured, branch: as in `RunSettings`.
    """

    stream: EventStream
    edges: torch.Tensor
    destinations: torch.Tensor
    sampler: NeighbourSampler
    model: TemporalModel
    state: NodeState[Any]
    size: int
    seed: int
    captured: bool
    branch: bool

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.stream.t.device


@dataclass(frozen=True)
class Scene:
    """A sampled batch of B events: 3B roots and their times, event ids [B], and `count` [1], how many are real."""

    roots: torch.Tensor
    times: torch.Tensor
    events: torch.Tensor
    count: torch.Tensor
    around: Neighbourhood
    receivers: Receivers | None


class Pass(ABC):
    """One kind of step over the batches of a range of events, each a replay.

    A step works on the batch in `scene`, samples the next one beside it, and puts that in the scene's place.

    Args:
        given: what it works with.
        purpose: of the negatives that it draws.
        iterations: the most batches of a run, which its results have room for.
        groups: of ranked candidates.
    """

    def __init__(self, given: OnDevice, purpose: Purpose, iterations: int, groups: int = 0) -> None:
        self.given, self.purpose, self.iterations = given, purpose, iterations
        layers = given.model.layers
        self.ahead, self.clock = (Clock(given.seed, given.size, given.device, layers, groups) for _ in range(2))
        self.sampler = StaticSampler(given.sampler, layers)
        self.scene: Scene | None = None
        self.replay = Replay(self.step, given.device, given.captured)
        self.aside = Aside(given.device, given.branch)

    @abstractmethod
    def work(self, scene: Scene) -> None:
        """Do with a batch what the pass is for, leave the results on the device, and let the mails be delivered."""

    def changed(self) -> list[torch.Tensor]:
        """What a step changes beside its results and clocks."""
        return list(self.given.state.tables.values())

    def step(self) -> None:
        """Work on a batch, sample the next."""
        if not self.given.branch:
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
        given, clock = self.given, self.ahead
        stream, size, layers = given.stream, given.size, given.model.layers
        roots, times, events, count = draw_batch(
            stream.src, stream.dst, stream.t, given.destinations, clock.span, clock.words(self.purpose), size
        )
        keys = _keys(roots, events, len(stream)) if layers > 1 else roots
        words = [clock.words(Purpose.UNIFORM_NEIGHBOURS, hop) for hop in range(layers)]
        around = self.sampler.around(Roots(roots, times, keys), 2 * size, words)
        receivers = None
        if given.model.mailbox.hears:
            ends, heard = roots[: 2 * size], clock.words(Purpose.RECEIVING_NEIGHBOURS)
            receivers = Receivers.padded(ends, given.sampler.neighbours(ends, times[: 2 * size], heard)[0])
        clock.advance()
        return Scene(roots, times, events, count, around, receivers)

    def start(self, first: int, stop: int, epoch: int) -> int:
        """Go to the first batch of events [first, stop); returns how many batches there are."""
        count = self.clock.start(first, stop, epoch)
        self.ahead.start(first, stop, epoch)
        if self.given.branch:
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

    def measure(self, spans: Sequence[tuple[int, int, int]], whole: bool) -> None:
        """Set the capacities by the batches of spans (first, stop, epoch): all of them, or some, evenly spread."""
        for first, stop, epoch in spans:
            batches = -(-(stop - first) // self.given.size)
            step = 1 if whole else max(1, batches // _MEASURED)
            # The last batches have the most neighbours.
            for number in range((batches - 1) % step, batches, step):
                self.ahead.start(first + number * self.given.size, stop, epoch)
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

    def embedded(self, scene: Scene, draws: Draws | None) -> tuple[Any, torch.Tensor | None, torch.Tensor]:
        """The records of a batch's nodes, their h [C, D] if there is memory, and embeddings [3B, D] of the roots."""
        return embedded(self.given, scene.around, scene.times, scene.times[0], draws)

    @torch.no_grad()
    def deliver(self, scene: Scene, record: Any, hidden: torch.Tensor | None) -> None:
        """Write the endpoints' memory and mail. This comes after the backward pass, which may read the tables."""
        given, size = self.given, self.given.size
        (src, dst), (src_rows, dst_rows) = (part[: 2 * size].chunk(2) for part in (scene.roots, scene.around.root_rows))
        sent = Deliveries(scene.events, scene.times[:size], src, dst, src_rows, dst_rows, given.edges, scene.receivers)
        hidden = None if hidden is None else hidden.detach()
        given.state.mailbox.deliver(given.state.tables, record, hidden, sent)


def embedded(
    given: OnDevice, around: Neighbourhood, times: torch.Tensor, now: torch.Tensor, draws: Draws | None
) -> tuple[Any, torch.Tensor | None, torch.Tensor]:
    """Records, h [C, D] and embeddings [R, D] of a padded neighbourhood; `now` [] is the batch's first time."""
    model, state, stream = given.model, given.state, given.stream
    assert around.count is not None
    record = state.mailbox.view(state.tables, around.nodes, around.count, given.edges, model.time.frequency.dtype)
    hidden = model.update_memory(record, now, draws)
    edges = [EdgeRows(given.edges, hop.event_ids) for hop in around.hops]
    features = stream.node_features
    features = None if features is None else features.index_select(0, around.nodes.clamp(min=0))
    return record, hidden, model.embed(hidden, record.digested_time, around, times, edges, features, draws)


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
    parts = value if isinstance(value, list) else []
    if is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    return list({id(tensor): tensor for part in parts for tensor in _tensors(part)}.values())
