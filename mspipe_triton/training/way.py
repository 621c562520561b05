"""Ways to run training: in stages under a schedule, or resident; each run uses one of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.distributed.ranks import Traffic
from mspipe_triton.errors import TrainingError
from mspipe_triton.iteration.resident import Span
from mspipe_triton.iteration.scene import Batch, Candidates, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.machine import Usage
from mspipe_triton.pipeline.contention import Change
from mspipe_triton.pipeline.engine import PATIENCE
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.timeline import Recorder
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.training.interrupt import Interrupts
from mspipe_triton.training.threads import contention_of

if TYPE_CHECKING:
    from mspipe_triton.training.loops import Loops  # it imports this module

# Called during training with the epoch, the number of events just trained on, and their mean loss.
Progress = Callable[[int, int, float], None]
# Called after each batch of an evaluation with the split's name and the numbers of events in the batch and in the
# split; see `Observer.evaluation`.
Evaluation = Callable[[str, int, int], None]
# Logits of a batch's events [B] and negatives [B], and reciprocal ranks [B], or [0] where none are ranked.
BatchScores = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SPLITS = ("val", "test")


def silent(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Watch:
    """Callbacks of a run, and stage times to start with.

    Args:
        note: called with each line that the user should see.
        replanned: called with every change of plan, the epoch and the iteration.
        evaluation: called after each batch of an evaluation.
        trace: collects every stage's start and end; None for no trace.
        stage_seconds: seconds per stage for the first plan, if they are available.
        patience: seconds without any stage ending after which the run stops.
        recorder: keeps the stages of the latest iterations; None to keep none.
        since: a reading before the session was created; None reads when the way is created.
        rethreaded: called with every change of the number of threads, the epoch and the iteration, which are 0 while
            events are only scored.
    """

    note: Callable[[str], None] = silent
    replanned: Callable[[Replanned, int, int], None] = silent
    evaluation: Evaluation = silent
    trace: Trace | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    patience: float = PATIENCE
    recorder: Recorder | None = None
    since: Usage | None = None
    rethreaded: Callable[[Change, int, int], None] = silent


@dataclass(frozen=True)
class Epoch:
    """An epoch's losses [iterations] on the host, the seconds of training alone, and other metrics by name."""

    losses: torch.Tensor
    seconds: float
    facts: Mapping[str, Any]

    def mean_loss(self, events: int, size: int) -> float:
        """Return the mean loss over the events, which came in batches of `size`."""
        losses: list[float] = self.losses.tolist()
        counts = (min(size, events - start) for start in range(0, events, size))
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / events


UNWATCHED = Watch()


