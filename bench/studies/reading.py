"""The time to read a table of a million events, by kind of ids, and the CPU time of `data info` on two million.

`python -m bench.studies.reading` writes bench/results/reading.json. Ids are integers, text, or text in quotes.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from bench.report import RESULTS, command, header, write
from mspipe_triton.data.readers import read_stream

RESULT = RESULTS / "reading.json"
NODES = 50_000
REPEATS = 5
FORMS: dict[str, Callable[[int], str]] = {
    "integers": str, "text": lambda number: f"user{number}", "quoted text": lambda number: f'"user{number}"',
}  # fmt: skip


def main(
    rows: Annotated[int, typer.Option(help="Rows of the tables that are timed; `data info` reads twice as many.")] = 10
    ** 6,
) -> None:
    """Write a table for each kind of ids, and read and describe it five times."""
    with tempfile.TemporaryDirectory() as folder:
        path, results = Path(folder) / "events.csv", []
        for kind, form in FORMS.items():
            _write_table(path, rows, form)
            seconds = _read_seconds(path, rows)
            _write_table(path, 2 * rows, form)
            results.append({
                "ids": kind, "rows": rows, "seconds": seconds, "info_rows": 2 * rows,
                "info_cpu_seconds": _info_cpu(path),
            })  # fmt: skip
    facts = header(command("bench.studies.reading"))
    facts["versions"]["pyarrow"] = pa.__version__
    write({**facts, "nodes": NODES, "repeats": REPEATS, "reads": results}, RESULT)
    for result in results:
        print(f"{result['ids']}: {result['seconds']:.2f} s, data info {result['info_cpu_seconds']:.1f} s of CPU")


def _write_table(path: Path, rows: int, form: Callable[[int], str]) -> None:
    """Write events among random nodes, one per second."""
    ends = np.random.default_rng(0).integers(0, NODES, (rows, 2)).tolist()
    with open(path, "w", encoding="utf-8") as file:
        file.write("src,dst,t\n")
        file.writelines(f"{form(src)},{form(dst)},{t}\n" for t, (src, dst) in enumerate(ends))


def _read_seconds(path: Path, rows: int) -> float:
    """Median seconds of reading a table, which is checked first."""
    assert len(read_stream(path)) == rows
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        read_stream(path)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _info_cpu(path: Path) -> float:
    """Median CPU seconds of `data info` in a process of its own, with its imports."""
    arguments: list[Any] = [sys.executable, "-m", "mspipe_triton", "data", "info", path]
    seconds = []
    for _ in range(REPEATS):
        before = _child_cpu()
        subprocess.run(arguments, check=True, capture_output=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        seconds.append(_child_cpu() - before)
    return statistics.median(seconds)


def _child_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    typer.run(main)
