"""Compile every kernel and configuration ahead of time for sm_80 and sm_90, without a GPU, and table what it takes.

`python -m bench.aot` compiles everything, writes bench/results/aot.json and the table in docs/kernels.md; with
`--defaults float32` (or ieee, float64) it compiles the configurations that the package starts with, for one GPU, and
writes nothing; with `--record bench/results/aot-3.6.json` it writes that file alone, for another version of Triton.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.cases import OPERATIONS, build
from bench.machine import machine
from bench.roofline import matmul_precision
from bench.scene import Shape
from bench.updater_cases import UPDATERS
from bench.variants import callee, returned, with_leaves
from mspipe_triton.kernels.compiling import CAPABILITIES, SHARED_LIMIT, compile_launch
from mspipe_triton.kernels.launch import KERNELS, Config, Launch, recording, triton

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "aot.json"
PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- table of bench/results/aot.json, written by make aot -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Case:
    """One specialisation: arithmetic "float32" (TF32), "ieee" or "float64", width of edge rows, dtype of tables.

    `staged` is as training calls: rows have been fetched before, so that tables have a row for every node or slot.
    """

    arithmetic: str
    features: int
    tables: str = ""
    staged: bool = False

    def __str__(self) -> str:
        tables = f", {self.tables} tables" if self.tables else ""
        return f"{self.arithmetic}, {self.features} features{tables}{', staged rows' * self.staged}"


CASES = [
    Case("float32", 172),
    Case("float32", 0),
    Case("float32", 413),
    Case("float32", 172, "bfloat16"),
    Case("ieee", 172),
    Case("float64", 172),
    Case("float64", 413),
    *(Case(arithmetic, 172, staged=True) for arithmetic in ("float32", "ieee", "float64")),
]
# Of the operations that take a table with or without the rows to read from it, those that training fetches before.
STAGED = {
    **{name: {"memory": "memory_rows", "partner": "partner_rows", "features": "feature_rows"} for name in UPDATERS},
    "temporal_attention": {"features": "feature_rows"},
    "attention_layer": {"features": "feature_rows"},
    "mailbox_attention": {"mails": "rows", "features": "feature_rows"},
}
# Of the operations with dropout, the draws that they take.
DRAWS = {
    "temporal_attention": ("draws",),
    "attention_layer": ("draws", "output_draws"),
    "mailbox_attention": ("draws",),
}


COUNTED = (*UPDATERS, "link_loss")  # those that may be told how many rows are real


def staged(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments with the rows of its tables in the tables' place."""
    for table, rows in STAGED[name].items():
        places = arguments[rows].clamp(min=0).view(-1)
        arguments |= {table: arguments[table].index_select(0, places), rows: None}
    return arguments


def launches(case: Case) -> Iterator[Launch]:
    """What one training iteration would launch, in all variants of the operations; nothing runs."""
    dtype = torch.float64 if case.arithmetic == "float64" else torch.float32
    tables = getattr(torch, case.tables) if case.tables else None
    shape = Shape("AOT", 200, 2000, case.features, 16)
    precision = "highest" if case.arithmetic == "ieee" else "high"
    for name, operation in OPERATIONS.items():
        if case.staged and name not in STAGED:
            continue
        variants = ["triton", "triton-split"] if name == "memory_gru" else ["triton"]
        modes = (False, True) if name in ("temporal_attention", "attention_layer") else (False,)
        for variant, deterministic, optional in product(variants, modes, (True, False)):
            arguments = build(name, shape, dtype=dtype, table_dtype=tables)
            arguments = staged(name, arguments) if case.staged else arguments
            leaves = operation.trained if tables is not None else operation.leaves
            arguments = with_leaves(arguments, tuple(key for key in leaves if key != "features"))
            arguments |= _optional(name) if optional and not (name in UPDATERS and case.staged) else {}
            torch.use_deterministic_algorithms(deterministic)
            with recording() as recorded, matmul_precision(precision):
                outputs = returned(operation, callee(operation, variant)(**arguments))
                losses = [output.sum() for output in outputs.values() if output.requires_grad]
                if losses:
                    sum(losses).backward()
            torch.use_deterministic_algorithms(False)
            yield from recorded


def _optional(name: str) -> dict[str, Any]:
    """What an operation may be given or not: draws of dropout, a count."""
    if name in DRAWS:
        return {"dropout": 0.1, **{key: torch.zeros(4, dtype=torch.int64) for key in DRAWS[name]}}
    return {"count": torch.zeros(1, dtype=torch.int64)} if name in COUNTED else {}


def distinct(recorded: Iterable[Launch]) -> Iterator[Launch]:
    """Of launches the first of each specialisation: kernel, constants, types of the arguments and which are absent."""
    seen = set()
    for launch in recorded:
        kinds = [getattr(argument, "dtype", argument is None) for argument in launch.arguments]
        key = (launch.kernel.name, str(sorted(launch.constants.items(), key=str)), str(kinds))
        if key not in seen:
            seen.add(key)
            yield launch


