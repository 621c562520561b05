"""Time encoders by the unit of their fastest frequency: test AP, seed by seed, and the effect of the stream's unit.

`python -m bench.studies.time_unit --data wiki.csv --out FILE.json` stores every run in FILE.jsonl until all are done;
after an interruption it continues there.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console

from bench.report import checkout, command, header, show
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.training.trainer import train

console = Console(stderr=True, highlight=False)
DECADES = 9.0
# resolution: the package's encoder. nine: the same with nine decades. unit: from 1 rad per unit of the input. span:
# from the package's fastest frequency down to 1 rad in the training span. node-gaps: from 1 rad in the 1 % quantile of
# a node's gaps; node-gaps-fine: 0.1 %.
ENCODERS = ("resolution", "nine", "unit", "span", "node-gaps", "node-gaps-fine")
UNITS = {"seconds": 1, "days": 86_400, "years": 365 * 86_400}


@dataclass(frozen=True)
class Encoder:
    """Frequencies from 1 rad per `gap` in the stream's unit, over `decades`."""

    gap: float
    decades: float

    @staticmethod
    def of(name: str, stream: EventStream) -> Encoder:
        """Compute an encoder of ENCODERS on the training events."""
        stop = stream.split().train_end
        ours = TimeScale.of(stream.t, stop)
        gap = ours.gap
        span = (stream.t[stop - 1] - stream.t[0]).item()
        encoders = {
            "resolution": Encoder(gap, ours.decades), "nine": Encoder(gap, DECADES), "unit": Encoder(1.0, DECADES),
            "span": Encoder(gap, math.log10(span / gap)), "node-gaps": Encoder(node_gap(stream, stop, 0.01), DECADES),
            "node-gaps-fine": Encoder(node_gap(stream, stop, 0.001), DECADES),
        }  # fmt: skip
        return encoders[name]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Train with this encoder instead of the package's."""

        def scale(t: torch.Tensor, train_end: int) -> TimeScale:
            return TimeScale(t[0].item(), self.gap, self.decades)

        with patch.object(TimeScale, "of", scale):
            yield


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file with times in seconds, or `synthetic`.")] = "synthetic",
    encoders: Annotated[str, typer.Option(help="Encoders, comma-separated.")] = ",".join(ENCODERS),
    units: Annotated[str, typer.Option(help="Units of the times, comma-separated; other than seconds by seed 0.")] = "",
    jitter: Annotated[bool, typer.Option(help="Add a random fraction of a second to every time.")] = False,
    model: str = "tgn",
    epochs: int = 3,
    seeds: Annotated[int, typer.Option(help="Seeds from 0 on.")] = 5,
    batch_size: int = 600,
    threads: int = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train with each encoder, untuned, serially and deterministically, so that all bits are reproducible."""
    torch.set_num_threads(threads)
    stream = load_stream(DataConfig(path=data))
    stream = jittered(stream) if jitter else stream
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "threads": threads, "device": "cpu"}
    settings |= {"schedule": "serial", "deterministic": True, "negatives": 1}
    runs = _Runs(None if out is None else out.with_suffix(".jsonl"), model, settings)
    names, others = encoders.split(","), [unit for unit in units.split(",") if unit]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            rows[name].append(runs.run(stream, "seconds", name, seed))
    report = {
        **header(command("bench.studies.time_unit"), threads),
        "stream": {"name": stream.name, "events": len(stream), "nodes": stream.num_nodes},
        "settings": {"model": model, **settings},
        "encoders": {
            name: {**asdict(Encoder.of(name, stream)), "ap": mean(row), "seeds": row, **compared(rows[names[0]], row)}
            for name, row in rows.items()
        },
        "units": {unit: {name: runs.run(in_unit(stream, unit), unit, name, 0) for name in names} for unit in others},
    }
    show(report, out)
    runs.forget()


def compared(first: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    """Points (hundredths of AP) that an encoder gains over the first one: mean and standard error of the pairs."""
    points = [100 * (theirs["ap"] - ours["ap"]) for ours, theirs in zip(first, other, strict=True)]
    error = statistics.stdev(points) / math.sqrt(len(points)) if len(points) > 1 else None
    return {"points": statistics.mean(points), "standard_error": error}


def mean(rows: list[dict[str, Any]]) -> float:
    """Mean AP of runs."""
    return statistics.mean(row["ap"] for row in rows)


def in_unit(stream: EventStream, unit: str) -> EventStream:
    """Convert a stream's seconds to another unit."""
    return replace(stream, t=stream.t.double() / UNITS[unit], source=None)


def jittered(stream: EventStream) -> EventStream:
    """Add a random fraction of a second to every time, as a finer record of the same events would have."""
    fraction = torch.rand(len(stream), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return replace(stream, t=(stream.t + fraction).sort().values, name=f"{stream.name} jittered", source=None)


def node_gap(stream: EventStream, stop: int, share: float) -> float:
    """A quantile of the positive gaps between successive events of a node, among the first `stop` events."""
    adjacency = TemporalCSR.build(stream)
    owner = torch.arange(stream.num_nodes).repeat_interleave(adjacency.indptr.diff())
    pairs = (owner[1:] == owner[:-1]) & (adjacency.event_ids[1:] < stop)
    gaps = adjacency.times.diff()[pairs]
    gaps = gaps[gaps > 0].sort().values
    return float(gaps[int(gaps.numel() * share)])


class _Runs:
    """Runs of the study, each stored in a file as soon as it is done."""

    def __init__(self, path: Path | None, model: str, settings: dict[str, Any]) -> None:
        self.path, self.model, self.settings, self.commit = path, model, settings, checkout()
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.done: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def run(self, stream: EventStream, unit: str, encoder: str, seed: int) -> dict[str, Any]:
        """AP and losses of a run, from the file if it has them."""
        key = {"stream": stream.name, "unit": unit, "encoder": encoder, "seed": seed, "model": self.model}
        key |= {"settings": self.settings, "commit": self.commit}
        for row in self.done:
            if row["key"] == key:
                return row["result"]
        config = RunConfig(
            model=ModelConfig(self.model, pair_features=False), train=TrainConfig(seed=seed, **self.settings)
        )
        with tempfile.TemporaryDirectory() as folder, Encoder.of(encoder, stream).used():
            result = train(config, stream, out=f"{folder}/run")
        row = {"key": key, "result": {"ap": result["test"]["ap"], "losses": result["losses"]}}
        console.print(f"{stream.name} in {unit}, {encoder}, seed {seed}: test AP {result['test']['ap']:.4f}")
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row["result"]

    def forget(self) -> None:
        """Remove the file, since the report holds all runs."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


if __name__ == "__main__":
    typer.run(main)
