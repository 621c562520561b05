"""Resident runs: stream, adjacency, node state and model on the device, and every iteration one replay there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch

from mspipe_triton.iteration.cuda_graph import Snapshot
from mspipe_triton.iteration.passes import EmbedPass, ScorePass, TrainPass
from mspipe_triton.iteration.resident import Pass, Span
from mspipe_triton.iteration.scene import Batch
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import running_clock
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.training.way import SPLITS, UNWATCHED, Epoch, Predicted, Told, Watch, Way, check_finite, silent


class Resident(Way):
    """Epochs, evaluations and embeddings of a run that lies on the device whole.

    Each kind of pass is compiled and captured when it is first needed, before its clock starts. Deduplication gets as
    much room as batches were measured to need and some more; an epoch that needs more than that has computed wrong
    numbers, so it starts over from the parameters that it began with, with more room.

    `seconds_preparing` counts measuring, warming up, capturing and epochs that started over, but no loops' compiling.
    Losses come to the host when an epoch is over. `placed` is the session with all of it on the device.
    """

    def __init__(self, session: Session, watch: Watch = UNWATCHED) -> None:
        super().__init__(session, watch)
        self.placed = session.on(session.device)
        self._train: TrainPass | None = None
        self._score: dict[int, ScorePass] = {}
        self._embed: EmbedPass | None = None

    def train_epoch(
        self, epoch: int, told: Told = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """See `Way`."""
        self.session.model.train()
        events = self.session.split.train_end if stop is None else stop
        steps, span = self.training(), (0, events, epoch)
        learned = Snapshot(steps.learned())
        while True:
            self.session.state.reset()
            self.settle()
            start = running_clock()
            count = steps.run(*span, check)
            self.settle()
            seconds = running_clock() - start
            if not steps.sampler.overflowed():
                break
            self.watch.note(f"Epoch {epoch} starts over: its batches have more neighbours than were measured before.")
            self.seconds_preparing += seconds
            learned.restore()
            steps.sampler.fit()
            steps.scene = None
            self._prepared(steps, [span], False, measured=True)
        facts = {
            "stage_seconds": {"iteration": seconds / count}, "captured": steps.replay.graph is not None,
            "staleness_measured": {"0": count},
        }  # fmt: skip
        trained = Epoch(steps.losses[:count].to("cpu", copy=True), seconds, facts)
        for index, loss in enumerate(trained.losses.tolist()):
            check_finite(loss, epoch, index)
        told(epoch, events, trained.mean_loss(events, self.session.size))
        return trained

    def train_stretch(self, place: int, count: int, times: StageTimes) -> Generator[None]:
        """See `Way`; it begins earlier where fewer batches are left."""
        steps, size, whole = self.training(), self.session.size, self.session.split.train_end // self.session.size
        self.session.state.reset()
        self.session.model.train()
        first = max(0, min(place, whole - count))
        for number in range(count):
            if number % whole == 0:
                steps.start(first * size, whole * size, 1)
            steps.replay()
            yield

    def predict(self, split: str, negatives: int = 0) -> Iterator[tuple[Batch, Predicted]]:
        """See `Way`."""
        self.session.model.eval()
        span, steps = self._spans()[split], self._scoring(negatives)
        count = steps.run(*span)
        scores, ranks = (part[:count].to("cpu", copy=True) for part in (steps.scores, steps.ranks))
        for batch in self.split_batches(split, negatives):
            events = batch.stop - batch.start
            positive, negative = scores[batch.index, :, :events]
            yield batch, (positive, negative, ranks[batch.index, : events if negatives else 0])

    def embed(self, stop: int) -> torch.Tensor:
        """See `Way`."""
        size = self.session.size
        self.session.model.eval()
        if self._embed is None or self._embed.iterations * size < stop:
            self._embed = EmbedPass(self.placed, -(-stop // size))
            self._prepared(self._embed, [(0, stop, 0)], True)
        self.session.state.reset()
        count = self._embed.run(0, stop, 0)
        return self._embed.sources[:count].flatten(0, 1)[:stop].to("cpu", copy=True)

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """One stage: there is nothing to plan."""
        return make_plan(self.schedule, stage_seconds).to_json()

    def training(self) -> TrainPass:
        """The pass that trains, compiled and captured."""
        if self._train is None:
            events = self.session.split.train_end
            self._train = TrainPass(self.placed, -(-events // self.session.size))
            self._prepared(self._train, [(0, events, 1)], False)
        return self._train

    def _scoring(self, negatives: int) -> ScorePass:
        if negatives not in self._score:
            spans = list(self._spans().values())
            count = max(-(-(stop - first) // self.session.size) for first, stop, _ in spans)
            self._score[negatives] = ScorePass(self.placed, count, negatives)
            self._prepared(self._score[negatives], spans, True)
        return self._score[negatives]

    def _spans(self) -> dict[str, Span]:
        """The events of both evaluations; the split's number stands in the place of the epoch."""
        ends = (self.session.split.train_end, self.session.split.val_end, len(self.session.stream))
        return {split: (ends[number], ends[number + 1], number) for number, split in enumerate(SPLITS)}

    def _prepared(self, steps: Pass, spans: Sequence[Span], whole: bool, measured: bool = False) -> None:
        """Measure the capacities on the spans, unless that was done, and capture the step."""
        start = running_clock()
        if not measured:
            steps.measure(spans, whole)
        failure = steps.prepare(*spans[0])
        if failure is not None:
            self.watch.note(f"Running without CUDA graphs: {failure}.")
        self.settle()
        self.seconds_preparing += running_clock() - start
