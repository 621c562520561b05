"""Compare the machine code of a TGN iteration's kernels before and after their defaults changed.

`python -m bench.aot.issue_slots` compiles the default configurations for sm_90 without a GPU, reads the machine code,
and writes bench/results/issue-slots.json and the table in docs/measured/kernels.md. `--rows FILE` writes only this
checkout's figures, to a file; `--before FILE` compares with such a file of an earlier checkout instead of the committed
figures.

The figures are floors derived from the code, not measurements: a GPU also waits for memory and barriers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.aot.launches import STAGED, fetch_rows
from bench.aot.rows import describe
from bench.cases.random_batch import WIKI
from bench.cases.registry import OPERATIONS, build
from bench.report import header, write
from bench.roofline import matmul_precision
from bench.tables import Table
from bench.variants import callee, name_outputs, with_leaves
from mspipe_triton.kernels.runtime.compiling import compile_launch, compiled
from mspipe_triton.kernels.runtime.launch import Launch, cdiv, recording, triton

TABLE = Table("docs/measured/kernels.md", "issue-slots.json", "python -m bench.aot.issue_slots")
CAPABILITY = 90
# An H200 or H100 SXM: each multiprocessor issues up to four warp instructions per cycle.
MULTIPROCESSORS, SCHEDULERS, CLOCK_HZ = 132, 4, 1.98e9
BATCHES = (600, 4000)
ROOTS = 3 * BATCHES[0]
# Kernels with one program per root, which runs from top to bottom without a loop.
BY_ROOT = ("attention_kernel", "attention_backward_kernel")
SCANS = "last_kernel"
KERNELS = (
    *BY_ROOT, "weights_backward_kernel", "attention_weights_kernel", SCANS, "fused_gru_kernel",
    "attention_query_kernel",
)  # fmt: skip
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);")


@dataclass(frozen=True)
class Instruction:
    """One line of machine code. `guarded`: a predicate may skip it; `target`: the address that it jumps to."""

    address: int
    name: str
    guarded: bool
    target: int | None

    @property
    def kind(self) -> str:
        """The name without its modifiers."""
        return self.name.split(".")[0]


def parse(listing: str) -> list[Instruction]:
    """Parse a listing of `cuobjdump -sass`."""
    instructions = []
    for address, guard, name, operands in _LINE.findall(listing):
        jump = re.search(r"0x([0-9a-f]+)\s*$", operands) if name.split(".")[0] == "BRA" else None
        target = int(jump[1], 16) if jump else None
        instructions.append(Instruction(int(address, 16), name, guard not in ("", "PT"), target))
    return instructions


def reachable(code: list[Instruction]) -> list[Instruction]:
    """Instructions that a warp may reach, in order: no padding, and no subroutines, which are slow paths here."""
    places = {each.address: place for place, each in enumerate(code)}
    visits, starts = set(), [0]
    while starts:
        place = starts.pop()
        while place < len(code) and place not in visits:
            visits.add(place)
            here = code[place]
            # BRA.DIV jumps only where the threads of a warp diverge; whole warps never take it.
            if here.target is not None and not here.name.startswith("BRA.DIV"):
                starts.append(places[here.target])
            if here.kind in ("EXIT", "BRA", "RET") and not here.guarded and not here.name.startswith("BRA.DIV"):
                break
            place += 1
    return [code[place] for place in sorted(visits)]


def count(code: list[Instruction]) -> dict[str, int]:
    """Count a warp's instructions, loops, barriers, shuffles, calls, and asynchronous copies by bytes."""
    kinds = Counter(each.kind for each in code)
    copies = Counter(16 if "128" in each.name else 8 if ".64" in each.name else 4 for each in code if _copies(each))
    return {
        "instructions": len(code),
        "loops": sum(each.target is not None and each.target <= each.address for each in code),
        "barriers": kinds["BAR"],
        "shuffles": kinds["SHFL"],
        "calls": kinds["CALL"],
        **{f"copies_{size}": copies[size] for size in (4, 8, 16)},
    }


def _copies(instruction: Instruction) -> bool:
    return instruction.kind == "LDGSTS"


