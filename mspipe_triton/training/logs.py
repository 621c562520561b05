"""Logs of a run for other programs: TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.observer import Observer, Observers
from mspipe_triton.training.run_folder import RunFolder

_INTERVAL = 50  # iterations between two points of the loss
_FACTS = ("loss", "lr", "events_per_s", "grad_norm")  # of an epoch
_SCORES = ("ap", "auc", "mrr")


def check_log(log: str) -> None:
    """Refuse a log whose package is missing.

    Raises:
        ConfigError: with the command that installs it.
    """
    if log == "tensorboard" and find_spec("tensorboard") is None:
        raise ConfigError(
            "log tensorboard needs the package tensorboard, which is not installed; use `pip install tensorboard`"
        )


@contextmanager
def logged(observer: Observer, log: str, first: bool) -> Iterator[Observer]:
    """Yield the observer, in rank 0 together with the log of that name."""
    if log == "none" or not first:
        yield observer
        return
    writer = TensorBoard()
    try:
        yield Observers(observer, writer)
    finally:
        writer.close()


class TensorBoard(Observer):
    """Scalars of a run in its folder `tensorboard`, by the number of iterations.

    Loss and learning rate have a point every 50 iterations; a resident run, whose losses stay on the device, has one
    per epoch. Validation, speed and the norm of gradients have one per epoch. Test scores and settings come last. A
    resumed run replaces the points that come after the epoch from which it continues.
    """

    def __init__(self) -> None:
        self.writer: Any = None  # of torch.utils.tensorboard

    def start(self, session: Session, folder: RunFolder) -> None:
        """See `Observer`."""
        self.config, self.path, self.rates, self.size = session.config, folder.log, session.rates, session.size
        self.total, self.epoch_number = session.training_events, 0

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """See `Observer`."""
        if epoch != self.epoch_number:
            self.epoch_number, self.events, self.point, self.pending, self.loss = epoch, 0, 0, 0, 0.0
        self.events, self.pending, self.loss = self.events + events, self.pending + events, self.loss + loss * events
        iterations = -(-self.events // self.size)
        if iterations - self.point >= _INTERVAL or self.events == self.total:
            facts = {"loss": self.loss / self.pending, "lr": self.rates.at(epoch, iterations - 1)}
            self._write("train", facts, self._step(epoch - 1) + iterations)
            self.point, self.pending, self.loss = iterations, 0, 0.0

    def epoch(self, metrics: dict[str, Any]) -> None:
        """See `Observer`."""
        step = self._step(metrics["epoch"])
        self._write("epoch", _those_of(metrics, _FACTS), step)
        self._write("val", _those_of(metrics["val"], _SCORES), step)

    def end(self, result: dict[str, Any]) -> None:
        """See `Observer`."""
        step = self._step(result["epochs"])
        scores = {f"test/{name}": value for name, value in _those_of(result["test"], _SCORES).items()}
        self._open(step).add_hparams(_settings(self.config), scores, run_name=".", global_step=step)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self.writer is not None:
            self.writer.close()

    def _step(self, epochs: int) -> int:
        """Return the number of iterations in a number of epochs."""
        return epochs * self.rates.iterations

    def _open(self, step: int) -> Any:
        """Return the writer, whose first points are those of a step."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # here, since it takes long to import

            self.writer = SummaryWriter(str(self.path), purge_step=step)
        return self.writer

    def _write(self, group: str, facts: Mapping[str, float], step: int) -> None:
        writer = self._open(step)
        for name, value in facts.items():
            writer.add_scalar(f"{group}/{name}", value, step)
        writer.flush()


def _those_of(facts: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: facts[name] for name in names if name in facts}


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of model and training, which TensorBoard shows as hyper-parameters."""
    return asdict(config.model.resolved()) | asdict(config.train)
