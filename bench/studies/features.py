"""Effect of an edge feature's scale on test AP: no feature, the raw column and the scaled one, seed by seed."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.scaling import Scaling
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.training.trainer import train

console = Console(stderr=True, highlight=False)
VARIANTS = ("none", "raw", "scaled")
# Columns that say nothing about the events, so a sound scale costs no accuracy. Times are those of the events.
COLUMNS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "amount": lambda random, t: random.lognormal(3, 2, t.size),
    "cents": lambda random, t: np.round(100 * random.lognormal(3, 2, t.size)),
    "signed": lambda random, t: random.choice([-1, 1], t.size) * random.lognormal(3, 3, t.size),
    "pareto": lambda random, t: random.pareto(0.7, t.size),
    "shifted": lambda random, t: 1e6 + random.lognormal(0, 2, t.size),
    "unix": lambda random, t: 1.6e9 + t,
    "growing": lambda random, t: np.exp(10 * t / t.max()) * random.lognormal(0, 1, t.size),
}


def main(
    columns: Annotated[str, typer.Option(help="Columns to train on, comma-separated.")] = ",".join(COLUMNS),
    events: int = 60_000,
    epochs: int = 2,
    seeds: Annotated[int, typer.Option(help="Seeds from 0 on.")] = 5,
    dim: int = 32,
    batch_size: int = 600,
    threads: int = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train TGN without features, on each raw column and each scaled one, untuned, serially and deterministically."""
    torch.set_num_threads(threads)
    stream = synthetic_stream(SyntheticConfig(events=events))
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "threads": threads, "device": "cpu"}
    settings |= {"schedule": "serial", "deterministic": True, "negatives": 1}

    def scores(name: str, events: EventStream) -> dict[str, Any]:
        ap = []
        for seed in range(seeds):
            config = RunConfig(
                model=ModelConfig("tgn", dim=dim, pair_features=False), train=TrainConfig(seed=seed, **settings)
            )
            with tempfile.TemporaryDirectory() as folder:
                ap.append(train(config, events, out=f"{folder}/run")["test"]["ap"])
            console.print(f"{name}, seed {seed}: test AP {ap[-1]:.4f}")
        return {"ap": statistics.mean(ap), "seeds": ap}

    without = scores("none", stream)
    report = {
        **header(command("bench.studies.features"), threads),
        "stream": {"name": stream.name, "events": events, "nodes": stream.num_nodes},
        "settings": {"model": "tgn", "dim": dim, **settings},
        "none": without,
        "columns": {
            name: compared(without, *(scores(f"{name}, {kind}", each) for kind, each in variants(stream, name).items()))
            for name in columns.split(",")
        },
    }
    show(report, out)


def variants(stream: EventStream, column: str) -> dict[str, EventStream]:
    """Return the stream with a raw and with a scaled column."""
    values = torch.from_numpy(COLUMNS[column](np.random.default_rng(1), stream.t.numpy().astype(np.float64)))[:, None]
    scaled = Scaling.fit(values, stream.split().train_end).apply(values)
    return {"raw": replace(stream, edge_features=values), "scaled": replace(stream, edge_features=scaled)}


def compared(without: dict[str, Any], raw: dict[str, Any], scaled: dict[str, Any]) -> dict[str, Any]:
    """Scores of a column, and the points (hundredths of AP) that it gains over no features, mean over the seeds."""
    points = {
        f"{name}_minus_none": 100 * (each["ap"] - without["ap"]) for name, each in (("raw", raw), ("scaled", scaled))
    }
    return {"raw": raw, "scaled": scaled, **points}


if __name__ == "__main__":
    typer.run(main)
