"""Costs and gains of every schedule on a stream: events/s, AP, MRR, loss curve and staleness, in one run."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.report import command, header, show
from mspipe_triton.config import DataConfig, RunConfig, TrainConfig
from mspipe_triton.data.source import load_stream
from mspipe_triton.training.trainer import Observer, train

console = Console(stderr=True, highlight=False)
PAIRED = ("serial", "mspipe")
VARIANTS: dict[str, dict[str, Any]] = {
    "serial": {"schedule": "serial"},
    "prefetch": {"schedule": "prefetch"},
    "mspipe": {"schedule": "mspipe"},
    "mspipe, similarity": {"schedule": "mspipe", "mitigation": "similarity"},
    "fixed 1": {"schedule": "fixed", "staleness": 1},
    "fixed 2": {"schedule": "fixed", "staleness": 2},
    "fixed 4": {"schedule": "fixed", "staleness": 4},
    "fixed 8": {"schedule": "fixed", "staleness": 8},
    "exact": {"schedule": "exact"},
}
_POINTS = 20


class Curve(Observer):
    """Observer that keeps the loss of every iteration."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Keep the loss."""
        self.losses.append(loss)

    def points(self, epochs: int) -> list[float]:
        """Mean losses of equal parts, `_POINTS` per epoch."""
        parts = torch.tensor(self.losses).tensor_split(epochs * _POINTS)
        return [part.mean().item() for part in parts if part.numel()]


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")] = "synthetic",
    epochs: int = 3,
    seeds: Annotated[int, typer.Option(help="Seeds of serial and mspipe, whose AP is compared in pairs.")] = 5,
    others: Annotated[int, typer.Option(help="Seeds of the other schedules.")] = 2,
    batch_size: int = 600,
    threads: int = 2,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train under every schedule, seed by seed in turn, so that all schedules share the machine's changes in speed."""
    torch.set_num_threads(threads)
    stream = load_stream(DataConfig(path=data))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        warm = RunConfig(train=TrainConfig(epochs=1, batch_size=batch_size, threads=threads, negatives=1, device="cpu"))
        train(warm, stream, out=f"{folder}/warm")
        for seed in range(max(seeds, others)):
            for name, settings in VARIANTS.items():
                if seed >= (seeds if name in PAIRED else others):
                    continue
                config = TrainConfig(
                    epochs=epochs, batch_size=batch_size, seed=seed, threads=threads, device="cpu", **settings
                )
                curve = Curve()
                result = train(RunConfig(train=config), stream, out=f"{folder}/{name}-{seed}", observer=curve)
                runs[name].append(_summary(result, curve.points(epochs)))
                _print_run(name, seed, runs[name][-1])
    report = {
        **header(command("bench.studies.ablation"), threads),
        "stream": {"name": stream.name, "events": len(stream), "epochs": epochs, "batch_size": batch_size},
        "schedules": {name: _row(runs, name) for name in VARIANTS},
    }
    console.print(_table(report))
    show(report, out)


def _summary(result: dict[str, Any], curve: list[float]) -> dict[str, Any]:
    names = ("train_events_per_s", "stage_seconds", "plan", "staleness_measured", "losses", "best_epoch")
    counts = {int(missed): n for missed, n in result["staleness_measured"].items()}
    return {
        **{name: result[name] for name in names},
        "test": {name: result["test"][name] for name in ("ap", "auc", "mrr")},
        "mean_staleness": sum(missed * n for missed, n in counts.items()) / sum(counts.values()),
        "curve": curve,
    }


def _row(runs: dict[str, list[dict[str, Any]]], name: str) -> dict[str, Any]:
    """A schedule's medians over its seeds, and its differences from serial, seed by seed."""
    repeats = runs[name]
    pairs = list(zip(repeats, runs["serial"], strict=False))
    gaps = [serial["test"]["ap"] - run["test"]["ap"] for run, serial in pairs]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return {
        "seeds": len(repeats),
        "events_per_s": statistics.median(run["train_events_per_s"] for run in repeats),
        "speed_ratio": statistics.median(a["train_events_per_s"] / b["train_events_per_s"] for a, b in pairs),
        "ap": statistics.mean(run["test"]["ap"] for run in repeats),
        "mrr": statistics.mean(run["test"]["mrr"] for run in repeats),
        "loss": statistics.mean(run["losses"][-1] for run in repeats),
        "mean_staleness": statistics.mean(run["mean_staleness"] for run in repeats),
        "planned_staleness": max(run["plan"]["staleness"] for run in repeats),
        "ap_points_lost": 100 * statistics.mean(gaps),
        "ap_points_lost_at_most": 100 * (statistics.mean(gaps) + 2 * error),
        "memory_ms": 1e3 * statistics.median(run["stage_seconds"]["memory"] for run in repeats),
        "same_losses_as_serial": all(a["losses"] == b["losses"] for a, b in pairs),
        "runs": repeats,
    }


def _print_run(name: str, seed: int, run: dict[str, Any]) -> None:
    console.print(
        f"seed {seed}, {name}: {run['train_events_per_s']:,.0f} events/s, test AP {run['test']['ap']:.4f}, "
        f"staleness {run['mean_staleness']:.2f}"
    )


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report['stream']['name']}, {report['stream']['epochs']} epochs")
    columns = ("schedule", "seeds", "events/s", "× serial", "AP", "points lost", "MRR", "loss", "staleness", "equal")
    for column in columns:
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for name, row in report["schedules"].items():
        table.add_row(
            name, str(row["seeds"]), f"{row['events_per_s']:,.0f}", f"{row['speed_ratio']:.2f}", f"{row['ap']:.4f}",
            f"{row['ap_points_lost']:+.2f}", f"{row['mrr']:.4f}", f"{row['loss']:.4f}", f"{row['mean_staleness']:.2f}",
            "yes" if row["same_losses_as_serial"] else "no",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    typer.run(main)
