"""Time to rank the last 30 % of the events among candidates, against an earlier version and on the same candidates.

`python -m bench.studies.ranking --before FOLDER DATA` writes bench/results/ranking.json; FOLDER is a checkout of the
earlier version.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import RESULTS, ROOT, command, header, write

RESULT = RESULTS / "ranking.json"
console = Console(stderr=True, highlight=False)


def main(
    data: Path,
    before: Annotated[Path, typer.Option(help="Checkout of the earlier version.")],
    models: Annotated[str, typer.Option(help="Models, comma-separated.")] = "tgn,tgat,jodie,apan",
    candidates: int = 199,
    batch_size: int = 600,
    threads: int = 2,
    batches: Annotated[int, typer.Option(help="Batches to rank; 0 for all.")] = 0,
    repeats: int = 3,
) -> None:
    """Rank with both versions in turn, and compare seconds, logits and reciprocal ranks."""
    version = ["git", "-C", str(before), "rev-parse", "HEAD"]
    report: dict[str, Any] = {
        **header(command("bench.studies.ranking"), threads),
        "before": subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip(),
        "settings": {"stream": data.name, "candidates": candidates, "batch_size": batch_size, "repeats": repeats},
        "models": {},
    }
    settings = [*map(str, (batch_size, candidates, threads, batches))]
    for model in models.split(","):
        seconds: dict[str, list[float]] = {"before": [], "now": []}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repeats):
                for name, place in (("before", before), ("now", ROOT)):
                    run = _run(place, [str(data), model, *settings, f"{folder}/{name}"])
                    seconds[name].append(run["seconds"])
                    console.print(f"{model}, {name}: {run['events']:,} events in {run['seconds']:.1f} s")
            logits = [torch.load(f"{folder}/{name}") for name in seconds]
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        report["models"][model] = {
            "events": run["events"], "seconds": seconds, "ratio": medians["now"] / medians["before"],
            **agreement(*logits),
        }  # fmt: skip
        write(report, RESULT)
        console.print(f"{model}: {report['models'][model]['ratio']:.3f} of the time")


def agreement(before: torch.Tensor, now: torch.Tensor) -> dict[str, float]:
    """Compare logits [E, 1 + N] of destinations and candidates, and the reciprocal ranks of the destinations."""
    ranks = [_reciprocal_ranks(each) for each in (before, now)]
    return {
        "equal_logits": float((before == now).double().mean()), "largest_difference": float((before - now).abs().max()),
        "equal_ranks": float((ranks[0] == ranks[1]).double().mean()),
        "mrr_before": float(ranks[0].mean()), "mrr_now": float(ranks[1].mean()),
    }  # fmt: skip


def _reciprocal_ranks(logits: torch.Tensor) -> torch.Tensor:
    positive, candidates = logits[:, :1], logits[:, 1:]
    return 1 / (1 + (candidates > positive).sum(1).double() + 0.5 * (candidates == positive).sum(1).double())


def _run(place: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the script with the package of a checkout."""
    script = str(Path(__file__).with_name("ranked.py"))
    done = subprocess.run(
        [sys.executable, script, *arguments], env={**os.environ, "PYTHONPATH": str(place.absolute())},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    typer.run(main)
