"""Progress of training and evaluation on stderr: a bar on a terminal, and a line now and then in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import log
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from mspipe_triton.cli.console import console
from mspipe_triton.cli.transient import Preparing
from mspipe_triton.kernels.runtime.fusion import compiling
from mspipe_triton.training.observer import Observer

if TYPE_CHECKING:
    from mspipe_triton.config import TrainConfig
    from mspipe_triton.iteration.session import Session
    from mspipe_triton.training.run_folder import RunFolder

_REFRESH_SECONDS = 0.1
_MOVES = 2  # times per second that the bar's clock moves by itself
_FIRST_LINE, _NEXT_LINE = 10.0, 30.0  # seconds until a phase has a line in a file, and from one line to the next
_TEXTS, _BARS = 68, (8, 40)  # columns of the longest texts beside a bar, and of the bar
_NAMES = {"val": "validation"}


class Facts(ProgressColumn):
    """Column of a bar for the speed and the loss, or for the fact that loops are being compiled."""

    def render(self, task: Task) -> Text:
        """Return the facts of the moment."""
        return Text(f"compiling loops, {task.elapsed or 0:.0f} s" if compiling() else str(task.fields["facts"]))


class Count(ProgressColumn):
    """Column of a bar for the events of its phase, which may be one part of several in the bar."""

    def render(self, task: Task) -> Text:
        """Return the events so far, and those of the phase."""
        return Text(f"{task.completed - task.fields['before']:,.0f}/{task.fields['events']:,}")


class EvaluationScreen:
    """Progress over the events of an evaluation, with events per second and remaining time.

    On a terminal it is a bar, which advances at most ten times per second and moves while nothing else does. In a file,
    and on a terminal that only appends, it is a line for a phase that has lasted ten seconds, and another one every 30
    seconds.
    """

    def __init__(self) -> None:
        shortest, longest = _BARS
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(min(longest, max(shortest, console.width - _TEXTS))),
            Count(),
            Facts(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=_MOVES > 0,
            refresh_per_second=max(_MOVES, 1),
            transient=True,
        )
        self.task: TaskID | None = None
        self.count, self.pending, self.since = 0, 0, 0.0
        self.phase, self.size, self.completed, self.next_line = "", 0, 0, 0.0
        self.preparing = Preparing()

    def evaluation(self, split: str, events: int, total: int) -> None:
        """Advance the bar of a split, or open it at its first batch, whose seconds are not known."""
        if self.count == 0:
            self.open(_NAMES.get(split, split), total, events)
        else:
            self.advance(events)
        self.count = (self.count + events) % total

    def open(self, description: str, events: int, completed: int = 0, before: int = 0, total: int = 0) -> None:
        """Show a bar instead of the present one.

        Args:
            events: of the phase. completed: those at its start.
            before: the bar's events before the phase. total: those of the bar; 0 if the phase is all of it.
        """
        self.preparing.end()
        self.phase, self.size, self.completed = description, events, completed
        self.next_line = max(self.next_line, time.perf_counter() + _FIRST_LINE)
        if not console.is_terminal or console.is_dumb_terminal:
            return
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(
            description, total=total or events, completed=before + completed, facts="", before=before, events=events
        )
        self.progress.start()
        self.pending, self.since = 0, time.perf_counter()

    def advance(self, events: int, facts: str = "") -> None:
        """Advance the bar by `events`, and show `facts` behind their number per second."""
        self.completed += events
        if self.task is None:
            self._write_line(facts)
            return
        self.pending += events
        elapsed = time.perf_counter() - self.since
        if elapsed > _REFRESH_SECONDS:
            facts = f"{self.pending / elapsed:,.0f} events/s{facts}"
            self.progress.update(self.task, advance=self.pending, facts=facts)
            self.progress.refresh()
            self.pending, self.since = 0, time.perf_counter()

    def _write_line(self, facts: str) -> None:
        """Write a line on the phase, if it is time for one."""
        if time.perf_counter() >= self.next_line and self.completed < self.size:
            self.next_line = time.perf_counter() + _NEXT_LINE
            console.print(f"{self.phase}: {self.completed:,} of {self.size:,} events{facts}")

    def close(self) -> None:
        """Remove the bar from the screen, if it is there."""
        self.preparing.end()
        if self.progress.live.is_started:
            self.progress.stop()


class TrainingScreen(EvaluationScreen, Observer):
    """A progress bar over all epochs with the loss as well, one over each evaluation, and one line per epoch.

    Args:
        complete: called with the run folder after each epoch.
    """

    def __init__(self, complete: Callable[[RunFolder], None] | None = None) -> None:
        super().__init__()
        self.complete = complete

    def start(self, session: Session, folder: RunFolder) -> None:
        """Print the run, its schedule and the columns of its events, and open the bar."""
        self.preparing.end()
        self.folder = folder
        train, settings = session.config.train, session.settings
        self.epochs, self.events = train.epochs, session.training_events
        iterations = -(-self.events // session.size)
        history = f"{session.stream.start:,} of them history, " if session.stream.start else ""
        console.print(
            f"Training {session.config.model.model} on {session.stream.name} "
            f"({len(session.stream):,} events, {history}{session.stream.num_nodes:,} nodes)"
        )
        console.print(f"Run folder: {folder.path}")
        console.print(
            f"Each epoch: {iterations:,} iteration{'' if iterations == 1 else 's'}, "
            + ("resident" if settings.resident else f"schedule {settings.schedule}")
            + ("" if session.ranks.alone else f", {session.ranks.count} ranks")
            + f", {'with' if session.config.model.pair_features else 'without'} features of pairs"
        )
        console.print(f"Training loss: {loss_line(train, session.negatives.destinations.numel())}")
        if session.stream.source is not None and session.stream.source.reading:
            console.print(session.stream.source.reading)
        self.open_epoch(1)

    def open_epoch(self, epoch: int) -> None:
        """Show the bar of training at the start of an epoch."""
        self.current, self.seen, self.sum = epoch, 0, 0.0
        before, total = (epoch - 1) * self.events, self.epochs * self.events
        self.open(f"epoch {epoch}/{self.epochs}", self.events, before=before, total=total)

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Advance the bar."""
        if epoch != self.current:  # the run is resumed
            self.open_epoch(epoch)
        self.seen, self.sum = self.seen + events, self.sum + events * loss
        self.advance(events, f", loss {self.sum / self.seen:.4f}")

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Print the line of a finished epoch, and return to the bar of training."""
        if metrics["epoch"] < self.epochs:
            self.open_epoch(metrics["epoch"] + 1)
        console.print(
            f"epoch {metrics['epoch']}/{self.epochs}: training loss {metrics['loss']:.4f}, val AP "
            f"{metrics['val']['ap']:.4f}, {metrics['events_per_s']:,.0f} events/s, {metrics['seconds']:.1f} s"
        )
        if metrics["compile_seconds"] >= 0.1:
            console.print(f"  and {metrics['compile_seconds']:.1f} s to compile loops")
        if self.complete is not None:
            self.complete(self.folder)

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        preparing = self.preparing.end()
        console.print(message)
        if preparing:
            self.preparing.begin()


def loss_line(train: TrainConfig, destinations: int) -> str:
    """Say what the training loss is, and its value for a model that guesses.

    Args:
        destinations: those that negatives are drawn from.
    """
    kind = "a random" if train.negative_kind == "random" else "a historical"
    if train.train_negatives > 1:
        kind = f"{train.train_negatives} {train.negative_kind}"
    plural = "" if train.train_negatives == 1 else "s"
    if train.loss == "softmax":
        start, guess = f"softmax of an event among {kind} negative{plural}, weighted", log(destinations)
    else:  # ln 2 for the event, and ln 2 for the mean of its negatives
        start, guess = f"cross-entropy of an event plus {kind} negative{plural}", 2 * log(2)
    return f"{start},\n  {guess:.3f} for a model that guesses"
