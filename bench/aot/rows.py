"""Rows of ahead-of-time compilation, one per kernel, arithmetic, configuration and target, and their table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from bench.aot.launches import Case
from bench.tables import Table
from mspipe_triton.kernels.runtime.compiling import SHARED_LIMIT, compile_launch
from mspipe_triton.kernels.runtime.launch import KERNELS, Config, Launch

TABLE = Table("docs/measured/kernels.md", "aot.json", "make aot")
KEY = ("kernel", "arithmetic", "config", "blocks", "capability")


def row(launch: Launch, case: Case, number: int, capability: int) -> dict[str, Any]:
    """Compile a case's launch with the kernel's configuration `number` for sm_`capability`."""
    config = launch.kernel.configs[launch.variant][number]
    return {
        "kernel": launch.kernel.name, "arithmetic": launch.variant, "config": number, "blocks": describe(config),
        "capability": capability, "case": str(case), **asdict(compile_launch(launch, config, capability)),
    }  # fmt: skip


def describe(config: Config) -> str:
    """Describe a configuration in words: "u 16, k 32, 4 warps, 2 stages"."""
    blocks = " ".join(f"{name.removeprefix('BLOCK_').lower()} {size}" for name, size in config.blocks.items())
    return f"{blocks}, {config.num_warps} warps, {config.num_stages} stages".removeprefix(", ")


def worst(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Largest figures over all cases, one row per kernel, arithmetic, configuration and target.

    `case` has the largest stack, then the most registers, then the most shared memory; `cases` counts the cases.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in rows:
        groups.setdefault(tuple(each[name] for name in KEY), []).append(each)
    return [
        {
            **dict(zip(KEY, key, strict=True)),
            "case": max(group, key=lambda each: (each["stack"], each["registers"], each["shared"]))["case"],
            "cases": len(group),
            **{name: max(each[name] for each in group) for name in ("registers", "stack", "shared")},
            "matrix": " ".join(sorted({each["matrix"] for each in group} - {""})),
        }
        for key, group in sorted(groups.items())
    ]


def faults(rows: list[dict[str, Any]], kinds: set[str]) -> list[str]:
    """List the faults: a stack, too much shared memory, a kernel that no case launched."""
    excesses = [
        f"{row['kernel']} ({row['blocks']}; {row['case']}; sm_{row['capability']}): "
        f"stack {row['stack']} bytes, shared memory {row['shared']} of {SHARED_LIMIT[row['capability']]} bytes"
        for row in rows
        if row["stack"] or row["shared"] > SHARED_LIMIT[row["capability"]]
    ]
    launches = {(row["kernel"], row["arithmetic"]) for row in rows}
    expected = {(name, kind) for name, kernel in KERNELS.items() for kind in kernel.configs if kind in kinds}
    return excesses + [f"{name} was never launched in {kind}" for name, kind in sorted(expected - launches)]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of `worst` as Markdown, one line per kernel and configuration."""
    capabilities = sorted({row["capability"] for row in rows})
    headings = "".join(f" sm_{capability}: registers, stack, shared |" for capability in capabilities)
    lines = [f"| kernel | variant | configuration |{headings}", "| --- | --- | --- |" + " --- |" * len(capabilities)]
    cells: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        product = f", {row['matrix']}" if row["matrix"] else ""
        text = f"{row['registers']}, {row['stack']}, {row['shared']:,}{product}"
        cells.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(text)
    for (kernel, arithmetic, number, blocks), texts in cells.items():
        name = f"`{kernel}`" + (" (default)" if number == 0 else "")
        lines.append(f"| {name} | {arithmetic} | {blocks} | {' | '.join(texts)} |")
    return "\n".join(lines)
