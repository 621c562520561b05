"""Cost and savings of tables in bfloat16: test AP of both precisions, seed by seed, and the bytes of their tables."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.trainer import train

console = Console(stderr=True, highlight=False)
PRECISIONS = ("full", "bf16")


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")] = "synthetic",
    edge_features: Annotated[int, typer.Option(help="Width of edge features in `synthetic`.")] = 0,
    epochs: int = 3,
    seeds: Annotated[int, typer.Option(help="Seeds from 0 on, at least 2, each trained at both precisions.")] = 5,
    model: str = "tgn",
    batch_size: int = 600,
    threads: int = 2,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train both precisions in turn, untuned, serially and deterministically, so that all bits are reproducible."""
    torch.set_num_threads(threads)
    synthetic = SyntheticConfig(edge_features=edge_features)
    stream = synthetic_stream(synthetic) if data == "synthetic" else load_stream(DataConfig(path=data))
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "threads": threads, "device": "cpu"}
    settings |= {"schedule": "serial", "deterministic": True, "negatives": 1}
    runs: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(seeds):
        for precision in PRECISIONS:
            config = RunConfig(model=ModelConfig(model, precision=precision), train=TrainConfig(seed=seed, **settings))
            with tempfile.TemporaryDirectory() as folder:
                result = train(config, stream, out=f"{folder}/run")
            runs[precision].append({"ap": result["test"]["ap"], "losses": result["losses"]})
            console.print(f"{stream.name}, seed {seed}, {precision}: test AP {result['test']['ap']:.4f}")
    report = {
        **header(command("bench.studies.precision"), threads),
        "stream": {"name": stream.name, "events": len(stream), "nodes": stream.num_nodes, "dim_edge": stream.dim_edge},
        "settings": {"model": model, **settings},
        **{precision: _summary(rows, table_mib(stream, model, precision)) for precision, rows in runs.items()},
        "bf16_minus_full": difference(*([run["ap"] for run in runs[precision]] for precision in PRECISIONS)),
    }
    show(report, out)


def difference(full: list[float], bf16: list[float]) -> dict[str, Any]:
    """Gain in AP by bf16, in points (hundredths).

    `points` of each seed, their `mean`, its `standard_error`, and `at_most`: the mean's size plus two standard errors.
    """
    points = [100 * (ours - theirs) for theirs, ours in zip(full, bf16, strict=True)]
    mean, error = statistics.mean(points), statistics.stdev(points) / math.sqrt(len(points))
    return {"points": points, "mean": mean, "standard_error": error, "at_most": abs(mean) + 2 * error}


def table_mib(stream: EventStream, model: str, precision: str) -> dict[str, float]:
    """MiB of each table of a run, including times and ids, and of all together."""
    config = RunConfig(model=ModelConfig(model, precision=precision), train=TrainConfig(batch_size=1, device="cpu"))
    session = Session.create(config, stream)
    features = {"edge_features": session.stream.edge_features, "node_features": session.stream.node_features}
    tables = {**session.state.tables, **{name: table for name, table in features.items() if table is not None}}
    mib = {name: table.numel() * table.element_size() / 2**20 for name, table in tables.items()}
    return {**mib, "all": sum(mib.values())}


def _summary(runs: list[dict[str, Any]], mib: dict[str, float]) -> dict[str, Any]:
    return {"ap": statistics.mean(run["ap"] for run in runs), "mib": mib, "seeds": runs}


if __name__ == "__main__":
    typer.run(main)
