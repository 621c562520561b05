"""Seconds from the death of a process to the end of a pipelined run, which the launcher or torchrun has started."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench.report import command, header, show
from bench.studies import sleeping
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from tests.processes.running import FOLDER, running

PROCESSES = 4
SEEN = 2  # mini-batches that every process has trained on before the signal
MODEL, DATA = "bench.studies.sleeping:build", "bench.studies.graphpipe_deaths:data"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES))
WAYS: dict[str, tuple[str, ...]] = {"launcher": (), "torchrun": TORCHRUN}
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
PATIENCE = 120.0  # seconds
Facts = dict[str, Any]


def main(
    repeats: Annotated[int, typer.Option(help="Runs with a process that is killed, in each way.")] = 5,
    stops: Annotated[int, typer.Option(help="Runs with a process that stops answering, in each way.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on processes of this machine, which train a model that sleeps."""
    torch.set_num_threads(1)
    show({**header(command("bench.studies.graphpipe_deaths")), **measure(repeats, stops)}, out)


def data() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mini-batches without end; this process writes its number to a file when it has trained on some."""
    for number, batch in enumerate(sleeping.data()):
        if number == SEEN:
            path = Path(os.environ[FOLDER]) / os.environ["RANK"]
            path.with_suffix(".tmp").write_text(str(os.getpid()), encoding="utf-8")
            path.with_suffix(".tmp").rename(path)  # a reader never sees it empty
        yield batch


def measure(repeats: int, stops: int) -> Facts:
    """Return the facts of all runs, by the way in which they start and the signal; ranks take turns."""
    best = plan_model(Problem(sleeping.graph(), Cluster(PROCESSES, inf), sleeping.BATCH, replicas=1))
    assert best.graph.plan.devices == PROCESSES
    rows: list[Facts] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(best.to_json()), encoding="utf-8")
        for sign, count in (("killed", repeats), ("stopped", stops)):
            for number in range(count):
                for way in WAYS:
                    rank = number % PROCESSES if sign == "killed" else 1
                    rows.append({"way": way, "sign": sign, "rank": rank, **end_of(plan, way, sign, rank)})
    return {"processes": PROCESSES, "runs": rows, "summary": summary(rows)}


def end_of(plan: Path, way: str, sign: str, rank: int) -> Facts:
    """Start a run, send a signal to a process that trains, and wait for the end of the command.

    Returns:
        seconds: from the signal to the end. status: of the command. messages: of the run itself. named: the only
        message names the process. left_over: processes of the run that outlive the command.
    """
    words = ("graphpipe", "run", str(plan), "--model", MODEL, "--data", DATA, "--steps", "1000", "--device", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, *WAYS[way], "-m", "mspipe_triton", *words]
        with running(line, Path(folder), PROCESSES, "mspipe-triton") as run:
            pid = run.pids()[rank]
            run.kill(pid, SIGNALS[sign])
            start = time.perf_counter()
            run.process.wait(PATIENCE)
            seconds = time.perf_counter() - start
            left_over = len(run.left_over())
            run.kill_all()
            status, _, messages = run.end()
    name = rf"process {rank} \(stage \d+, pid {pid}\) "
    return {
        "seconds": seconds, "status": status, "messages": messages,
        "named": len(messages) == 1 and re.match(name, messages[0]) is not None, "left_over": left_over,
    }  # fmt: skip


def summary(rows: Sequence[Facts]) -> Facts:
    """Return the facts of all runs with one signal and one way to start, by signal and way."""
    result: Facts = {}
    for sign, way in dict.fromkeys((row["sign"], row["way"]) for row in rows):
        same = [row for row in rows if (row["sign"], row["way"]) == (sign, way)]
        times = [row["seconds"] for row in same]
        result.setdefault(sign, {})[way] = {
            "runs": len(same), "median": median(times), "least": min(times), "largest": max(times),
            "named": sum(row["named"] for row in same), "left_over": sum(row["left_over"] for row in same),
        }  # fmt: skip
    return result


if __name__ == "__main__":
    typer.run(main)
