"""Limits of scale: the time and memory of a T-CSR of 50 million events, and the time of an import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.training.usage import peak_rss_mb


def main(
    events: Annotated[int, typer.Option(help="Events of the largest stream.")] = 50_000_000,
    nodes: int = 1_000_000,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Build T-CSRs of a tenth, half and all of the events; the peak memory includes the last stream."""
    generator = torch.Generator().manual_seed(0)
    builds: list[dict[str, Any]] = []
    for count in (events // 10, events // 2, events):
        src, dst = (torch.randint(0, nodes, (count,), generator=generator) for _ in range(2))
        stream = EventStream(src, dst, torch.arange(count), num_nodes=nodes)
        start = time.perf_counter()
        csr = TemporalCSR.build(stream)
        builds.append({"events": count, "seconds": time.perf_counter() - start})
        assert int(csr.indptr[-1]) == 2 * count
        del src, dst, stream, csr
    report = {
        **header(command("bench.studies.limits")),
        "tcsr": {"nodes": nodes, "builds": builds, "peak_rss_gib": peak_rss_mb() / 1024},
        "import_seconds": _import_seconds(),
    }
    show(report, out)


def _import_seconds(repeats: int = 9) -> float:
    """Median seconds of `import mspipe_triton` in a fresh interpreter, less an interpreter that imports nothing."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(run("import mspipe_triton") - run("pass") for _ in range(repeats))


if __name__ == "__main__":
    typer.run(main)
