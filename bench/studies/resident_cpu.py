"""Resident training on the CPU: losses of an epoch against the serial run's in float64, and the speed of both."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.settings import process_settings
from mspipe_triton.training.way import Way, carry_out

console = Console(stderr=True, highlight=False)
WAYS: dict[str, dict[str, Any]] = {"serial": {"schedule": "serial"}, "resident": {"placement": "device"}}


def main(
    data: Annotated[list[str], typer.Option(help="CSV or Parquet files.")],
    model: Annotated[list[str] | None, typer.Option(help="Model to run; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(help="Epochs of each way in float32, after a warm-up epoch.")] = 5,
    threads: int = 2,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Run an epoch of each model in float64, then float32 epochs in turn; ratios are medians of neighbouring epochs."""
    torch.set_num_threads(threads)
    report: dict[str, Any] = {**header(command("bench.studies.resident_cpu"), threads), "streams": {}}
    for path in data:
        stream = load_stream(DataConfig(path=path))
        models = report["streams"].setdefault(stream.name, {})
        for name in model or ("tgn", "jodie", "apan"):
            models[name] = {**_equality(stream, name, threads), **_speed(stream, name, threads, repeats)}
            console.print(stream.name, name, models[name])
    show(report, out)


def _config(name: str, way: str, threads: int, dtype: str) -> RunConfig:
    return RunConfig(model=ModelConfig(name, dtype=dtype), train=TrainConfig(threads=threads, **WAYS[way]))


def _run(config: RunConfig, stream: EventStream) -> Way:
    return carry_out(Session.create(config, stream))


def _equality(stream: EventStream, name: str, threads: int) -> dict[str, float]:
    """Largest relative difference between the two losses of a batch, over one epoch in float64, in units of 1e-15."""
    losses: dict[str, list[float]] = {}
    for way in WAYS:
        config = _config(name, way, threads, "float64")
        with process_settings(config):
            losses[way] = _run(config, stream).train_epoch(1).losses.tolist()
    pairs = list(zip(losses["resident"], losses["serial"], strict=True))
    return {"iterations": len(pairs), "loss_difference_1e15": 1e15 * max(abs(a - b) / abs(b) for a, b in pairs)}


def _speed(stream: EventStream, name: str, threads: int, repeats: int) -> dict[str, Any]:
    """Events/s of both ways in float32, and the ratio of resident to serial."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    configs = {way: _config(name, way, threads, "float32") for way in WAYS}
    with process_settings(configs["serial"]):
        runs = {way: _run(config, stream) for way, config in configs.items()}
        for epoch in range(1, repeats + 2):
            for way, run in runs.items():
                compiling = compile_seconds()
                metrics = run.train(epoch)
                assert epoch == 1 or compile_seconds() == compiling
                if epoch > 1:
                    rates[way].append(metrics["events_per_s"])
    ratios = [a / b for a, b in zip(rates["resident"], rates["serial"], strict=True)]
    return {
        "events_per_s": {way: statistics.median(values) for way, values in rates.items()},
        "ratio": statistics.median(ratios),
    }


if __name__ == "__main__":
    typer.run(main)
