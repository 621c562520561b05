"""Staged runs in blocks: a strategy chooses the settings of each block, and the pipeline drains in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import torch

from mspipe_triton.execution import WITHOUT_STALENESS, RunSettings
from mspipe_triton.iteration.scene import Batch
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Work
from mspipe_triton.kernels.runtime.fusion import compile_seconds, limit_compiling, running_clock
from mspipe_triton.pipeline.flight import SpanLog, StageTimes
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.strategy import Block, BlockTimes, Strategy
from mspipe_triton.training.threads import threads_of
from mspipe_triton.training.way import Epoch, Progress, Watch, silent

WARM = 2  # iterations of a block before its clock starts, while the first stages fill their queues


def refusal(session: Session) -> str | None:
    """Return why a run's settings cannot change between blocks, in one line, or None if they can."""
    settings = session.settings
    if not session.ranks.alone:
        return f"{session.ranks.count} ranks use the shipped settings, since tuning is for one process."
    if session.config.train.deterministic:
        return "A run with --deterministic is not tuned, since the choice would depend on the time."
    if session.device.type != "cpu":
        return "A run on a GPU is not tuned while it trains; `autotune` searches before a run."
    if settings.resident:
        return "A resident run is not tuned while it trains; `autotune` searches before a run."
    if settings.schedule not in WITHOUT_STALENESS:
        return (
            f"Schedule {settings.schedule} is not tuned while it trains, since draining its pipeline changes what "
            "training sees; `autotune` searches before a run."
        )
    return None


class StagedBlocks(Staged):
    """A staged run whose strategy chooses the settings of every block of iterations.

    All blocks share model, node state and data. The pipeline drains at the end of a block, and no schedule here misses
    an update, so iterations compute what they compute in a run without blocks. The clock of an epoch stops while the
    strategy works.
    """

    def __init__(self, session: Session, watch: Watch, strategy: Strategy) -> None:
        super().__init__(session, watch)
        self.strategy, self.away = strategy, 0.0
        self.parts = dict[RunSettings, Staged]()
        self._adopt(self._add_part(session, watch))

    def train_epoch(
        self, epoch: int, progress: Progress = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """See `Way`."""
        away = self.away
        try:
            result = super().train_epoch(epoch, progress, check, stop)
        finally:
            self._enforce(self.session.settings)
        return replace(result, seconds=result.seconds - self.away + away)

    def run(self, items: Iterable[Batch], epoch: int, times: StageTimes, first: int = 0) -> Generator[Work]:
        """See `Staged`; `times` gets the stage times under the settings that remain at the end."""
        feed, logs = _Feed(items), dict[RunSettings, StageTimes]()
        while feed.more:
            block = self._next_block()
            part, log, count, compiling = self._part(block.settings), SpanLog(), 0, compile_seconds()
            disturbed = self._disturbed
            start = warm = last = running_clock()
            with closing(part.run(feed.take(block), epoch, log, first)) as results:
                for work in results:
                    yield work
                    count, last = count + 1, running_clock()
                    warm = last if count == WARM else warm
            end = running_clock()
            _add(logs.setdefault(block.settings, StageTimes()), log)
            if not (count := log.iterations):
                return
            stages = {name: seconds[WARM:] for name, seconds in log.samples.items()}
            disturbed = disturbed or self._disturbed or compile_seconds() != compiling
            paused = running_clock()
            self.strategy.ended(BlockTimes(
                block.settings, epoch, first, count, end - start, max(0, count - WARM), last - warm, stages, disturbed,
            ))  # fmt: skip
            self.away += running_clock() - paused
            first += count
            self._follow(epoch, first)
        settings = self.session.settings if self.session.settings in logs else block.settings
        _add(times, logs[settings])

    @property
    def _disturbed(self) -> bool:
        """True while other processes crowd the machine, or loops are compiled beside the run."""
        return self.contention.crowded or (self.loops is not None and self.loops.busy)

    def _next_block(self) -> Block:
        """Ask the strategy for a block, and put its settings in force; trials compile nothing."""
        start = running_clock()
        block = self.strategy.block(not self._disturbed)
        self.away += running_clock() - start
        self._enforce(block.settings)
        limit_compiling(float("inf") if block.settings == self.session.settings else 0.0)
        return block

    def _part(self, settings: RunSettings) -> Staged:
        """Return the part of the run under settings, the same for every block, so that its plan learns stage times."""
        if settings not in self.parts:
            session = replace(self.session.under(settings), state=self.session.state)  # one count of writes
            watch = replace(self.watch, replanned=silent, stage_seconds={})
            self._add_part(session, watch)
        return self.parts[settings]

    def _add_part(self, session: Session, watch: Watch) -> Staged:
        """Add the part of the run under a session's settings; all parts have the same view of the machine."""
        part = self.parts[session.settings] = Staged(session, watch)
        part.contention = self.contention
        return part

    def _follow(self, epoch: int, iteration: int) -> None:
        """Take over the settings that the strategy has chosen, if they are others."""
        settings = self.strategy.settings
        if settings is None or settings == self.session.settings:
            return
        part = self._part(settings)
        part.watch = self.watch
        self._adopt(part)
        self.contention.serve(*threads_of(settings))
        self._announce(Replanned(None, part.planner.plan), epoch, iteration)

    def _adopt(self, part: Staged) -> None:
        self.session, self.stages, self.planner, self.lanes = part.session, part.stages, part.planner, part.lanes

    def _enforce(self, settings: RunSettings) -> None:
        """Put the threads and the fusion of settings in force in this process."""
        threads = self.contention.threads if self.contention.changed else settings.threads
        torch.set_num_threads(min(settings.threads, threads))
        for lane in self._part(settings).lanes.values():
            lane.limit(threads)
        limit_compiling()
        if self.loops is not None:
            self.loops.use(settings.fused)


class _Feed:
    """The items of an epoch, taken block by block; `more` is False once all are taken."""

    def __init__(self, items: Iterable[Batch]) -> None:
        self.items = iter(items)
        self.next = next(self.items, None)

    @property
    def more(self) -> bool:
        return self.next is not None

    def take(self, block: Block) -> Iterator[Batch]:
        """Yield the items of a block."""
        count, start = 0, time.perf_counter()
        while self.next is not None and (block.iterations is None or count < block.iterations):
            if count and time.perf_counter() - start > block.seconds:
                return
            item, self.next = self.next, next(self.items, None)
            count += 1
            yield item


def _add(times: StageTimes, more: StageTimes) -> None:
    times.iterations += more.iterations
    for name, seconds in more.seconds.items():
        times.seconds[name] = times.seconds.get(name, 0.0) + seconds
