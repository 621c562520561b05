"""Resident runs: stream, adjacency, node state and model on the device, and one replay per iteration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from mspipe_triton.iteration.cuda_graph import Snapshot
from mspipe_triton.iteration.passes import EmbedPass, ScorePass, TrainPass
from mspipe_triton.iteration.resident import Pass, Span
from mspipe_triton.iteration.scene import Batch, Candidates
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import running_clock
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.training.way import UNWATCHED, BatchScores, Epoch, Progress, Watch, Way, check_finite, silent


class Resident(Way):
    """Epochs, evaluations and embeddings of a run whose data are all on the device.

    Each kind of pass is compiled and captured when it is first needed, before its clock starts. Deduplication has room
    for somewhat more nodes than measured batches had; an epoch that needs even more computes wrong numbers, so it
    starts over from its initial parameters, with more room.

    With several ranks all start over if one needs more room. Bytes that a discarded epoch has exchanged do not count.

    `seconds_preparing` counts measuring, warming up, capturing and epochs that started over, but not compiling loops.
    Losses are copied to the host at the end of an epoch. `device_session` is the session with all data on the device.
    """

    def __init__(self, session: Session, watch: Watch = UNWATCHED) -> None:
        super().__init__(session, watch)
        self.device_session = session.on(session.device)
        self._train: TrainPass | None = None
        self._score: dict[tuple[str, bool], ScorePass] = {}
        self._embed: EmbedPass | None = None

    def train_epoch(
        self, epoch: int, progress: Progress = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """See `Way`."""
        self.session.model.train()
        first, events = self.session.stream.start, self.session.training_events if stop is None else stop
        steps, span = self.training(), (first, first + events, epoch)
        initial, traffic = Snapshot(steps.model_tensors()), replace(self.session.ranks.traffic)
        while True:
            self.session.state.reset()
            self.settle()
            traffic, start = self.traffic(), running_clock()
            count = steps.run(*span, self._after(epoch, check))
            self.settle()
            seconds = running_clock() - start
            overflowed = steps.sampler.overflowed()
            if not self.session.ranks.any(overflowed):
                break
            self.watch.note(f"Epoch {epoch} starts over: its batches have more neighbours than were measured before.")
            self.seconds_preparing += seconds
            initial.restore()
            self.session.ranks.traffic.set(traffic)
            if overflowed:
                steps.sampler.fit()
            steps.scene = None
            self._prepare(steps, [span], False, measured=True)
        facts = {
            "stage_seconds": {"iteration": seconds / count}, "captured": steps.replay.graph is not None,
            "staleness_measured": {"0": count}, **self.exchanged(traffic, count),
        }  # fmt: skip
        result = Epoch(steps.losses[:count].to("cpu", copy=True), seconds, facts)
        for index, loss in enumerate(result.losses.tolist()):
            check_finite(loss, epoch, index)
        progress(epoch, events, result.mean_loss(events, self.session.size))
        return result

    def train_stretch(self, place: int, count: int, times: StageTimes) -> Generator[None]:
        """See `Way`; the stretch starts earlier if fewer batches remain."""
        steps, size, whole = self.training(), self.session.size, self.session.training_events // self.session.size
        self.session.state.reset()
        self.session.model.train()
        start, first = self.session.stream.start, max(0, min(place, whole - count))
        for number in range(count):
            if number % whole == 0:
                steps.start(start + first * size, start + whole * size, 1)
            steps.replay()
            self.adapt(1)
            yield

    def predict(
        self, split: str, candidates: Candidates = 0, lagged: bool = False
    ) -> Iterator[tuple[Batch, BatchScores]]:
        """See `Way`."""
        self.session.model.eval()
        span, steps = self.spans()[split], self._scoring(split, candidates, lagged)
        count = steps.run(*span, self.counter(split, *span[:2]))
        scores, ranks = (part[:count].to("cpu", copy=True) for part in (steps.scores, steps.ranks))
        for batch in self.split_batches(split, candidates, lagged):
            events = batch.stop - batch.start
            positive, negative = scores[batch.index, :, :events]
            yield batch, (positive, negative, ranks[batch.index, : events if steps.ranked else 0])

    def embed(self, stop: int) -> torch.Tensor:
        """See `Way`."""
        size = self.session.size
        self.session.model.eval()
        if self._embed is None or self._embed.iterations * size < stop:
            self._embed = EmbedPass(self.device_session, -(-stop // size))
            self._prepare(self._embed, [(0, stop, 0)], True)
        self.session.state.reset()
        count = self._embed.run(0, stop, 0, self.counter("embeddings", 0, stop))
        return self._embed.sources[:count].flatten(0, 1)[:stop].to("cpu", copy=True)

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the plan of a single stage."""
        return make_plan(self.schedule, stage_seconds).to_json()

    def training(self) -> TrainPass:
        """Return the training pass, compiled and captured."""
        if self._train is None:
            first, events = self.session.stream.start, self.session.training_events
            self._train = TrainPass(self.device_session, -(-events // self.session.size))
            self._prepare(self._train, [(first, first + events, 1)], False)
        return self._train

    def _after(self, epoch: int, check: Callable[[], None]) -> Callable[[], None]:
        """Return a function to call after each iteration of an epoch: it checks, and adapts the number of threads."""
        numbers = itertools.count()

        def after() -> None:
            check()
            self.adapt(epoch, next(numbers))

        self.adapt(epoch, computing=False)
        return after

    def _scoring(self, split: str, candidates: Candidates, lagged: bool) -> ScorePass:
        table = isinstance(candidates, torch.Tensor)
        key = (split if table else str(candidates), lagged)
        if key not in self._score:
            spans = [self.spans()[split]] if table else list(self.spans().values())
            count = max(-(-(stop - first) // self.session.size) for first, stop, _ in spans)
            self._score[key] = ScorePass(self.device_session, count, candidates, spans[0][0], lagged)
            self._prepare(self._score[key], spans, True)
        return self._score[key]

    def _prepare(self, steps: Pass, spans: Sequence[Span], whole: bool, measured: bool = False) -> None:
        """Measure capacities on the spans, unless `measured`, and capture the step."""
        start = running_clock()
        if not measured:
            steps.measure(spans, whole)
        failure = steps.prepare(*spans[0])
        if failure is not None:
            self.watch.note(f"Running without CUDA graphs: {failure}.")
        self.settle()
        self.seconds_preparing += running_clock() - start