def compiled(case: Case) -> list[dict[str, Any]]:
    """Rows of the table for one case: all configurations of the kernels that it launches."""
    torch.set_num_threads(1)
    return [
        _row(launch, case, number, capability)
        for launch in distinct(launches(case))
        for number in range(len(launch.kernel.configs[launch.variant]))
        for capability in CAPABILITIES
    ]


def defaults(arithmetic: str, capability: int) -> list[dict[str, Any]]:
    """Rows of the configurations that the package starts with: of another arithmetic than float32 only kernels that
    treat it apart, called with tables and with fetched rows."""
    alike = [case for case in CASES if case.arithmetic == arithmetic]
    plain, fetched = (next(case for case in alike if case.staged == staged) for staged in (False, True))
    every = distinct([*launches(plain), *launches(fetched)])
    called = [launch for launch in every if arithmetic == "float32" or launch.variant.endswith(arithmetic)]
    return [_row(launch, plain, 0, capability) for launch in called]


def _row(launch: Launch, case: Case, number: int, capability: int) -> dict[str, Any]:
    config = launch.kernel.configs[launch.variant][number]
    return {
        "kernel": launch.kernel.name, "arithmetic": launch.variant, "config": number, "blocks": _text(config),
        "capability": capability, "case": str(case), **asdict(compile_launch(launch, config, capability)),
    }  # fmt: skip


def _text(config: Config) -> str:
    blocks = " ".join(f"{name.removeprefix('BLOCK_').lower()} {size}" for name, size in config.blocks.items())
    return f"{blocks}, {config.num_warps} warps, {config.num_stages} stages".removeprefix(", ")


def faults(rows: list[dict[str, Any]], kinds: set[str]) -> list[str]:
    """What breaks the rule: a stack, too much shared memory, a kernel that no case launched."""
    found = [
        f"{row['kernel']} ({row['blocks']}; {row['case']}; sm_{row['capability']}): "
        f"stack {row['stack']} bytes, shared memory {row['shared']} of {SHARED_LIMIT[row['capability']]} bytes"
        for row in rows
        if row["stack"] or row["shared"] > SHARED_LIMIT[row["capability"]]
    ]
    launched = {(row["kernel"], row["arithmetic"]) for row in rows}
    expected = {(name, kind) for name, kernel in KERNELS.items() for kind in kernel.configs if kind in kinds}
    return found + [f"{name} was never launched in {kind}" for name, kind in sorted(expected - launched)]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, one line a kernel and configuration, the most that any case takes."""
    capabilities = sorted({row["capability"] for row in rows})
    heads = "".join(f" sm_{capability}: registers, stack, shared |" for capability in capabilities)
    lines = [f"| kernel | variant | configuration |{heads}", "| --- | --- | --- |" + " --- |" * len(capabilities)]
    keys = dict.fromkeys((row["kernel"], row["arithmetic"], row["config"], row["blocks"]) for row in rows)
    for kernel, arithmetic, number, blocks in sorted(keys):
        cells = []
        for capability in capabilities:
            same = [
                row
                for row in rows
                if (row["kernel"], row["arithmetic"], row["config"], row["capability"])
                == (kernel, arithmetic, number, capability)
            ]
            most = [max(row[what] for row in same) for what in ("registers", "stack", "shared")]
            matrix = " ".join(sorted({row["matrix"] for row in same} - {""}))
            cells.append(f"{most[0]}, {most[1]}, {most[2]:,}" + (f", {matrix}" if matrix else ""))
        name = f"`{kernel}`" + (" (default)" if number == 0 else "")
        lines.append(f"| {name} | {arithmetic} | {blocks} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(page: str, begin: str, text: str, end: str) -> str:
    """The page with what stands between two marks replaced."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def written(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with its table replaced."""
    return replaced(page, BEGIN, table(rows), END)


def main() -> int:
    """Compile, report, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = sorted({case.arithmetic for case in CASES})
    parser.add_argument("--defaults", choices=kinds, help="default configurations of one arithmetic; writes no files")
    parser.add_argument("--capability", type=int, choices=CAPABILITIES, default=CAPABILITIES[-1], help="of --defaults")
    parser.add_argument("--record", type=Path, help="write the rows here, and no page")
    options = parser.parse_args()
    if options.defaults:
        rows, kinds = defaults(options.defaults, options.capability), [options.defaults]
    else:
        with ProcessPoolExecutor(2) as pool:
            rows = [row for part in pool.map(compiled, CASES) for row in part]
        kinds = [variant for kernel in KERNELS.values() for variant in kernel.configs]
    found = faults(rows, set(kinds))
    print(table(rows))
    print(f"{len(rows)} compilations, {len(found)} faults", *found, sep="\n", file=sys.stderr)
    if not options.defaults and not found:
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        command = f"python -m bench.aot --record {options.record}" if options.record else "make aot"
        document = {"command": command, "machine": machine(), "versions": versions, "rows": rows}
        (options.record or RESULT).write_text(json.dumps(document, indent=1) + "\n")
        if not options.record:
            PAGE.write_text(written(PAGE.read_text(), rows))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
