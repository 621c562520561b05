"""What the commands show: progress while training, and the tables they close with. All of it goes to stderr."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.trainer import Observer

console = Console(stderr=True, highlight=False)
_REFRESH_SECONDS = 0.1


class TrainingScreen(Observer):
    """A progress bar over all epochs with events per second, loss and remaining time, and a line an epoch."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} events/s"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self.pending, self.since = 0, 0.0

    def start(self, session: Session, folder: RunFolder) -> None:
        """Name the run and the way that it is carried out, and open the bar."""
        train, events, settings = session.config.train, session.split.train_end, session.settings
        console.print(
            f"Training {session.config.model.model} on {session.stream.name} "
            f"({len(session.stream):,} events, {session.stream.num_nodes:,} nodes) in {folder.path}, "
            + ("resident" if settings.resident else f"schedule {settings.schedule}")
        )
        self.epochs, self.since = train.epochs, time.perf_counter()
        self.task = self.progress.add_task(
            "train", total=train.epochs * events, epoch=f"1/{train.epochs}", rate=0, loss=0
        )
        if console.is_terminal:
            self.progress.start()

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Move the bar on, at most ten times a second."""
        self.pending += events
        elapsed = time.perf_counter() - self.since
        if elapsed > _REFRESH_SECONDS:
            rate, label = self.pending / elapsed, f"{epoch}/{self.epochs}"
            self.progress.update(self.task, advance=self.pending, epoch=label, rate=rate, loss=loss)
            self.progress.refresh()
            self.pending, self.since = 0, time.perf_counter()

    def epoch(self, metrics: dict[str, Any]) -> None:
        """A line for a finished epoch."""
        compiled = f", compiling {metrics['compile_seconds']:.1f} s" if metrics["compile_seconds"] >= 0.1 else ""
        console.print(
            f"epoch {metrics['epoch']}/{self.epochs}: loss {metrics['loss']:.4f}, val AP {metrics['val']['ap']:.4f}, "
            f"{metrics['events_per_s']:,.0f} events/s, {metrics['seconds']:.1f} s{compiled}"
        )
        self.since = time.perf_counter()

    def note(self, message: str) -> None:
        """A line of its own."""
        console.print(message)

    def close(self) -> None:
        """Take the bar off the screen, if it is there."""
        if self.progress.live.is_started:
            self.progress.stop()


def result_table(result: dict[str, Any]) -> Table:
    """The closing table of `train`: quality by split, and speed in the caption."""
    table = Table(
        title=f"{result['model']} on {result['dataset']}, best epoch {result['best_epoch']} of {result['epochs']}",
        caption=f"{result['train_events_per_s']:,.0f} training events/s in the fastest epoch, {_schedule(result)}\n"
        f"peak memory {result['peak_rss_mb']:,.0f} MiB, compiling {result['compile_seconds']:.1f} s, "
        f"evaluation {result['evaluation_seconds']:.1f} s",
    )
    return _with_splits(table, {split: result[split] for split in ("val", "test")}, result["negatives"])


def split_table(split: str, metrics: dict[str, Any], negatives: int, run: str) -> Table:
    """The table of `evaluate`."""
    return _with_splits(Table(title=f"{run}, best epoch"), {split: metrics}, negatives)


def facts_table(title: str, facts: dict[str, Any]) -> Table:
    """Names and values, one a row; None has no row."""
    table = Table(title=title, show_header=False)
    for name, value in facts.items():
        if value is not None:
            table.add_row(name.replace("_", " "), _shown(value))
    return table


def plan_table(plan: Plan) -> Table:
    """The table of `plan`: its stages and how busy their resources are, and in the caption what it costs and gains."""

    def shown(value: Fraction) -> str:
        return _shown(float(value))

    misses = {0: "no update", 1: "the last update"}.get(plan.staleness, f"the last {plan.staleness} updates")
    after = ", which the patch lays over it" if plan.schedule == "exact" and plan.staleness else ""
    table = Table(
        title=f"{plan.schedule}: an iteration every {shown(plan.period)}, staleness {plan.staleness}",
        caption=f"no schedule of these stages is faster than one every {shown(plan.lower_bound)}\n"
        f"the memory fetch may miss {misses}{after};\nit starts {shown(plan.slack)} later than it could",
    )
    for name in ("stage", "resource", "time", "start", "resource in use"):
        table.add_column(name, justify="left" if name in ("stage", "resource") else "right")
    told = set()
    for stage in plan.graph.stages:
        use = "" if stage.resource in told else f"{float(plan.utilisation[stage.resource]):.0%}"
        told.add(stage.resource)
        times = (plan.graph.times[stage.name], plan.starts[stage.name])
        table.add_row(stage.name, stage.resource, *map(shown, times), use)
    return table


def _schedule(result: dict[str, Any]) -> str:
    """The schedule, and how many updates training missed at most where it missed any."""
    missed = max(map(int, result["staleness_measured"]))
    return f"schedule {result['schedule']}" + (f", up to {missed} missed" if missed else "")


def _with_splits(table: Table, splits: dict[str, dict[str, Any]], negatives: int) -> Table:
    for name in ("", "AP", "AP, mean over batches", "AUC", f"MRR of {negatives + 1}"):
        table.add_column(name, justify="left" if not name else "right")
    for split, metrics in splits.items():
        rows = {split: metrics}
        if "inductive" in metrics:
            rows[f"{split}, unseen ({metrics['inductive']['events']:,})"] = metrics["inductive"]
        if "node" in metrics:
            rows[f"{split}, labels ({metrics['node']['positives']:,})"] = metrics["node"]
        if "edgebank" in metrics:
            rows[f"{split}, EdgeBank"] = metrics["edgebank"]
        for label, row in rows.items():
            values = (row.get(name) for name in ("ap", "ap_batch_mean", "auc", "mrr"))
            table.add_row(label, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
