"""Cost of features of pairs and of negatives in training: events/s of settings that train in turn, as ratios.

`python -m bench.ranking.cost --data wiki.csv --out bench/results/ranking-cost.json` trains the first events of the
stream under every setting, round by round.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.config import DataConfig, RunConfig
from mspipe_triton.data.source import load_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.settings import process_settings
from mspipe_triton.training.staged import Staged

console = Console(stderr=True, highlight=False)
SOFTMAX = {"loss": "softmax", "negative_kind": "mixed"}
MODELS = ("tgn", "jodie", "apan", "tgat")
# By name: flags, and the setting that its speed is divided by.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    **{f"{model}, no pair features": ({"model": model, "pair_features": False}, "") for model in MODELS},
    **{model: ({"model": model}, f"{model}, no pair features") for model in MODELS},
    **{f"tgn, K {k}": ({**SOFTMAX, "train_negatives": k}, "tgn") for k in (2, 5, 10, 20)},
}


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")],
    events: Annotated[int, typer.Option(help="Training events per round.")] = 18_000,
    rounds: int = 7,
    batch_size: int = 600,
    threads: int = 2,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train under every setting in turn; the first round compiles, and does not count."""
    torch.set_num_threads(threads)
    stream = load_stream(DataConfig(path=data))
    base = {"device": "cpu", "schedule": "serial", "threads": threads, "batch_size": batch_size}
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    ways = dict[str, Staged]()
    for number in range(rounds + 1):
        for name, (flags, _) in SETTINGS.items():
            config = RunConfig().with_flags({**base, **flags})
            with process_settings(config):
                if name not in ways:
                    ways[name] = Staged(Session.create(config, stream))
                seconds = ways[name].train_epoch(number + 1, stop=events).seconds
            if number:
                speeds[name].append(events / seconds)
    rows = {
        name: {
            "events_per_s": statistics.median(speeds[name]),
            "ratio": statistics.median(a / b for a, b in zip(speeds[name], speeds[other or name], strict=True)),
            "beside": other, "rounds": speeds[name],
        }
        for name, (_, other) in SETTINGS.items()
    }  # fmt: skip
    stream_facts = {"name": stream.name, "events": events, "batch_size": batch_size}
    for name, row in rows.items():
        console.print(f"{name}: {row['events_per_s']:,.0f} events/s, {row['ratio']:.3f} of {row['beside'] or name}")
    show({**header(command("bench.ranking.cost"), threads), "stream": stream_facts, "settings": rows}, out)


if __name__ == "__main__":
    typer.run(main)
