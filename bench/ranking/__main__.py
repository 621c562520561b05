"""Accuracy of ranking: models with and without pair features, by seed, among random candidates and all destinations.

`python -m bench.ranking --data wiki.csv --out bench/results/accuracy-wiki.json` runs every variant; with the same --out
it continues where it stopped. `--variant "tgn ranking, TGB's protocol"` is for `tgbl-wiki.csv`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from bench.report import command, header, show, write
from mspipe_triton.config import DataConfig, RunConfig
from mspipe_triton.data.source import load_stream
from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.training.trainer import train

console = Console(stderr=True, highlight=False)
WITHOUT = {"pair_features": False}


class Variant(NamedTuple):
    """Settings of a run, numbers of its seeds, and of those ranked among all destinations, and random candidates.

    `negatives` is None for a protocol's candidates.
    """

    flags: dict[str, Any]
    seeds: int = 5
    seeds_among_all: int = 0
    negatives: int | None = 199


RANKING = {"recipe": "ranking"}
_SCORES = ("ap", "mrr", "mrr_all", "mrr_streaming")
TGB = "tgn ranking, TGB's protocol"
VARIANTS = {
    "tgn ranking": Variant(RANKING, seeds_among_all=5),
    "tgn ranking, no pair features": Variant({**RANKING, **WITHOUT}, seeds_among_all=1),
    "tgn": Variant({}, seeds_among_all=1),
    "tgn, no pair features": Variant(WITHOUT, seeds_among_all=1),
    **{
        f"{model}{', no pair features' if flags else ''}": Variant({"model": model, **flags}, 2, negatives=49)
        for model in ("jodie", "apan", "tgat")
        for flags in ({}, WITHOUT)
    },
    TGB: Variant({**RANKING, "protocol": "tgb"}, 2, negatives=None),
}


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")],
    out: Annotated[Path, typer.Option(help="The JSON file; runs that it holds are not repeated.")],
    variant: Annotated[
        list[str] | None, typer.Option(help="Variant to run; may be repeated. By default all without TGB's protocol.")
    ] = None,
    threads: int = 1,
) -> None:
    """Run the variants seed by seed, and write the JSON after every run."""
    stream = load_stream(DataConfig(path=data))
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"variants": {}}
    report |= {**header(command("bench.ranking"), threads), "stream": {"name": stream.name, "events": len(stream)}}
    chosen = {name: VARIANTS[name] for name in variant or VARIANTS if variant or name != TGB}
    for seed in range(max(each.seeds for each in chosen.values())):
        for name, each in chosen.items():
            runs = report["variants"].setdefault(name, {"flags": each.flags, "runs": []})
            if len(runs["runs"]) > seed or seed >= each.seeds:
                continue
            runs["runs"].append(_run(data, each, seed, threads))
            console.print(stream.name, name, seed, {key: runs["runs"][-1][key] for key in _SCORES})
            write(report, out)
    for entry in report["variants"].values():
        entry["mean"] = {key: _mean(run[key] for run in entry["runs"]) for key in _SCORES}
    write(report, out)
    show(report, None)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None without any."""
    numbers = [value for value in values if value is not None]
    return statistics.mean(numbers) if numbers else None


def _run(data: str, variant: Variant, seed: int, threads: int) -> dict[str, Any]:
    """Train, and rank the test events among random candidates, and for some seeds among all destinations."""
    flags = {**variant.flags, "seed": seed, "threads": threads, "device": "cpu", "negatives": variant.negatives}
    config = RunConfig(data=DataConfig(path=data)).with_flags(flags)
    stream = load_stream(config.data)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, stream, out=f"{folder}/run")
        every = dict[str, Any]()
        if seed < variant.seeds_among_all:
            every = evaluate_run(f"{folder}/run", "test", candidates="all", stream=stream)
    test = result["test"]
    baselines = {name: test[name] for name in NAMES}
    return {
        "seed": seed, "ap": test["ap"], "auc": test["auc"], "mrr": test["mrr"], "mrr_all": every.get("mrr"),
        "candidates": test["candidates"], "inductive_mrr": test["inductive"]["mrr"],
        "mrr_streaming": test.get("streaming", {}).get("mrr"), "best_epoch": result["best_epoch"],
        "batch_size": result["batch_size"], "epochs": result["epochs"], "val_ap": result["val"]["ap"],
        "train_events_per_s": result["train_events_per_s"],
        "baselines": {name: {"ap": value["ap"], "mrr": value["mrr"]} for name, value in baselines.items()},
        "baselines_all": {name: every[name]["mrr"] for name in baselines} if every else {},
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
