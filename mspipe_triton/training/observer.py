"""Callbacks for the progress of a run; importing them loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mspipe_triton.iteration.session import Session
    from mspipe_triton.training.run_folder import RunFolder


class Observer:
    """Callbacks for a run's progress; this class ignores all of them, and screens override those that they show."""

    def start(self, session: Session, folder: RunFolder) -> None:
        """Handle the start of the run."""

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Handle the end of an iteration over `events` events; epochs count from 1."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Handle the end of an epoch, validation included; `metrics` is its line of metrics.jsonl."""

    def evaluation(self, split: str, events: int, total: int) -> None:
        """Handle the evaluation of `events` more of a split's `total` events, after each epoch and at the run's end.

        The split is "embeddings" while the labels' decoder gets its input. A resident run calls this when it launches a
        batch, which the device may finish later.
        """

    def note(self, message: str) -> None:
        """Show the user a line."""

    def end(self, result: dict[str, Any]) -> None:
        """Handle the result of the finished run."""


class Observers(Observer):
    """Several observers as one, called in turn."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def start(self, session: Session, folder: RunFolder) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.start(session, folder)

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.batch(epoch, events, loss)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.epoch(metrics)

    def evaluation(self, split: str, events: int, total: int) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.evaluation(split, events, total)

    def note(self, message: str) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.note(message)

    def end(self, result: dict[str, Any]) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.end(result)
