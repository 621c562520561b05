"""The cost of tuning a run while it trains: whole runs with and without it, in turn, each with an empty cache.

`python -m bench.studies.tuning_in_run --data wiki.csv --out bench/results/tuning-in-run.json` takes about six minutes;
run it on an idle machine. `python -m bench.pages` writes the table of docs/measured/tuning.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import RESULTS, command, header, write
from bench.studies.first_run import PROGRAM, User
from bench.tables import markdown

RESULT = RESULTS / "tuning-in-run.json"
LIMITS = {"share": 0.05, "ratio": 1.05}  # of a run's training time, and of a whole run without tuning


def run(user: User, data: str, epochs: int, tuned: bool) -> dict[str, Any]:
    """Train in a folder of its own; return the seconds of the command and of training, and the facts of tuning."""
    user.folder.mkdir()
    flags = () if tuned else ("--no-autotune",)
    seconds = user.seconds("train", data, "--epochs", str(epochs), "--out", "run", *flags)
    result = json.loads((user.folder / "run" / "result.json").read_text(encoding="utf-8"))
    tuning = result["tuning"] or {}
    return {
        "seconds": seconds, "training_seconds": sum(result["epoch_seconds"]), "test_ap": result["test"]["ap"],
        "fused": result["fused"], "compile_seconds": result["compile_seconds"],
        **{name: tuning.get(name) for name in ("trials", "cost_seconds", "share", "gain", "noise", "settings")},
    }  # fmt: skip


def study(folder: Path, data: str, epochs: int, repeats: int, program: Sequence[str] = PROGRAM) -> dict[str, Any]:
    """Pairs of runs, of which every other one starts with tuning."""
    pairs: list[dict[str, dict[str, Any]]] = []
    for number in range(repeats):
        order = (True, False) if number % 2 else (False, True)
        pairs.append(
            {
                "tuned" if tuned else "plain": run(User(folder / f"{number}-{tuned}", program), data, epochs, tuned)
                for tuned in order
            }
        )
    ratios = [pair["tuned"]["seconds"] / pair["plain"]["seconds"] for pair in pairs]
    return {"limits": LIMITS, "epochs": epochs, "pairs": pairs, "ratio": statistics.median(ratios)}


def table(report: Mapping[str, Any]) -> str:
    """The page's table: a line per pair of runs."""
    lines = []
    for pair in report["pairs"]:
        tuned, plain = pair["tuned"], pair["plain"]
        lines.append(
            (
                f"{plain['seconds']:.1f}", f"{tuned['seconds']:.1f}", f"{tuned['trials']}",
                f"{tuned['cost_seconds']:.1f}", f"{tuned['share']:.1%}",
                "none" if tuned["gain"] is None else f"{tuned['gain']:+.1%}",
            )
        )  # fmt: skip
    titles = ("not tuned, s", "tuned while training, s", "trials", "their cost, s", "of its training", "gain")
    return markdown(titles, lines)


def main(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file, or `synthetic`.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each run.")] = 20,
    repeats: Annotated[int, typer.Option(help="Pairs of runs.")] = 2,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = RESULT,
) -> None:
    """Train whole runs one after the other, and write their seconds."""
    path = data if data == "synthetic" else str(Path(data).absolute())
    with tempfile.TemporaryDirectory() as folder:
        report = {**header(command("bench.studies.tuning_in_run")), **study(Path(folder), path, epochs, repeats)}
    write(report, out)
    print(table(report))


if __name__ == "__main__":
    typer.run(main)
