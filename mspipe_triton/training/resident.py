"""Resident training: stream, adjacency, node state and model on the device, and every iteration one replay there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mspipe_triton.data.events import Split
from mspipe_triton.kernels.fusion import running_clock
from mspipe_triton.training.replay import Snapshot
from mspipe_triton.training.resident_pass import OnDevice, Pass
from mspipe_triton.training.resident_steps import EmbedPass, ScorePass, TrainPass

Span = tuple[int, int, int]


@dataclass(frozen=True)
class TrainedEpoch:
    """An epoch's losses [iterations] on the host, and the seconds of its training alone."""

    losses: torch.Tensor
    seconds: float


class Resident:
    """Epochs, evaluations and embeddings of a run that lies on the device whole.

    Each kind of pass is compiled and captured when it is first needed, before its clock starts. Deduplication gets as
    much room as batches were measured to need and some more; an epoch that needs more than that has computed wrong
    numbers, so it starts over from the parameters that it began with, with more room.

    `seconds_preparing` counts measuring, warming up, capturing and epochs that started over, but no loops' compiling.

    Args:
        given: what lies on the device.
        split: of the stream. optimizer: of the model's parameters, able to be captured.
    """

    def __init__(self, given: OnDevice, split: Split, optimizer: torch.optim.Optimizer) -> None:
        self.given, self.split, self.optimizer = given, split, optimizer
        self.note: Callable[[str], None] = lambda line: None
        self.seconds_preparing = 0.0
        self._train: TrainPass | None = None
        self._score: dict[int, ScorePass] = {}
        self._embed: EmbedPass | None = None

    def train_epoch(self, epoch: int, check: Callable[[], None] = lambda: None) -> TrainedEpoch:
        """Train on all training events from an empty node state.

        Args:
            check: called between two iterations, of which the device may be some behind; it may raise.
        """
        self.given.model.train()
        span = (0, self.split.train_end, epoch)
        steps = self.training()
        learned = Snapshot(steps.learned())
        while True:
            self.given.state.reset()
            self.settle()
            start = running_clock()
            count = steps.run(*span, check)
            self.settle()
            seconds = running_clock() - start
            if not steps.sampler.overflowed():
                return TrainedEpoch(steps.losses[:count].to("cpu", copy=True), seconds)
            self.note(f"Epoch {epoch} starts over: its batches have more neighbours than were measured before.")
            self.seconds_preparing += seconds
            learned.restore()
            steps.sampler.fit()
            steps.scene = None
            self._prepared(steps, [span], False, measured=True)

    def predict(self, split: str, negatives: int = 0) -> list[tuple[torch.Tensor, ...]]:
        """Logits of positives [B] and negatives [B] and reciprocal ranks [B], or [0], batch by batch, on the host.

        Goes on from the present node state and updates it.

        Args:
            split: "val" or "test". negatives: N random destinations to rank each event's among; 0 ranks none.
        """
        self.given.model.eval()
        span, steps, size = self._spans()[split], self._scoring(negatives), self.given.size
        count = steps.run(*span)
        scores, ranks = (part[:count].to("cpu", copy=True) for part in (steps.scores, steps.ranks))
        found: list[tuple[torch.Tensor, ...]] = []
        for number, (positive, negative) in enumerate(scores):
            events = min(size, span[1] - span[0] - number * size)
            found.append((positive[:events], negative[:events], ranks[number, : events if negatives else 0]))
        return found

    def source_embeddings(self, stop: int) -> torch.Tensor:
        """Embeddings [stop, D] of the sources of the first `stop` events on the host, from an empty node state."""
        self.given.model.eval()
        if self._embed is None or self._embed.iterations * self.given.size < stop:
            self._embed = EmbedPass(self.given, -(-stop // self.given.size))
            self._prepared(self._embed, [(0, stop, 0)], True)
        self.given.state.reset()
        count = self._embed.run(0, stop, 0)
        return self._embed.sources[:count].flatten(0, 1)[:stop].to("cpu", copy=True)

    def training(self) -> TrainPass:
        """The pass that trains, compiled and captured."""
        if self._train is None:
            count = -(-self.split.train_end // self.given.size)
            self._train = TrainPass(self.given, count, self.optimizer)
            self._prepared(self._train, [(0, self.split.train_end, 1)], False)
        return self._train

    def _scoring(self, negatives: int) -> ScorePass:
        if negatives not in self._score:
            spans = list(self._spans().values())
            count = max(-(-(stop - first) // self.given.size) for first, stop, _ in spans)
            self._score[negatives] = ScorePass(self.given, count, negatives)
            self._prepared(self._score[negatives], spans, True)
        return self._score[negatives]

    def _spans(self) -> dict[str, Span]:
        """Of the evaluations: events, and the number that stands in the place of the epoch."""
        split = self.split
        return {"val": (split.train_end, split.val_end, 0), "test": (split.val_end, len(self.given.stream), 1)}

    def _prepared(self, steps: Pass, spans: Sequence[Span], whole: bool, measured: bool = False) -> None:
        """Measure the capacities on the spans, unless that was done, and capture the step."""
        start = running_clock()
        if not measured:
            steps.measure(spans, whole)
        failure = steps.prepare(*spans[0])
        if failure is not None:
            self.note(f"Running without CUDA graphs: {failure}.")
        self.settle()
        self.seconds_preparing += running_clock() - start

    def settle(self) -> None:
        """Wait for the device."""
        if self.given.device.type == "cuda":
            torch.cuda.synchronize(self.given.device)