def floor_us(instructions: int, warps: int, programs: int) -> float:
    """Microseconds that a GPU's schedulers need to issue the instructions of all warps."""
    return instructions * warps * programs / (MULTIPROCESSORS * SCHEDULERS * CLOCK_HZ) * 1e6


def listing(cubin: bytes) -> str:
    """Disassemble a kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout


def launches() -> dict[str, Launch]:
    """Launches of a TGN iteration at WIKI's sizes, by kernel, with products in TF32; nothing runs."""
    by_kernel: dict[str, Launch] = {}
    for name in ("memory_gru", "attention_layer", "aggregate_messages"):
        operation, arguments = OPERATIONS[name], build(name, WIKI[1])
        arguments = fetch_rows(name, arguments) if name in STAGED else arguments
        with recording() as log, matmul_precision("high"):
            outputs = name_outputs(operation, callee(operation, "triton")(**with_leaves(arguments, operation.trained)))
            losses = [output.sum() for output in outputs.values() if output.requires_grad]
            if losses:
                sum(losses).backward()
        by_kernel |= {launch.kernel.name: launch for launch in log}
    return by_kernel


def figures(launch: Launch) -> dict[str, Any]:
    """Figures of a launch's default configuration."""
    name, config = launch.kernel.name, launch.kernel.configs["float32"][0]
    resources = compile_launch(launch, config, CAPABILITY)
    counts = count(reachable(parse(listing(compiled(launch, config, CAPABILITY).asm["cubin"]))))
    row = {
        "configuration": describe(config), "registers": resources.registers, "stack": resources.stack,
        "matrix": resources.matrix, **counts,
    }  # fmt: skip
    if name in BY_ROOT:
        assert not counts["loops"], f"{name} has a loop; its floor would need the number of rounds"
        row["floor_us"] = round(floor_us(counts["instructions"], config.num_warps, ROOTS), 2)
    if name == SCANS:
        row["rounds"] = {str(batch): cdiv(batch, config["CHUNK"]) for batch in BATCHES}
    return row


def table(kernels: dict[str, dict[str, Any]]) -> str:
    """Comparison as Markdown: before → after."""
    lines = [
        "| kernel | configuration | registers | instructions per warp | barriers, shuffles | "
        "copies of 4, 8, 16 bytes | product | issue-slot floor, µs | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, sides in kernels.items():
        cells = [_cells(sides[side]) for side in ("before", "after")]
        both = [old if old == new else f"{old} → {new}" for old, new in zip(*cells, strict=True)]
        lines.append(f"| `{name}` | {' | '.join(both)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    copies = [row[f"copies_{size}"] for size in (4, 8, 16)]
    return [
        row["configuration"], str(row["registers"]), f"{row['instructions']:,}",
        f"{row['barriers']}, {row['shuffles']}",
        ", ".join(map(str, copies)) if any(copies) else "–", row["matrix"] or "–",
        f"{row['floor_us']:.1f}" if "floor_us" in row else "–",
        ", ".join(map(str, row["rounds"].values())) if "rounds" in row else "–",
    ]  # fmt: skip


def main() -> int:
    """Compile, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="write only this checkout's figures, to this file")
    parser.add_argument(
        "--before", type=Path, default=TABLE.result_path, help="file that --rows wrote in an earlier checkout"
    )
    options = parser.parse_args()
    by_kernel = launches()
    after = {name: figures(by_kernel[name]) for name in KERNELS}
    if options.rows:
        options.rows.write_text(json.dumps({name: {"before": row} for name, row in after.items()}, indent=1) + "\n")
        return 0
    sides = json.loads(options.before.read_text())
    before = sides["kernels"] if options.before == TABLE.result_path else sides
    document = {
        **header(TABLE.command),
        "assumed": {
            "capability": CAPABILITY, "multiprocessors": MULTIPROCESSORS, "schedulers": SCHEDULERS,
            "clock_hz": CLOCK_HZ, "roots": ROOTS, "measured_on_a_gpu": False,
        },
        "kernels": {name: {"before": before[name]["before"], "after": row} for name, row in after.items()},
    }  # fmt: skip
    write(document, TABLE.result_path)
    TABLE.write(table(document["kernels"]))
    print(table(document["kernels"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
