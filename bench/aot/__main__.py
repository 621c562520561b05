"""Compile every kernel and configuration ahead of time for sm_80 and sm_90, without a GPU, and tabulate the resources.

`python -m bench.aot` compiles everything, writes bench/results/aot.json and the table in docs/measured/kernels.md; with
`--defaults float32` (or ieee, float64) it compiles the default configurations for one architecture and writes nothing;
with `--out bench/results/aot-3.6.json` it writes only that file, for another version of Triton.
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


def compile_case(case: Case) -> list[dict[str, Any]]:
    """Compile all configurations of the kernels that a case launches, for all targets."""
    torch.set_num_threads(1)
    return [
        row(launch, case, number, capability)
        for launch in distinct(launches(case))
        for number in range(len(launch.kernel.configs[launch.variant]))
        for capability in CAPABILITIES
    ]


def defaults(arithmetic: str, capability: int) -> list[dict[str, Any]]:
    """Compile the default configurations, called with tables and with fetched rows.

    In an arithmetic other than float32, only kernels with a variant for it count.
    """
    cases = [case for case in CASES if case.arithmetic == arithmetic]
    plain, fetched = (next(case for case in cases if case.staged == staged) for staged in (False, True))
    log = distinct([*launches(plain), *launches(fetched)])
    selection = [launch for launch in log if arithmetic == "float32" or launch.variant.endswith(arithmetic)]
    return [row(launch, plain, 0, capability) for launch in selection]


def main() -> int:
    """Compile, report, write."""
    parser = argparse.ArgumentParser(prog="bench.aot", description=__doc__)
    kinds = sorted({case.arithmetic for case in CASES})
    parser.add_argument("--defaults", choices=kinds, help="compile the defaults of one arithmetic; write no files")
    parser.add_argument(
        "--capability", type=int, choices=CAPABILITIES, default=CAPABILITIES[-1], help="target of --defaults"
    )
    parser.add_argument("--out", type=Path, help="write the rows to this file, and no page")
    options = parser.parse_args()
    if options.defaults:
        rows, kinds = defaults(options.defaults, options.capability), [options.defaults]
    else:
        with ProcessPoolExecutor(2) as pool:
            rows = [row for part in pool.map(compile_case, CASES) for row in part]
        kinds = [variant for kernel in KERNELS.values() for variant in kernel.configs]
    problems, largest = faults(rows, set(kinds)), worst(rows)
    print(table(largest))
    print(f"{len(rows)} compilations, {len(problems)} faults", *problems, sep="\n", file=sys.stderr)
    if not options.defaults and not problems:
        command = f"python -m bench.aot --out {options.out}" if options.out else TABLE.command
        report = {**header(command), "compilations": len(rows), "rows": largest}
        write(report, options.out or TABLE.result_path, by_line="rows")
        if not options.out:
            TABLE.write(table(largest))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
