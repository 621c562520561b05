"""The first minutes of a new user: whole commands, each in a process of its own, with caches that are empty at first.

`python -m bench.studies.first_run --out bench/results/first-run.json` takes a few minutes; run it on an idle machine.
`python -m bench.pages` writes the table of docs/measured/first-run.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import RESULTS, ROOT, command, header, write
from bench.tables import markdown

RESULT = RESULTS / "first-run.json"
PROGRAM = (sys.executable, "-m", "mspipe_triton")
REPEATS = 5  # of the commands that need no torch
EVENTS = 20_000  # of the user's own table, and a tenth as many new ones after them
PLAN = ("plan", "--times", "sample=2,features=3,memory=2,train=6,update=3")
TRAIN = ("train", "synthetic", "--model", "tgn")  # as in `make train`
# Seconds that each may take on an idle machine with two cores. `first_events` counts from Enter to the first training
# events, without the import of torch.
LIMITS = {"cold": 60, "again": 45, "first_events": 8, "help": 0.6, "plan": 0.6, "misspelt": 0.6, "own": 180}
TITLES = {
    "help": "`--help`", "plan": "`plan`", "misspelt": "a misspelt flag", "generate": "`data generate`",
}  # fmt: skip


@dataclass(frozen=True)
class User:
    """A user with a folder and caches of their own.

    Args:
        folder: the working folder; the caches are in it. program: the command line's first words.
    """

    folder: Path
    program: Sequence[str] = PROGRAM

    def seconds(self, *arguments: str, status: int = 0) -> float:
        """Run a command, and return its seconds from start to end.

        Raises:
            RuntimeError: it ends with another exit status.
        """
        caches = {name: str(self.folder / name.lower()) for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")}
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        start = time.perf_counter()
        done = subprocess.run(
            [*self.program, *arguments], cwd=self.folder, env={**os.environ, **caches, "PYTHONPATH": paths},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if done.returncode != status:
            raise RuntimeError(
                f"{' '.join(arguments)}: exit status {done.returncode}, not {status}: {done.stderr[-500:]}"
            )
        return seconds

    def train(self, *arguments: str, run: str) -> dict[str, Any]:
        """Train, and return the seconds of the command and the facts of its start from the folder `run`."""
        seconds = self.seconds(*arguments)
        result = json.loads((self.folder / run / "result.json").read_text(encoding="utf-8"))
        start = result["start"]
        return {
            "command": " ".join(arguments),
            "seconds": seconds,
            "import_seconds": start["import_seconds"],
            "first_events_seconds": start["first_iteration_seconds"] - start["import_seconds"],
            "compile_seconds": result["compile_seconds"],
            "train_events_per_s": result["train_events_per_s"],
            "epochs": result["epochs"],
            "test_ap": result["test"]["ap"],
        }


def quick(user: User) -> dict[str, float]:
    """Median seconds of the commands that need no torch, after one that fills the system's cache of files."""
    commands = {
        "help": (("--help",), 0), "plan": (PLAN, 0), "misspelt": (("train", "--modle", "tgn"), 2),
        "generate": (("data", "generate", "generated.csv", "--force"), 0),
    }  # fmt: skip
    medians = {}
    for name, (arguments, status) in commands.items():
        _, *times = (user.seconds(*arguments, status=status) for _ in range(1 + REPEATS))
        medians[name] = statistics.median(times)
    return medians


def own_table(user: User) -> list[dict[str, Any]]:
    """Train on a table of one's own and score new events, with empty caches: the seconds of each command."""
    everything = user.folder / "everything.csv"
    user.seconds("data", "generate", everything.name, "--events", str(EVENTS + EVENTS // 10))
    head, *lines = everything.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("events.csv", lines[:EVENTS]), ("new.csv", lines[EVENTS:])):
        (user.folder / name).write_text("".join([head, *part]), encoding="utf-8")
    train = user.train("train", "events.csv", "--model", "tgn", run="runs/events-tgn-1")
    predict = ("predict", "runs/events-tgn-1", "new.csv", "--out", "scores.csv")
    return [train, {"command": " ".join(predict), "seconds": user.seconds(*predict)}]


def study(folder: Path, program: Sequence[str] = PROGRAM) -> dict[str, Any]:
    """All measurements, in new folders below `folder`."""
    users = [User(folder / name, program) for name in ("builtin", "own")]
    for user in users:
        user.folder.mkdir()
    builtin, newcomer = users
    return {
        "load": os.getloadavg()[0],
        "limits": LIMITS,
        "builtin": {
            name: builtin.train(*TRAIN, run=f"runs/synthetic-tgn-{number}")
            for number, name in enumerate(("cold", "again"), start=1)
        },
        "quick": quick(builtin),
        "own": own_table(newcomer),
    }


def table(report: Mapping[str, Any]) -> str:
    """The page's table: seconds of every command, and their limits."""
    limits, runs, lines = report["limits"], report["builtin"], []
    for name, title in (("cold", "nothing compiled yet"), ("again", "again")):
        run = runs[name]
        lines.append((f"`{run['command']}`, {title}", f"{run['seconds']:.1f}", f"{limits[name]}"))
        lines.append(
            (
                f"— to the first training events, {title}",
                f"{run['first_events_seconds']:.1f}",
                f"{limits['first_events']}",
            )
        )
        lines.append((f"— import of torch, {title}", f"{run['import_seconds']:.1f}", ""))
    lines += [
        (TITLES[name], f"{seconds:.2f}", f"{limits[name]}" if name in limits else "")
        for name, seconds in report["quick"].items()
    ]
    lines += [(f"`{step['command']}`", f"{step['seconds']:.1f}", "") for step in report["own"]]
    total = sum(step["seconds"] for step in report["own"])
    lines.append(("— from the table to predictions", f"{total:.1f}", f"{limits['own']}"))
    return markdown(("", "seconds", "limit"), lines)


def main(out: Annotated[Path, typer.Option(help="The JSON file to write.")] = RESULT) -> None:
    """Run the commands one after the other, and write their seconds."""
    with tempfile.TemporaryDirectory() as folder:
        report = {**header(command("bench.studies.first_run")), **study(Path(folder))}
    write(report, out)
    print(table(report))


if __name__ == "__main__":
    typer.run(main)
