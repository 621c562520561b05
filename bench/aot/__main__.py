"""Compile every kernel and configuration ahead of time for sm_80 and sm_90, without a GPU, and table what it takes.

`python -m bench.aot` compiles everything, writes bench/results/aot.json and the table in docs/measured/kernels.md; with
`--defaults float32` (or ieee, float64) it compiles the configurations that the package starts with, for one GPU, and
writes nothing; with `--out bench/results/aot-3.6.json` it writes that file alone, for another version of Triton.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.aot.launches import CASES, Case, distinct, launches
from bench.aot.rows import TABLE, faults, row, table, worst
from bench.report import header, write
from mspipe_triton.kernels.runtime.compiling import CAPABILITIES
from mspipe_triton.kernels.runtime.launch import KERNELS


def compiled(case: Case) -> list[dict[str, Any]]:
    """Rows of one case: all configurations of the kernels that it launches, for all targets."""
    torch.set_num_threads(1)
    return [
        row(launch, case, number, capability)
        for launch in distinct(launches(case))
        for number in range(len(launch.kernel.configs[launch.variant]))
        for capability in CAPABILITIES
    ]


def defaults(arithmetic: str, capability: int) -> list[dict[str, Any]]:
    """Rows of the configurations that the package starts with, called with tables and with fetched rows.

    In another arithmetic than float32 they are those of kernels that treat it apart.
    """
    alike = [case for case in CASES if case.arithmetic == arithmetic]
    plain, fetched = (next(case for case in alike if case.staged == staged) for staged in (False, True))
    every = distinct([*launches(plain), *launches(fetched)])
    called = [launch for launch in every if arithmetic == "float32" or launch.variant.endswith(arithmetic)]
    return [row(launch, plain, 0, capability) for launch in called]


def main() -> int:
    """Compile, report, write."""
    parser = argparse.ArgumentParser(prog="bench.aot", description=__doc__)
    kinds = sorted({case.arithmetic for case in CASES})
    parser.add_argument("--defaults", choices=kinds, help="default configurations of one arithmetic; writes no files")
    parser.add_argument("--capability", type=int, choices=CAPABILITIES, default=CAPABILITIES[-1], help="of --defaults")
    parser.add_argument("--out", type=Path, help="write the rows here, and no page")
    options = parser.parse_args()
    if options.defaults:
        rows, kinds = defaults(options.defaults, options.capability), [options.defaults]
    else:
        with ProcessPoolExecutor(2) as pool:
            rows = [row for part in pool.map(compiled, CASES) for row in part]
        kinds = [variant for kernel in KERNELS.values() for variant in kernel.configs]
    problems, most = faults(rows, set(kinds)), worst(rows)
    print(table(most))
    print(f"{len(rows)} compilations, {len(problems)} faults", *problems, sep="\n", file=sys.stderr)
    if not options.defaults and not problems:
        command = f"python -m bench.aot --out {options.out}" if options.out else TABLE.command
        report = {**header(command), "compilations": len(rows), "rows": most}
        write(report, options.out or TABLE.result_path, by_line="rows")
        if not options.out:
            TABLE.write(table(most))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
