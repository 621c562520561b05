"""The two ways to carry a run out, of which one is chosen as it begins: in stages under a schedule, or resident."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.errors import TrainingError
from mspipe_triton.iteration.scene import Batch, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.pipeline.engine import PATIENCE
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.training.interrupt import Interrupts

# Told of an epoch, events that were trained on, and their mean loss, as training goes on.
Told = Callable[[int, int, float], None]
# Logits of a batch's events [B] and negatives [B], and reciprocal ranks [B], or [0] where none are ranked.
Predicted = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SPLITS = ("val", "test")


def silent(*_: Any) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Watch:
    """Watchers of a run, and stage times that are known beforehand.

    Args:
        note: told one line at a time that the user should see.
        replanned: told of every plan that comes into force, with the epoch and the iteration.
        trace: collects every stage's start and end, if given.
        stage_seconds: of every stage, as far as they are known, to plan with at first.
        patience: seconds without any stage ending after which the run is given up.
    """

    note: Callable[[str], None] = silent
    replanned: Callable[[Replanned, int, int], None] = silent
    trace: Trace | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    patience: float = PATIENCE


@dataclass(frozen=True)
class Epoch:
    """An epoch's losses [iterations] on the host, the seconds of its training alone, and its other facts by name."""

    losses: torch.Tensor
    seconds: float
    facts: Mapping[str, Any]

    def mean_loss(self, events: int, size: int) -> float:
        """The mean over the events, which were taken in batches of a size."""
        losses: list[float] = self.losses.tolist()
        counts = (min(size, events - start) for start in range(0, events, size))
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / events


UNWATCHED = Watch()


class Way(ABC):
    """One way to carry a run out.

    `seconds_preparing` counts what is neither training nor the compiling of loops.

    Args:
        session: what it works with. watch: who is told.
    """

    def __init__(self, session: Session, watch: Watch = UNWATCHED) -> None:
        self.session, self.watch = session, watch
        self.seconds_preparing = 0.0

    @property
    def schedule(self) -> str:
        """The schedule's name, or "resident"."""
        return self.session.settings.schedule

    def train(self, epoch: int, told: Told = silent) -> dict[str, Any]:
        """Train an epoch from an empty node state; its line of metrics.jsonl, as far as training knows it.

        Raises:
            TrainingError: a loss was not finite.
        """
        events = self.session.split.train_end
        preparing, compiling = self.seconds_preparing, compile_seconds()
        with Interrupts() as interrupts:
            trained = self.train_epoch(epoch, told, interrupts.check)
        compiling = compile_seconds() - compiling + self.seconds_preparing - preparing
        return {
            "epoch": epoch, "loss": trained.mean_loss(events, self.session.size), "seconds": trained.seconds,
            "compile_seconds": compiling, "events_per_s": events / trained.seconds,
            "iterations": trained.losses.numel(), **trained.facts,
        }  # fmt: skip

    @abstractmethod
    def train_epoch(
        self, epoch: int, told: Told = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """Train on the training events from an empty node state, or on the first `stop` of them.

        Args:
            check: called between two iterations, of which the device may be some behind; it may raise.
        """

    @abstractmethod
    def train_stretch(self, place: int, count: int, times: StageTimes) -> Generator[None]:
        """Train about `count` batches from number `place` on, from an empty node state; yields after each.

        It may go on behind the last one, at the first again. Stage times go to `times` where there are stages.
        """

    @abstractmethod
    def predict(self, split: str, negatives: int = 0) -> Iterator[tuple[Batch, Predicted]]:
        """Score a split's batches, going on from the present node state and updating it.

        Args:
            split: "val" or "test". negatives: N random destinations to rank each event's among; 0 ranks none.
        """

    @abstractmethod
    def embed(self, stop: int) -> torch.Tensor:
        """Embeddings [stop, D] of the sources of the first `stop` events on the host, from an empty node state.

        Each is of the time right before its event; the parameters stay as they are.
        """

    @abstractmethod
    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """The plan that epochs ran by, as `result.json` has it, given an epoch's measured stage times."""

    def settle(self) -> None:
        """Wait for the device."""
        if self.session.device.type == "cuda":
            torch.cuda.synchronize(self.session.device)

    def training_batches(self, epoch: int, stop: int | None = None) -> Iterator[Batch]:
        """The batches of the training events, or of the first `stop` of them."""
        session = self.session
        stop = session.split.train_end if stop is None else stop
        return batches(0, stop, session.size, session.negatives, Purpose.TRAIN_NEGATIVES, epoch)

    def split_batches(self, split: str, negatives: int) -> Iterator[Batch]:
        """The batches of an evaluation's events; the split's number stands in the place of the epoch."""
        session, number = self.session, SPLITS.index(split)
        start, stop = session.split.train_end, session.split.val_end
        if split == "test":
            start, stop = stop, len(session.stream)
        return batches(start, stop, session.size, session.negatives, Purpose.EVAL_NEGATIVES, number, negatives)


def carry_out(session: Session, watch: Watch = UNWATCHED) -> Way:
    """The way that a session's settings name."""
    from mspipe_triton.training.resident import Resident  # both stand on this file
    from mspipe_triton.training.staged import Staged

    return (Resident if session.settings.resident else Staged)(session, watch)


def check_finite(loss: float, epoch: int, iteration: int) -> None:
    """Refuse a loss that says nothing.

    Raises:
        TrainingError: it is infinite or no number.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} in epoch {epoch}, iteration {iteration}; try a smaller --lr")
