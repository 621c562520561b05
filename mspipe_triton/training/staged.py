"""Staged runs: the batches of an epoch under a schedule that is planned, measured and planned again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration.lanes import HostLane, lanes, serial_lanes
from mspipe_triton.iteration.scene import Batch, Candidates, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.shares import SharedStages
from mspipe_triton.iteration.staged import Stages, Work, in_turn
from mspipe_triton.kernels.runtime.fusion import compile_seconds, fusion_enabled, running_clock
from mspipe_triton.pipeline.engine import Engine, run_serial
from mspipe_triton.pipeline.flight import Span, StageTimes
from mspipe_triton.pipeline.online import OnlinePlanner, Replanned, guarded
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.pipeline.schedules import RESOURCES
from mspipe_triton.training.way import UNWATCHED, BatchScores, Epoch, Progress, Watch, Way, check_finite, silent

_COMPUTE = RESOURCES["train"]
_CROWDED_DRIFT = 1.0  # beside other processes, stage times vary with their use
T = TypeVar("T")


class Until(Iterator[T]):
    """Items until a condition no longer holds or there are no more.

    Args:
        source: the items; those that have not passed remain there.
        goes_on: the condition, before each item.
    """

    def __init__(self, source: Iterator[T], goes_on: Callable[[], bool]) -> None:
        self.source, self.goes_on = source, goes_on
        self.count, self.ended = 0, False

    def __next__(self) -> T:
        if not self.goes_on():
            raise StopIteration
        try:
            item = next(self.source)
        except StopIteration:
            self.ended = True
            raise
        self.count += 1
        return item


def own_compile_seconds() -> float:
    """Seconds that the current thread has spent compiling."""
    return compile_seconds(this_thread=True)


class Staged(Way):
    """Epochs in stages under the run's schedule; a loss that is not finite ends the epoch at once.

    A serial run that has a single thread, because other processes use the cores, goes on as `prefetch` meanwhile, which
    computes the same. Its threads get more CPU time beside them than a single one, and none spins.
    """

    def __init__(self, session: Session, watch: Watch = UNWATCHED) -> None:
        super().__init__(session, watch)
        settings, staleness = session.settings, session.config.train.staleness
        shared = not session.ranks.alone
        self.stages = SharedStages(session) if shared else Stages(session)
        self.planner = OnlinePlanner(
            self.schedule, staleness if staleness >= 0 else None, watch.stage_seconds or None, depth=settings.prefetch,
            shared=shared,
        )  # fmt: skip
        self.crowded_planner = OnlinePlanner("prefetch", depth=settings.prefetch, drift=_CROWDED_DRIFT)
        self.announced: Plan | None = None
        self.warm_under: bool | None = None  # the first iteration with compiled loops compiles them, on one thread
        others = [name for name in self.planner.plan.graph.by_resource if name != _COMPUTE]
        make_lanes = serial_lanes if self.schedule == "serial" else lanes
        self.lanes = make_lanes(session.device, _COMPUTE, others, settings.threads, settings.host_threads)
        self.crowded_lanes = {name: HostLane(1, True) for name in self.crowded_planner.plan.graph.by_resource}

    @property
    def gives_way(self) -> bool:
        """True while a serial run has one thread beside other processes, and its stages overlap."""
        alone = self.schedule == "serial" and self.session.ranks.alone
        warm = self.warm_under == fusion_enabled()
        return alone and warm and self.contention.threads == 1 < self.contention.most

    def run(self, items: Iterable[Batch], epoch: int, times: StageTimes, first: int = 0) -> Generator[Work]:
        """Train on batches from number `first` of the epoch on; yield each finished iteration, in order.

        `times` gets the stage times.
        """
        source = iter(items)
        while True:
            gives_way = self.gives_way
            part = Until(source, partial(self._goes_on, gives_way))
            yield from self._run_until(part, epoch, times, first, gives_way)
            if part.ended:
                return
            first += part.count

    def _goes_on(self, gives_way: bool) -> bool:
        return self.gives_way == gives_way

    def _run_until(
        self, items: Until[Batch], epoch: int, times: StageTimes, first: int, gives_way: bool
    ) -> Generator[Work]:
        """Train as `run` does on the items until the run gives way, or no longer does."""
        planner, lanes_now = (self.crowded_planner, self.crowded_lanes) if gives_way else (self.planner, self.lanes)
        plan, trace = planner.plan, self.watch.trace
        if plan != self.announced:
            self._announce(Replanned(self.announced, plan), epoch, first)
        elif trace is not None:
            trace.plan(plan)
        functions = self.stages.training()
        engine: Engine | None = None

        def observe(spans: list[Span]) -> None:
            self.warm_under = fusion_enabled()
            spans = [replace(span, iteration=first + span.iteration) for span in spans] if first else spans
            times.add(spans)
            if trace is not None:
                trace.add(epoch, spans)
            if self.watch.recorder is not None:
                self.watch.recorder.add(epoch, spans)
            change = planner.observe(spans)
            if change is not None:
                if engine is not None:
                    engine.adopt(change.new.graph, guarded(change.new))
                self._announce(change, epoch, spans[0].iteration)
            self.adapt(epoch, spans[0].iteration)

        if self.schedule == "serial" and not gives_way:
            results = run_serial(plan.graph, functions, items, observe, own_compile_seconds, lanes_now)
        else:
            engine = Engine(
                plan.graph, functions, guarded(plan), _COMPUTE, lanes_now, observe, own_compile_seconds,
                self.watch.patience,
            )  # fmt: skip
            results = engine.run(items)
        yield from results

    def train_epoch(
        self, epoch: int, progress: Progress = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """See `Way`."""
        times, losses, staleness = StageTimes(), list[torch.Tensor](), Counter[str]()
        self._begin(epoch)
        items, traffic, start = self.training_batches(epoch, stop), self.traffic(), running_clock()
        with closing(self.run(items, epoch, times)) as results:
            for work in results:
                check()
                losses.append(work.outcome.loss)
                loss = float(work.outcome.loss)
                check_finite(loss, epoch, work.batch.index)
                staleness[str(work.staleness)] += 1
                progress(epoch, work.batch.stop - work.batch.start, loss)
        facts = {"stage_seconds": times.per_iteration(), "staleness_measured": dict(sorted(staleness.items()))}
        exchange = self.exchanged(traffic, len(losses))
        return Epoch(torch.stack(losses), running_clock() - start, {**facts, **exchange})

    def train_stretch(self, place: int, count: int, times: StageTimes) -> Generator[None]:
        """See `Way`."""
        self._begin(1)
        with closing(self.run(self.stretch(place, count), 1, times)) as results:
            for _ in results:
                yield

    def stretch(self, place: int, count: int) -> Iterator[Batch]:
        """Yield batches from number `place` on, and from the first one again after the last.

        There are more than `count`, so that the stages that run ahead do not run out of work: two queues are between
        the first stage and training.
        """
        session, settings, size = self.session, self.session.settings, self.session.size
        ahead = 0 if settings.schedule == "serial" else 2 * settings.prefetch + 4
        first, whole, sampler = session.stream.start, session.training_events // size, session.negatives
        places = (place + torch.arange(count + ahead)) % whole
        dst = sampler.dst[first : first + whole * size].view(whole, size)[places].flatten()
        each = session.config.train.train_negatives
        negatives = sampler.iterate(Purpose.TRAIN_NEGATIVES, 1, dst, size, each)
        for index, (number, draws) in enumerate(zip(places.tolist(), negatives, strict=True)):
            begin = first + number * size
            yield Batch(index, 1, begin, begin + size, size, draws)

    def predict(
        self, split: str, candidates: Candidates = 0, lagged: bool = False
    ) -> Iterator[tuple[Batch, BatchScores]]:
        """See `Way`."""
        self.session.model.eval()
        self.session.state.settle()
        first, stop, _ = self.spans()[split]
        count = self.counter(split, first, stop)
        for work in in_turn(self.stages.scoring(), self.split_batches(split, candidates, lagged)):
            positive, negative = work.outcome.logits
            yield work.batch, (positive, negative, work.outcome.ranks)
            count()

    def embed(self, stop: int) -> torch.Tensor:
        """See `Way`."""
        session = self.session
        session.model.eval()
        session.state.reset()
        items = batches(0, stop, session.size, session.negatives, Purpose.EVAL_NEGATIVES, 0)
        parts, count = list[torch.Tensor](), self.counter("embeddings", 0, stop)
        for work in in_turn(self.stages.embedding(), items):
            parts.append(work.outcome.sources)
            count()
        return torch.cat(parts)

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the current plan, or a plan for the measured times if the run was too short to make one."""
        planner = self.planner
        return (planner.plan_for(stage_seconds) if planner.guessed else planner.plan).to_json()

    def limit_threads(self, threads: int) -> None:
        """See `Way`."""
        super().limit_threads(threads)
        for lane in self.lanes.values():
            lane.limit(threads)
        self.planner.forget()
        self.crowded_planner.forget()

    def _begin(self, epoch: int) -> None:
        self.adapt(epoch, computing=False)
        self.session.state.reset()
        self.session.model.train()

    def _announce(self, change: Replanned, epoch: int, iteration: int) -> None:
        self.announced = change.new
        if self.watch.trace is not None:
            self.watch.trace.plan(change.new)
        self.watch.replanned(change, epoch, iteration)
