"""Every model under every schedule on real streams: AP, AUC and MRR, their table, and events/s.

`python -m bench.studies.models --data wiki.csv --data uci.csv` writes bench/results/models.json, and from it the table
in docs/measured/models.md; runs that the JSON already has at the same settings are not repeated.
"""

from __future__ import annotations

import json
import tempfile
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, write
from bench.tables import Table
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.training.trainer import train

console = Console(stderr=True, highlight=False)
TABLE = Table("docs/measured/models.md", "models.json", "python -m bench.studies.models")
# Epochs by model; tgat gets one, as its two layers sample a hundred neighbours per root.
MODELS = {"tgn": 3, "jodie": 3, "apan": 3, "tgat": 1}
SCHEDULES: dict[str, dict[str, Any]] = {
    "serial": {"schedule": "serial"},
    "prefetch": {"schedule": "prefetch"},
    "mspipe": {"schedule": "mspipe"},
    "fixed-2": {"schedule": "fixed", "staleness": 2},
    "exact": {"schedule": "exact"},
}


def main(
    data: Annotated[list[str], typer.Option(help="CSV or Parquet file; may be repeated.")],
    model: Annotated[list[str] | None, typer.Option(help="Model to run; may be repeated.")] = None,
    negatives: Annotated[int, typer.Option(help="Random negatives per event for the MRR.")] = 9,
    batch_size: int = 600,
    threads: int = 2,
) -> None:
    """Run the missing combinations, write the JSON after every run, and the page at the end."""
    torch.set_num_threads(threads)
    settings = {"batch_size": batch_size, "negatives": negatives, "seed": 0}
    path = TABLE.result_path
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if report.get("settings") != settings:
        report = {"streams": {}}
    report |= {**header(command("bench.studies.models"), threads), "settings": settings}
    for source in data:
        stream = load_stream(DataConfig(path=source))
        models = report["streams"].setdefault(stream.name, {})
        for name in model or MODELS:
            _warm(stream, name, threads, batch_size)
            for schedule in SCHEDULES:
                if schedule in models.setdefault(name, {}):
                    continue
                config = TrainConfig(
                    epochs=MODELS[name], threads=threads, device="cpu", **settings, **SCHEDULES[schedule]
                )
                models[name][schedule] = _run(stream, name, config)
                console.print(stream.name, name, schedule, models[name][schedule])
                write(report, path)
    TABLE.write(table(report))
    console.print(table(report))


def _warm(stream: EventStream, model: str, threads: int, batch_size: int) -> None:
    """Compile the loops before any timing, so that no schedule pays for it."""
    head = EventStream(stream.src[:6000], stream.dst[:6000], stream.t[:6000], num_nodes=stream.num_nodes)
    config = TrainConfig(epochs=1, threads=threads, batch_size=batch_size, negatives=1, schedule="serial", device="cpu")
    _run(head, model, config)


def _run(stream: EventStream, model: str, config: TrainConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = train(RunConfig(model=ModelConfig(model=model), train=config), stream, out=f"{folder}/run")
    missed = {int(staleness): n for staleness, n in result["staleness_measured"].items()}
    return {
        "epochs": config.epochs,
        "events_per_s": result["train_events_per_s"],
        **{name: result["test"][name] for name in ("ap", "auc", "mrr")},
        "losses": result["losses"],
        "mean_staleness": sum(s * n for s, n in missed.items()) / sum(missed.values()),
        "stage_ms": {stage: 1e3 * seconds for stage, seconds in result["stage_seconds"].items()},
    }


def table(report: dict[str, Any]) -> str:
    """Report as Markdown, one row per stream, model and schedule."""
    ranked = report["settings"]["negatives"] + 1
    lines = [
        f"| stream | model | schedule | AP | AUC | MRR of {ranked} | updates missed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for stream, models in report["streams"].items():
        for model, schedules in models.items():
            for schedule, run in schedules.items():
                scores = " | ".join(f"{run[name]:.4f}" for name in ("ap", "auc", "mrr"))
                lines.append(f"| {stream} | {model} | {schedule} | {scores} | {run['mean_staleness']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
