"""Gains from tuning on the CPU: tuned against shipped and bad settings, stage times, and the time that tuning needs.

`python -m bench.studies.tuning --data wiki.csv` writes bench/results/tuning.json, which `python -m
bench.pictures.tuning` draws.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.report import RESULTS, command, header, write
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.settings import default_settings, process_settings
from mspipe_triton.training.trainer import train
from mspipe_triton.training.way import carry_out
from mspipe_triton.tuning import ProfileStore, TuningObserver, autotune, strategy_for
from mspipe_triton.tuning.study.search import Trial

console = Console(stderr=True, highlight=False)
RESULT = RESULTS / "tuning.json"
SHORT_BUDGET = 20.0


class _Trials(TuningObserver):
    """Observer that keeps the trials as rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def trial(self, trial: Trial) -> None:
        """Keep and print one trial."""
        self.rows.append({"point": trial.point, "state": trial.state, "score": trial.score, **trial.facts})
        console.print(self.rows[-1])


def main(
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file.")],
    model: Annotated[list[str], typer.Option(help="Models to tune.")] = ["tgn"],  # noqa: B006
    budget: Annotated[float, typer.Option(help="Seconds of tuning.")] = 60.0,
    pairs: Annotated[int, typer.Option(help="Epochs of each settings, in turn, after a warm-up epoch.")] = 5,
    start: Annotated[str, typer.Option(help="Settings to beat: shipped or bad.")] = "shipped",
    repeats: Annotated[int, typer.Option(help="Short tunings, each with a run to compare stage times.")] = 3,
    commands: Annotated[list[float], typer.Option(help="Budgets of the timed commands.")] = [20.0, 60.0],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Write the JSON here.")] = RESULT,
) -> None:
    """Run all measurements; nothing else should run meanwhile."""
    stream = load_stream(DataConfig(path=str(data)))
    facts = {"stream": stream.name, "pairs": pairs, "start": start}
    report: dict[str, Any] = {**header(command("bench.studies.tuning")), **facts, "models": {}}
    for name in model:
        config = RunConfig(model=ModelConfig(name), data=DataConfig(path=str(data)), train=TrainConfig(device="cpu"))
        report["models"][name] = compare_settings(config, stream, budget, pairs, start)
        report["models"][name]["stage_times"] = [stage_times(config, stream) for _ in range(repeats)]
    report["commands"] = [time_command(data, seconds, cold) for seconds in commands for cold in (True, False)]
    write(report, out)


def compare_settings(config: RunConfig, stream: EventStream, budget: float, pairs: int, start: str) -> dict[str, Any]:
    """Tune, then run epochs of tuned, shipped and bad settings (one thread, nothing prefetched) in turn."""
    observer = _Trials()
    with process_settings(config):
        shipped = default_settings(config.train)
    ways = {"shipped": shipped, "bad": replace(shipped, schedule="serial", threads=1, host_threads=1)}
    with tempfile.TemporaryDirectory() as folder:
        profile = autotune(
            config, stream, budget, ProfileStore(Path(folder)), observer, compiling_counts=False, shipped=ways[start]
        )
    ways["tuned"] = RunSettings(**profile.settings)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    session = Session.create(replace(config, settings=shipped), stream)
    runs = {name: carry_out(session.under(settings)) for name, settings in ways.items()}
    for epoch in range(pairs + 1):
        for name in sorted(ways, reverse=bool(epoch % 2)):
            with process_settings(replace(config, settings=ways[name])):
                rate = runs[name].train(epoch)["events_per_s"]
            console.print(f"{config.model.model}, epoch {epoch}, {name}: {rate:,.0f} events/s")
            if epoch:
                rates[name].append(rate)
    return {
        "settings": {name: asdict(settings) for name, settings in ways.items()},
        "trials": observer.rows, "search": dict(profile.search), "rates": rates,
        "events_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "to_shipped": _ratio(rates["tuned"], rates["shipped"]), "to_bad": _ratio(rates["tuned"], rates["bad"]),
    }  # fmt: skip


def _ratio(rates: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def stage_times(config: RunConfig, stream: EventStream) -> dict[str, Any]:
    """Tune the serial schedule briefly, train one epoch, and compare its stage times with the profile's."""
    config = replace(config, train=TrainConfig(schedule="serial", epochs=1, negatives=1, device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        store = ProfileStore(Path(folder) / "profiles")
        autotune(config, stream, SHORT_BUDGET, store, compiling_counts=False)
        result = train(config, stream, out=f"{folder}/run", strategy=strategy_for(config, stream, store, console.print))
    errors = result["tuning"]["stage_seconds_off"]
    run, profile = (sum(seconds.values()) for seconds in (result["stage_seconds"], result["tuning"]["stage_seconds"]))
    console.print(errors)
    return {"off": errors, "largest_off": max(map(abs, errors.values())), "iteration_off": run / profile - 1}


def time_command(data: Path, budget: float, cold: bool) -> dict[str, Any]:
    """Time the command with an empty compile cache (`cold`), or with the cache of an earlier command."""
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        environment["XDG_CACHE_HOME"] = folder
        if cold:
            environment["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"
        start = time.perf_counter()
        arguments = ["autotune", str(data), "--budget", str(budget), "--json"]
        process = subprocess.run(
            [sys.executable, "-m", "mspipe_triton", *arguments], env=environment, capture_output=True, text=True
        )
        wall = time.perf_counter() - start
    console.print(f"budget {budget:g}, cold {cold}: {wall:.1f} s, exit {process.returncode} {process.stderr[-300:]}")
    profile = json.loads(process.stdout) if process.returncode == 0 else {}
    trials = profile["search"]["trials"] if "search" in profile else 0
    return {
        "budget": budget, "compiled_before": not cold, "wall_seconds": wall, "limit_seconds": 1.1 * budget + 15,
        "exit": process.returncode, "trials": trials,
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
