"""Compile the default configurations with several versions of Triton, since machines with a GPU have different ones.

`python -m bench.aot.versions` installs each version (or those named as arguments) into a temporary folder, compiles
every default for sm_80 and sm_90 in every arithmetic, and writes bench/results/aot-versions.json and the table in
docs/measured/kernels.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.aot.launches import CASES, distinct, launches
from bench.report import ROOT, header, write
from bench.tables import Table
from mspipe_triton.kernels.runtime.compiling import CAPABILITIES, compile_launch
from mspipe_triton.kernels.runtime.launch import triton

TABLE = Table("docs/measured/kernels.md", "aot-versions.json", "python -m bench.aot.versions")
VERSIONS = ("3.5.1", "3.6.0", "3.7.1", "3.8.0")
KINDS = tuple(dict.fromkeys(case.arithmetic for case in CASES))


def compile_here(arithmetic: str) -> dict[str, Any]:
    """Compile the defaults of an arithmetic with this process's Triton, and list failures and kernels with a stack."""
    cases = [case for case in CASES if case.arithmetic == arithmetic and case.features == 172]
    compilations, failures, stacks = 0, [], []
    for launch in distinct(launch for case in cases for launch in launches(case)):
        compilations += len(CAPABILITIES)
        for capability in CAPABILITIES:
            row = {"kernel": launch.kernel.name, "arithmetic": arithmetic, "capability": capability}
            try:
                stack = compile_launch(launch, launch.kernel.configs[launch.variant][0], capability).stack
            except Exception as error:  # a compiler may raise anything
                failures.append({**row, "error": (str(error).strip().splitlines() or [""])[-1]})
            else:
                stacks += [{**row, "bytes": stack}] if stack else []
    return {
        "triton": triton.__version__, "arithmetic": arithmetic, "compilations": compilations,
        "failed": failures, "stacks": stacks,
    }  # fmt: skip


def compile_with(version: str) -> list[dict[str, Any]]:
    """Compile the defaults with another version, each arithmetic in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{folder}/site"]
        subprocess.run([*pip, f"triton=={version}"], check=True)
        path = os.pathsep.join([f"{folder}/site", str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": f"{folder}/cache"}

        def compile_there(arithmetic: str) -> dict[str, Any]:
            command = [sys.executable, "-m", "bench.aot.versions", "--here", arithmetic]
            process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
            row: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
            assert row["triton"] == version, row["triton"]
            return row

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(compile_there, KINDS))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| triton | arithmetic | compilations | failures | kernels with a stack, most bytes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        failures = sorted({f"`{each['kernel']}`" for each in row["failed"]})
        largest: dict[str, int] = {}
        for each in row["stacks"]:
            largest[each["kernel"]] = max(largest.get(each["kernel"], 0), each["bytes"])
        stacks = ", ".join(f"`{kernel}` {size}" for kernel, size in sorted(largest.items()))
        lines.append(
            f"| {row['triton']} | {row['arithmetic']} | {row['compilations']} | {', '.join(failures) or 'none'} | "
            f"{stacks or 'none'} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Compile and write the rows; exit code 1 if anything failed to compile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="versions of Triton on the package index")
    parser.add_argument("--here", choices=KINDS, help="compile one arithmetic with this process's Triton")
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(compile_here(options.here)))
        return 0
    rows = [row for version in options.versions for row in compile_with(version)]
    report = header(f"{TABLE.command} {' '.join(options.versions)}")
    report["versions"]["triton"] = list(options.versions)
    write({**report, "rows": rows}, TABLE.result_path)
    TABLE.write(table(rows))
    print(table(rows))
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
