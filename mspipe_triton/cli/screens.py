"""Output of the commands on stderr: progress during training, and tables of results."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mspipe_triton.cli.console import console, format_value
from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import silent

_REFRESH_SECONDS = 0.1


class EvaluationScreen:
    """A progress bar over the events of an evaluation, with events per second and remaining time.

    There is a bar only on a terminal, and it advances at most ten times per second.
    """

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self.task: TaskID | None = None
        self.count, self.pending, self.since = 0, 0, 0.0

    def evaluation(self, split: str, events: int, total: int) -> None:
        """Advance the bar of a split, or open it at its first batch, whose seconds are not known."""
        if self.count == 0:
            self.open(split, total, events)
        else:
            self.advance(events)
        self.count = (self.count + events) % total

    def open(self, description: str, total: int, completed: int = 0) -> None:
        """Show a bar instead of the present one."""
        if not console.is_terminal:
            return
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(description, total=total, completed=completed, facts="")
        self.progress.start()
        self.pending, self.since = 0, time.perf_counter()

    def advance(self, events: int, facts: str = "") -> None:
        """Advance the bar by `events`, and show `facts` behind their number per second."""
        if self.task is None:
            return
        self.pending += events
        elapsed = time.perf_counter() - self.since
        if elapsed > _REFRESH_SECONDS:
            facts = f"{self.pending / elapsed:,.0f} events/s{facts}"
            self.progress.update(self.task, advance=self.pending, facts=facts)
            self.progress.refresh()
            self.pending, self.since = 0, time.perf_counter()

    def close(self) -> None:
        """Remove the bar from the screen, if it is there."""
        if self.progress.live.is_started:
            self.progress.stop()


class TrainingScreen(EvaluationScreen, Observer):
    """A progress bar over all epochs with the loss as well, one over each evaluation, and one line per epoch.

    Args:
        complete: called with the run folder after each epoch.
    """

    def __init__(self, complete: Callable[[RunFolder], None] = silent) -> None:
        super().__init__()
        self.complete = complete

    def start(self, session: Session, folder: RunFolder) -> None:
        """Print the run, its schedule and the columns of its events, and open the bar."""
        self.folder = folder
        train, settings = session.config.train, session.settings
        self.epochs, self.events = train.epochs, session.training_events
        iterations = -(-self.events // session.size)
        history = f"{session.stream.start:,} of them history, " if session.stream.start else ""
        console.print(
            f"Training {session.config.model.model} on {session.stream.name} "
            f"({len(session.stream):,} events, {history}{session.stream.num_nodes:,} nodes) in {folder.path}, "
            f"{iterations:,} iteration{'' if iterations == 1 else 's'} per epoch, "
            + ("resident" if settings.resident else f"schedule {settings.schedule}")
            + ("" if session.ranks.alone else f", {session.ranks.count} ranks")
        )
        console.print(
            f"Loss {train.loss} with {train.train_negatives} {train.negative_kind} "
            f"negative{'' if train.train_negatives == 1 else 's'} per event, "
            f"{'with' if session.config.model.pair_features else 'without'} features of pairs"
        )
        if session.stream.source is not None and session.stream.source.reading:
            console.print(session.stream.source.reading)
        self.open_epoch(1)

    def open_epoch(self, epoch: int) -> None:
        """Show the bar of training at the start of an epoch."""
        self.current = epoch
        self.open(f"epoch {epoch}/{self.epochs}", self.epochs * self.events, (epoch - 1) * self.events)

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Advance the bar."""
        if epoch != self.current:  # the run is resumed
            self.open_epoch(epoch)
        self.advance(events, f" loss {loss:.4f}")

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Print the line of a finished epoch, and return to the bar of training."""
        if metrics["epoch"] < self.epochs:
            self.open_epoch(metrics["epoch"] + 1)
        compiling = f", compiling {metrics['compile_seconds']:.1f} s" if metrics["compile_seconds"] >= 0.1 else ""
        console.print(
            f"epoch {metrics['epoch']}/{self.epochs}: loss {metrics['loss']:.4f}, val AP {metrics['val']['ap']:.4f}, "
            f"{metrics['events_per_s']:,.0f} events/s, {metrics['seconds']:.1f} s{compiling}"
        )
        self.complete(self.folder)

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        console.print(message)


def result_table(result: dict[str, Any]) -> Table:
    """Table of results at the end of `train`: scores by split, and speed in the caption."""
    ranks = f", {result['ranks']} ranks" if result.get("ranks", 1) > 1 else ""
    speed = f"{result['train_events_per_s']:,.0f} training events/s in the fastest epoch"
    table = Table(
        title=f"{result['model']} on {result['dataset']}, best epoch {result['best_epoch']} of {result['epochs']}",
        caption=f"{speed}, {_schedule(result)}{ranks}\n"
        f"peak memory {result['peak_rss_mb']:,.0f} MiB, compiling {result['compile_seconds']:.1f} s, "
        f"evaluation {result['evaluation_seconds']:.1f} s",
    )
    if "origin" in result["test"]:
        table.caption = f"{_origin(result['test'])}\n{table.caption}"
    return _with_splits(table, {split: result[split] for split in ("val", "test")})


def split_table(split: str, metrics: dict[str, Any], run: str) -> Table:
    """Table of `evaluate`."""
    caption = _origin(metrics) if "origin" in metrics else None
    return _with_splits(Table(title=f"{run}, best epoch", caption=caption), {split: metrics})


def _origin(metrics: dict[str, Any]) -> str:
    return f"candidates of the MRR: {metrics['origin']}"


def plan_table(plan: Plan) -> Table:
    """Table of `plan`: stages and the use of their resources, and staleness and bounds in the title and caption."""

    def number(value: Fraction) -> str:
        return format_value(float(value))

    misses = {0: "no update", 1: "the last update"}.get(plan.staleness, f"the last {plan.staleness} updates")
    patch = ", which the patch adds afterwards" if plan.schedule == "exact" and plan.staleness else ""
    table = Table(
        title=f"{plan.schedule}: an iteration every {number(plan.period)}, staleness {plan.staleness}",
        caption=f"no schedule of these stages is faster than one iteration every {number(plan.lower_bound)}\n"
        f"the memory fetch may miss {misses}{patch};\nit starts {number(plan.slack)} later than it could",
    )
    for name in ("stage", "resource", "time", "start", "resource in use"):
        table.add_column(name, justify="left" if name in ("stage", "resource") else "right")
    resources = set()
    for stage in plan.graph.stages:
        use = "" if stage.resource in resources else f"{float(plan.utilisation[stage.resource]):.0%}"
        resources.add(stage.resource)
        times = (plan.graph.times[stage.name], plan.starts[stage.name])
        table.add_row(stage.name, stage.resource, *map(number, times), use)
    return table


def _schedule(result: dict[str, Any]) -> str:
    """The schedule, and the most updates that training missed, if any."""
    misses = max(map(int, result["staleness_measured"]))
    return f"schedule {result['schedule']}" + (f", up to {misses} updates missed" if misses else "")


def _with_splits(table: Table, splits: dict[str, dict[str, Any]]) -> Table:
    candidates = max(metrics["candidates"] for metrics in splits.values())
    for name in ("", "AP", "AP, mean over batches", "AUC", f"MRR of {candidates + 1:,}"):
        table.add_column(name, justify="left" if not name else "right")
    for split, metrics in splits.items():
        rows = {split: metrics}
        if "streaming" in metrics:
            rows[f"{split}, streaming"] = metrics["streaming"]
        if "inductive" in metrics and metrics["inductive"]["events"]:
            rows[f"{split}, unseen ({metrics['inductive']['events']:,})"] = metrics["inductive"]
        if "node" in metrics:
            rows[f"{split}, labels ({metrics['node']['positives']:,})"] = metrics["node"]
        baselines = {label: metrics[name] for name, label in NAMES.items() if name in metrics}
        if baselines:
            rows |= {f"baselines on {split}": {}, **baselines}
        for label, row in rows.items():
            values = (row.get(name) for name in ("ap", "ap_batch_mean", "auc", "mrr"))
            table.add_row(label, *("" if value is None else f"{value:.4f}" for value in values))
    return table