class Way(ABC):
    """One way to run training and evaluation.

    `seconds_preparing` counts the time that is neither training nor compiling loops. `contention` has the number of
    threads that the machine has cores for at present.

    Args:
        session: the run's session. watch: the run's callbacks.

    Attributes:
        loops: the run's compiled loops, if they may change while it trains.
    """

    def __init__(self, session: Session, watch: Watch = UNWATCHED) -> None:
        self.session, self.watch = session, watch
        self.seconds_preparing = 0.0
        self.contention = contention_of(session, watch.note, watch.since)
        self.compiling = 0.0
        self.loops: Loops | None = None

    @property
    def schedule(self) -> str:
        """The schedule's name, or "resident"."""
        return self.session.settings.schedule

    def train(self, epoch: int, progress: Progress = silent) -> dict[str, Any]:
        """Train an epoch from the initial node state, and return its metrics without those of validation.

        Raises:
            TrainingError: a loss was not finite.
        """
        events = self.session.training_events
        preparing, compiling = self.seconds_preparing, compile_seconds()
        loops, rates, clipping = self.loops, self.session.rates, self.session.clipping
        if clipping is not None:
            clipping.mean()  # norms of earlier steps that belong to no epoch
        with Interrupts() as interrupts:

            def check() -> None:
                interrupts.check()
                if loops is not None:
                    loops.iteration()

            if loops is not None:
                loops.pause()
            result = self.train_epoch(epoch, progress, check)
        compiling = compile_seconds() - compiling + self.seconds_preparing - preparing
        return {
            "epoch": epoch, "loss": result.mean_loss(events, self.session.size), "seconds": result.seconds,
            "compile_seconds": compiling, "events_per_s": events / result.seconds,
            "iterations": result.losses.numel(), "lr": rates.at(epoch, result.losses.numel() - 1),
            **({} if clipping is None else {"grad_norm": clipping.mean()}), **result.facts,
        }  # fmt: skip

    @abstractmethod
    def train_epoch(
        self, epoch: int, progress: Progress = silent, check: Callable[[], None] = silent, stop: int | None = None
    ) -> Epoch:
        """Train on the training events from the initial node state, or on the first `stop` of them.

        Args:
            check: called after each iteration, which the device may not have finished yet; it may raise.
        """

    @abstractmethod
    def train_stretch(self, place: int, count: int, times: StageTimes) -> Generator[None]:
        """Train on about `count` batches from number `place` on, from the initial node state; yield after each.

        After the last batch it may continue with the first one. Staged runs add their stage times to `times`.
        """

    @abstractmethod
    def predict(
        self, split: str, candidates: Candidates = 0, lagged: bool = False
    ) -> Iterator[tuple[Batch, BatchScores]]:
        """Score a split's batches, starting from the current node state and updating it.

        Args:
            split: "val" or "test". candidates: destinations that each event is ranked among.
            lagged: read only neighbours and pairs from before the time of a batch's first event.
        """

    @abstractmethod
    def embed(self, stop: int) -> torch.Tensor:
        """Return embeddings [stop, D] of the sources of the first `stop` events on the host, from an empty node state.

        Each is of the time right before its event; the parameters do not change.
        """

    @abstractmethod
    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the plan of the epochs for `result.json`, from an epoch's measured stage times."""

    def adapt(self, epoch: int = 0, iteration: int = 0, computing: bool = True) -> None:
        """Use fewer threads while other processes use cores, and more again when these are free; see `Contention`.

        Args:
            computing: nothing else has been done since the last call.
        """
        compiling = compile_seconds()
        change = self.contention.look(computing and compiling == self.compiling)
        self.compiling = compiling
        if change is not None:
            self.limit_threads(change.new)
            self.watch.rethreaded(change, epoch, iteration)

    def limit_threads(self, threads: int) -> None:
        """Compute with at most so many threads on the calling thread."""
        torch.set_num_threads(min(self.session.settings.threads, threads))

    def traffic(self) -> Traffic:
        """Return the bytes that this rank has received so far."""
        return replace(self.session.ranks.traffic)

    def exchanged(self, before: Traffic, iterations: int) -> dict[str, Any]:
        """Return the metric `exchange`: bytes per iteration that a rank has received since `traffic` returned `before`.

        A run without other ranks has no such metric.
        """
        if self.session.ranks.alone:
            return {}
        now = self.traffic()
        gathered, reduced = now.gathered - before.gathered, now.reduced - before.reduced
        return {"exchange": {"gathered_bytes": gathered / iterations, "reduced_bytes": reduced / iterations}}

    def settle(self) -> None:
        """Wait for the device."""
        if self.session.device.type == "cuda":
            torch.cuda.synchronize(self.session.device)

    def training_batches(self, epoch: int, stop: int | None = None) -> Iterator[Batch]:
        """Yield batches of the training events, or of the first `stop` of them."""
        session, start = self.session, self.session.stream.start
        stop = start + (session.training_events if stop is None else stop)
        each = session.config.train.train_negatives
        return batches(start, stop, session.size, session.negatives, Purpose.TRAIN_NEGATIVES, epoch, each=each)

    def spans(self) -> dict[str, Span]:
        """Return the events of both splits; the split's number replaces the epoch."""
        ends = (self.session.split.train_end, self.session.split.val_end, len(self.session.stream))
        return {split: (ends[number], ends[number + 1], number) for number, split in enumerate(SPLITS)}

    def counter(self, name: str, first: int, stop: int) -> Callable[[], None]:
        """Return a function to call after each batch of events [first, stop); it tells the watch their number."""
        size, total = self.session.size, stop - first
        counts = (min(size, stop - start) for start in range(first, stop, size))
        self.adapt(computing=False)
        if self.contention.changed:  # lanes restore the number of threads that they began with
            self.limit_threads(self.contention.threads)

        def count() -> None:
            self.adapt()
            self.watch.evaluation(name, next(counts), total)

        return count

    def split_batches(self, split: str, candidates: Candidates, lagged: bool) -> Iterator[Batch]:
        """Yield batches of a split's events; the split's number replaces the epoch."""
        session, (start, stop, number) = self.session, self.spans()[split]
        sampler, purpose = session.negatives, Purpose.EVAL_NEGATIVES
        return batches(start, stop, session.size, sampler, purpose, number, candidates, lagged=lagged)


def carry_out(session: Session, watch: Watch = UNWATCHED) -> Way:
    """Return the way that a session's settings name."""
    from mspipe_triton.training.resident import Resident  # here, since both modules import this one
    from mspipe_triton.training.staged import Staged

    return (Resident if session.settings.resident else Staged)(session, watch)


def check_finite(loss: float, epoch: int, iteration: int) -> None:
    """Refuse a loss that is not finite.

    Raises:
        TrainingError: the loss is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} in epoch {epoch}, iteration {iteration}; try a smaller --lr")
