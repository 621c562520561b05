"""Measure rounding errors of results, relative to the change that random roundings make to the float64 truth.

`python -m bench.studies.rounding` compares torch and our kernels (in Triton's interpreter, on the CPU) in float32 on
random inputs of every operation with a gradient, with the vector instructions of several processors, which add in
different orders. It writes bench/results/rounding.json, which shows how much room the tolerance of `tuning/rounding.py`
leaves.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer

os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

from bench.cases.random_batch import TINY, Shape
from bench.cases.registry import OPERATIONS, build, short
from bench.report import RESULTS, command, header, write
from bench.variants import judge, result
from mspipe_triton.tuning.rounding import DRAWS, FACTOR

RESULT = RESULTS / "rounding.json"
# By torch's ATEN_CPU_CAPABILITY: variables that select the same instructions in MKL and numpy's OpenBLAS.
CAPABILITIES = {
    "default": {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem"},
    "avx2": {"MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "avx512": {"MKL_CBWR": "AVX512", "OPENBLAS_CORETYPE": "SkylakeX"},
}
# Sums of many terms, and results with few numbers.
SHAPES = (TINY, Shape("FEW", 12, 40, 2, 2, dim=5, times=3, fanout=3))


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Random inputs per operation and shape.")] = 20,
    capability: Annotated[str | None, typer.Option(help="Print the ratios with these instructions only.")] = None,
) -> None:
    """Measure with each set of instructions in its own process."""
    if capability is not None:
        print(json.dumps(list(ratios(seeds))))
        return
    rows = []
    for name, libraries in CAPABILITIES.items():
        words = [sys.executable, "-m", "bench.studies.rounding", "--seeds", str(seeds), "--capability", name]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": name, "OMP_NUM_THREADS": "1", **libraries}
        process = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"capability": name, **summary(json.loads(process.stdout))})
        print(rows[-1])
    report = {
        **header(command("bench.studies.rounding"), 1),
        "draws": DRAWS, "factor": FACTOR, "seeds": seeds, "capabilities": rows,
        "comparisons": sum(row["comparisons"] for row in rows),
        "largest_ratio": max(row["largest"]["ratio"] for row in rows),
    }  # fmt: skip
    write(report, RESULT)


def ratios(seeds: int) -> Iterator[dict[str, Any]]:
    """Errors in float32 over the largest change by random roundings, by operation, way and result."""
    for name, operation in OPERATIONS.items():
        for shape in SHAPES if operation.leaves else ():
            for seed in range(seeds):
                arguments = short(build(name, shape, seed=seed))
                oracle = judge(operation, arguments, seed)
                for way in ("eager", "interpreter"):
                    for part, entry in oracle(result(operation, way, arguments, oracle.grads)).items():
                        change = oracle.expected.change[part]
                        if change > 0:
                            yield {"operation": name, "way": way, "result": part, "ratio": entry["error"] / change}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and largest ratio, and the number of ratios above 1."""
    values = [row["ratio"] for row in rows]
    return {
        "comparisons": len(values), "median": statistics.median(values),
        "above_one": sum(value > 1 for value in values), "largest": max(rows, key=lambda row: row["ratio"]),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
