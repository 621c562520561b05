"""Service in use: latency and throughput over HTTP, under load, through kills, and its memory over many events.

`python -m bench.serving --data wiki.csv --out bench/results/serving-wiki.json` trains TGN with default settings, and
starts a server for each part, which clients in this process use.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.predictor.__main__ import Events
from bench.report import command, header, show
from bench.serving.calls import measure_latency, measure_throughput
from bench.serving.load import measure_kills, measure_load
from bench.serving.memory import measure_memory
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.training.trainer import train

PARTS = ("load", "latency", "throughput", "kills", "memory")


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, whose events have no features.")],
    out: Annotated[Path | None, typer.Option(help="JSON report to write.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Parts to measure, of {', '.join(PARTS)}.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    seconds: Annotated[float, typer.Option(help="Seconds of load, for each mode of ranking.")] = 60.0,
    calls: Annotated[int, typer.Option(help="Calls of each endpoint that are timed.")] = 1000,
    kills: Annotated[int, typer.Option(help="Times that the server is killed.")] = 20,
    further: Annotated[int, typer.Option(help="Further events, for the memory.")] = 1_000_000,
) -> None:
    """Train, and measure the service."""
    if only and not set(only) <= set(PARTS):
        raise typer.BadParameter(f"--only takes {', '.join(PARTS)}")
    settings = DataConfig(path=data)
    stream = load_stream(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = RunConfig(settings, ModelConfig("tgn"), TrainConfig(epochs=epochs, device="cpu"))
        train(config, stream, out=str(run))
        gc.collect()
        gc.freeze()  # pauses of this process would count as the server's
        report = {
            **header(command("bench.serving"), threads=1),
            "stream": stream.name, "events": len(stream), "model": "tgn", "epochs": epochs,
            **measured(run, stream, only or PARTS, seconds, calls, kills, further),
        }  # fmt: skip
    show(report, out)


def measured(
    run: Path, stream: EventStream, parts: Any, seconds: float, calls: int, kills: int, further: int
) -> dict[str, Any]:
    """Measure parts of a service on a run, each with a fresh state."""
    if stream.edge_features is not None:
        raise ConfigError(f"{stream.name} has edge features, and the clients send none; name a stream without")
    events = Events.of(stream)
    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder)
        measures = {
            "load": lambda: [measure_load(run, states / mode, events, mode, seconds) for mode in ("exact", "cached")],
            "latency": lambda: measure_latency(run, states / "latency", events, calls),
            "throughput": lambda: measure_throughput(run, states / "throughput", events, seconds / 40),
            "kills": lambda: measure_kills(run, states / "kills", events, kills),
            "memory": lambda: measure_memory(run, states / "memory", events, further),
        }
        return {name: measure() for name, measure in measures.items() if name in parts}


if __name__ == "__main__":
    typer.run(main)
