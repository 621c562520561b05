"""Speed of the schedules on the CPU, epoch by epoch in turn, so that all share the machine's changes in speed."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.config import DataConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.settings import process_settings
from mspipe_triton.training.staged import Staged

console = Console(stderr=True, highlight=False)
SCHEDULES = ("serial", "prefetch", "mspipe", "exact")


def main(
    data: Annotated[list[str], typer.Option(help="CSV or Parquet files.")],
    threads: Annotated[list[int], typer.Option(help="Number of training threads; may be repeated.")],
    repeats: Annotated[int, typer.Option(help="Epochs of each schedule, after a warm-up epoch.")] = 9,
    events: Annotated[int, typer.Option(help="Events per epoch, from the stream's start.")] = 24_000,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure; ratios are medians over pairs of neighbouring epochs."""
    report: dict[str, Any] = {**header(command("bench.studies.schedule_speed")), "events": events, "repeats": repeats}
    for path in data:
        stream = load_stream(DataConfig(path=path))
        report[stream.name] = {f"threads{count}": _measure(stream, count, repeats, events) for count in threads}
    show(report, out)


def _measure(stream: EventStream, threads: int, repeats: int, events: int) -> dict[str, Any]:
    """Events/s of every schedule, seconds of its stages, and its speed relative to serial's neighbouring epoch."""
    configs = {name: RunConfig(train=TrainConfig(schedule=name, threads=threads)) for name in SCHEDULES}
    rates: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    times = {name: StageTimes() for name in SCHEDULES}
    with process_settings(configs["serial"]):
        runs = {name: Staged(Session.create(config, stream)) for name, config in configs.items()}
        for epoch in range(repeats + 1):
            for name, run in runs.items():
                stage_times = times[name] if epoch else StageTimes()
                rate = _epoch(run, epoch, events, stage_times)
                if epoch:
                    rates[name].append(rate)
                console.print(f"{stream.name}, {threads} threads, epoch {epoch}, {name}: {rate:,.0f} events/s")
    return {
        name: {
            "events_per_s": statistics.median(rates[name]),
            "speed_ratio": statistics.median(a / b for a, b in zip(rates[name], rates["serial"], strict=True)),
            "stage_seconds": times[name].per_iteration(),
        }
        for name in SCHEDULES
    }


def _epoch(run: Staged, epoch: int, events: int, times: StageTimes) -> float:
    run.session.state.reset()
    run.session.model.train()
    stop = min(events, run.session.split.train_end)
    items = run.training_batches(epoch, stop)
    start, compiling = time.perf_counter(), compile_seconds()
    for _ in run.run(items, epoch, times):
        pass
    return stop / (time.perf_counter() - start - (compile_seconds() - compiling))


if __name__ == "__main__":
    typer.run(main)
