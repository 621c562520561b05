"""Training epochs, stage by stage under a schedule or resident on the device, and the record that each leaves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Protocol

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.errors import TrainingError
from mspipe_triton.kernels.fusion import compile_seconds, running_clock
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.pipeline.schedules import RESIDENT
from mspipe_triton.training.batch import batches
from mspipe_triton.training.interrupt import Interrupts
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.schedule import Scheduler
from mspipe_triton.training.session import Session

Told = Callable[[int, int, float], None]


class Epochs(Protocol):
    """One way to train epochs."""

    schedule: str

    def train(self, epoch: int, told: Told) -> dict[str, Any]:
        """Train an epoch from an empty node state; its line of metrics.jsonl, as far as training knows it.

        Args:
            told: of the epoch, events that were trained on, and their mean loss, as training goes on.

        Raises:
            TrainingError: a loss was not finite.
        """

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """The plan that the epochs ran by, as `result.json` has it."""


class StagedEpochs:
    """Stages under the run's schedule; a loss that is not finite ends the epoch at once."""

    def __init__(self, session: Session, scheduler: Scheduler) -> None:
        self.session, self.scheduler, self.schedule = session, scheduler, scheduler.schedule

    def train(self, epoch: int, told: Told) -> dict[str, Any]:
        """See `Epochs`."""
        session, times = self.session, StageTimes()
        session.state.reset()
        session.model.train()
        events = session.split.train_end
        items = batches(0, events, session.config.train.batch_size, session.negatives, Purpose.TRAIN_NEGATIVES, epoch)
        compiling, start, loss = compile_seconds(), running_clock(), 0.0
        staleness: Counter[str] = Counter()
        with Interrupts() as interrupts, closing(self.scheduler.run(items, epoch, times)) as results:
            for done in results:
                interrupts.check()
                value, count = float(done.loss), done.batch.stop - done.batch.start
                _check_finite(value, epoch, done.batch.index)
                loss += value * count
                staleness[str(done.staleness)] += 1
                told(epoch, count, value)
        seconds, compiling = running_clock() - start, compile_seconds() - compiling
        return {
            **_record(epoch, loss / events, seconds, compiling, events),
            "iterations": times.iterations,
            "stage_seconds": times.per_iteration(),
            "staleness_measured": dict(sorted(staleness.items())),
        }

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """See `Epochs`."""
        return self.scheduler.final_plan(stage_seconds).to_json()


class ResidentEpochs:
    """Iterations run whole on the device; losses come to the host when an epoch is over."""

    schedule = RESIDENT

    def __init__(self, session: Session, resident: Resident) -> None:
        self.session, self.resident = session, resident

    def train(self, epoch: int, told: Told) -> dict[str, Any]:
        """See `Epochs`."""
        events, size = self.session.split.train_end, self.session.config.train.batch_size
        preparing, compiling = self.resident.seconds_preparing, compile_seconds()
        with Interrupts() as interrupts:
            trained = self.resident.train_epoch(epoch, interrupts.check)
        compiling = compile_seconds() - compiling + self.resident.seconds_preparing - preparing
        loss = 0.0
        for index, value in enumerate(trained.losses.tolist()):
            _check_finite(value, epoch, index)
            loss += value * min(size, events - index * size)
        told(epoch, events, loss / events)
        count = trained.losses.numel()
        return {
            **_record(epoch, loss / events, trained.seconds, compiling, events),
            "iterations": count,
            "stage_seconds": {"iteration": trained.seconds / count},
            "captured": self.resident.training().replay.graph is not None,
            "staleness_measured": {"0": count},
        }

    def plan(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """One stage: there is nothing to plan."""
        return make_plan(RESIDENT, stage_seconds).to_json()


def _record(epoch: int, loss: float, seconds: float, compiling: float, events: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "loss": loss, "seconds": seconds, "compile_seconds": compiling,
        "events_per_s": events / seconds,
    }  # fmt: skip


def _check_finite(loss: float, epoch: int, iteration: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} in epoch {epoch}, iteration {iteration}; try a smaller --lr")
